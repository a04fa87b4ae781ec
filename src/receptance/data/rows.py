"""One row of JSON lines or of a table as a document: a plain text, a conversation, or an instruction.

What a row is follows from its fields:

    text                             a plain text; the field may have another name
    messages, conversations          a list of {role, content} or, as ShareGPT has it, {from, value}
    instruction [input], output      Alpaca's; also prompt and completion or response, question and answer;
                                     system beside them
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from receptance.data.document import Document
from receptance.errors import DataError
from receptance.tokenizers.conversation import ROLES, TOOL_CALL, Turn, render

CONVERSATIONS = ("messages", "conversations", "conversation")
ROLE_AND_CONTENT = (("role", "content"), ("from", "value"))
PAIRS = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
)
MORE_OF_THE_PROMPT = ("input", "context")
SYSTEM = "system"
FIELDS = (
    *CONVERSATIONS,
    *dict.fromkeys(name for pair in PAIRS for name in pair),
    *MORE_OF_THE_PROMPT,
    SYSTEM,
)

Row = Mapping[str, Any]


def document_of(row: object, text_field: str, origin: str) -> Document:
    """Return the document of a row. Raises DataError, naming `origin`, for a row that is none of these."""
    if not isinstance(row, Mapping):
        raise DataError(
            f"{origin}: this is {_kind(row)}, but an object is needed, such as {{{json.dumps(text_field)}: "
            '"…"}.'
        )
    if text_field in row:
        return Document.plain(_text(row, text_field, origin))
    for name in CONVERSATIONS:
        if name in row:
            return Document(render(_turns(row[name], f"{origin}: {name}")))
    for prompt, answer in PAIRS:
        if prompt in row and answer in row:
            return Document(render(_pair(row, prompt, answer, origin)))
    fields = ", ".join(repr(str(name)[:40]) for name in list(row)[:20]) or "none"
    raise DataError(
        f"{origin}: this object has no field {text_field!r}; its fields: {fields}. Name the one that holds "
        "the text (--text-field); conversations are read from 'messages', instructions from 'instruction' "
        "and 'output', 'prompt' and 'completion' or 'question' and 'answer'."
    )


def _kind(value: object) -> str:
    """Say what a value is in the words of JSON; tables hold other things too."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    kinds = ((str, "a text"), ((int, float), "a number"), (Mapping, "an object"), (Sequence, "a list"))
    return next((name for kind, name in kinds if isinstance(value, kind)), f"a {type(value).__name__}")


def _text(row: Row, field: str, origin: str) -> str:
    value = row[field]
    if not isinstance(value, str):
        raise DataError(
            f"{origin}: the field {field!r} is {_kind(value)}, but text is needed. Correct the row, or "
            "take it out."
        )
    return value


def _pair(row: Row, prompt: str, answer: str, origin: str) -> list[Turn]:
    parts = [_text(row, prompt, origin)]
    parts += [_text(row, name, origin) for name in MORE_OF_THE_PROMPT if row.get(name)]
    system = [Turn("system", _text(row, SYSTEM, origin))] if row.get(SYSTEM) else []
    return [*system, Turn("user", "\n".join(parts)), Turn("assistant", _text(row, answer, origin))]


def _turns(messages: object, origin: str) -> list[Turn]:
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise DataError(f"{origin} is {_kind(messages)}, but a list of messages is needed.")
    return [_turn(message, f"{origin}[{index}]") for index, message in enumerate(messages)]


def _turn(message: object, origin: str) -> Turn:
    if not isinstance(message, Mapping):
        raise DataError(f"{origin} is {_kind(message)}, but an object with a role is needed.")
    role_field, content_field = next((pair for pair in ROLE_AND_CONTENT if pair[0] in message), ("", ""))
    if not role_field:
        raise DataError(f"{origin} has neither a role and content nor a from and value.")
    role = message[role_field]
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise DataError(
            f"{origin}: {role_field} is {str(role)[:40]!r}, but it must be one of {', '.join(ROLES)}."
        )
    if message.get("tool_calls"):
        raise DataError(
            f"{origin} has tool_calls, which this version does not read. Write each as a message of its own, "
            f"with the role {TOOL_CALL!r} and the call as the text."
        )
    if content_field not in message:
        raise DataError(f"{origin} has no {content_field!r}.")
    return Turn(ROLES[role.lower()], _text(message, content_field, origin))
