"""Turns of a conversation as the text that World models are trained on, and what of it a model is to learn.

    System: You are brief.

    User: Hi!

    Assistant: Hello.

A blank line ends a turn, so runs of line breaks inside one become a single break. What the assistant says
is learnt, from the space before it to the blank line after it; all else is only read. A tool call is an
answer in a fence of JSON, and what the tool returns is a turn of the user (templates of RWKV-7 G1).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

ASSISTANT = "assistant"
TOOL_CALL = "tool_call"
ANSWER = "Assistant:"  # what a model is asked to go on after
END_OF_TURN = "\n\n"

# What other formats (ShareGPT, OpenAI, LLaMA-Factory) call the same.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": ASSISTANT,
    "gpt": ASSISTANT,
    "bot": ASSISTANT,
    "model": ASSISTANT,
    "tool_call": TOOL_CALL,
    "function_call": TOOL_CALL,
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}


@dataclass(frozen=True)
class Turn:
    """What one side says."""

    role: str  # one of the values of ROLES
    content: str


@dataclass(frozen=True)
class Span:
    """Part of a text that is learnt, or only read; a tokenizer is given each by itself."""

    text: str
    is_learnt: bool


def render(turns: Sequence[Turn]) -> tuple[Span, ...]:
    """Return the text of a conversation in spans of alternating kind; joined, they are the whole text.

    Spans end where a model is asked to go on, so training and inference meet the same tokens there.
    """
    spans: list[Span] = []
    for index, turn in enumerate(turns):
        end = END_OF_TURN if index + 1 < len(turns) else ""
        content = tidy(turn.content)
        if turn.role in (ASSISTANT, TOOL_CALL):
            answer = tidy(f"```json\n{content}\n```") if turn.role == TOOL_CALL else content
            _add(spans, ANSWER, is_learnt=False)
            _add(spans, f" {answer}".rstrip() + end, is_learnt=True)
        else:
            name = "User: Function output:\n" if turn.role == "tool" else f"{turn.role.capitalize()}: "
            _add(spans, (name + content).rstrip() + end, is_learnt=False)
    return tuple(spans)


def tidy(content: str) -> str:
    """Return what a turn says without blank lines, which would end it, and without space around it."""
    return re.sub(r"\n\s*\n", "\n", content.replace("\r\n", "\n")).strip()


def _add(spans: list[Span], text: str, *, is_learnt: bool) -> None:
    if spans and spans[-1].is_learnt == is_learnt:
        spans[-1] = Span(spans[-1].text + text, is_learnt)
    elif text:
        spans.append(Span(text, is_learnt))
