"""Rows of the known kinds become documents, and others an error that names what is wrong."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from receptance.data.rows import document_of
from receptance.errors import DataError

CHAT = "User: Hi\n\nAssistant: Yes"


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"text": "a text", "messages": []}, "a text"),
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]}, CHAT),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]}, CHAT),
        ({"instruction": "Hi", "input": "", "output": "Yes"}, CHAT),
        ({"prompt": "Hi", "completion": "Yes"}, CHAT),
        ({"prompt": "Hi", "response": "Yes", "context": None}, CHAT),
        ({"question": "Hi", "answer": "Yes", "system": "Be kind."}, f"System: Be kind.\n\n{CHAT}"),
        (
            {"instruction": "Add.", "input": "1 + 1", "output": "2"},
            "User: Add.\n1 + 1\n\nAssistant: 2",
        ),
    ],
)
def test_the_fields_say_what_a_row_is(row: object, text: str) -> None:
    assert document_of(row, "text", "here").text == text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (1, "here: this is a number, but an object"),
        ({"a": 1}, r"here: this object has no field 'text'; its fields: 'a'\. .*'messages'"),
        ({"text": 1}, "here: the field 'text' is a number"),
        ({"messages": "Hi"}, "here: messages is a text, but a list"),
        ({"messages": ["Hi"]}, r"here: messages\[0\] is a text, but an object"),
        ({"messages": [{"content": "Hi"}]}, r"here: messages\[0\] has neither a role"),
        ({"messages": [{"role": "pope", "content": "Hi"}]}, r"\[0\]: role is 'pope', but it must be one of"),
        ({"messages": [{"role": "user"}]}, r"here: messages\[0\] has no 'content'"),
        ({"messages": [{"role": "user", "content": [1]}]}, "field 'content' is a list"),
        ({"messages": [{"role": "assistant", "tool_calls": [1]}]}, "has tool_calls, which"),
        ({"prompt": None, "completion": "Yes"}, "field 'prompt' is null"),
    ],
)
def test_a_row_that_is_none_says_where_and_why(row: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        document_of(row, "text", "here")


@pytest.mark.parametrize("name", ["alpaca-en", "alpaca-zh", "codegen", "math-words", "roleplay"])
def test_published_conversations_are_read_and_their_answers_learnt(shared: Path, name: str) -> None:
    path = shared / "data" / "instruct" / f"{name}.valid.jsonl.xz"
    with lzma.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    for row in rows:
        document = document_of(row, "text", name)
        answers = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
        learnt = [span.text for span in document.spans if span.is_learnt]
        squeezed = ["".join(text.split()) for text in learnt]
        assert squeezed == ["".join(answer.split()) for answer in answers]


def test_tool_calls_are_read(shared: Path) -> None:
    with lzma.open(shared / "data/instruct/toolcall-en.train.jsonl.xz", "rt", encoding="utf-8") as file:
        documents = [document_of(json.loads(line), "text", "tools") for line in file]
    assert any(" ```json\n{" in span.text for document in documents for span in document.spans)
    assert any("User: Function output:\n" in document.text for document in documents)
