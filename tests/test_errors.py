"""Errors: what they quote from a file harms no terminal and fills no screen."""

from __future__ import annotations

import pickle

import pytest

from receptance import errors
from receptance.errors import CheckpointError, ReceptanceError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_keeps_a_plain_text_as_it_is(kind: type[ReceptanceError]) -> None:
    text = "a.pth: 'emb.weight' is (3, 4), naïve 日本語 …\nand a second line"
    assert str(kind(text)) == text
    assert str(pickle.loads(pickle.dumps(kind(text)))) == text


def test_what_commands_a_terminal_is_written_as_an_escape() -> None:
    text = str(CheckpointError("a\x1b[2J\r\x00\x9b\u202e\ud800b.pth: no such file"))
    assert text == "a\\x1b[2J\\r\\x00\\x9b\\u202e\\ud800b.pth: no such file"


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    text = str(CheckpointError("a.pth: " + "x" * 1_000_000 + " is missing."))
    assert len(text) <= errors.LONGEST_TEXT
    assert text.startswith("a.pth: xxx")
    assert text.endswith("xxx is missing.")


def test_escapes_do_not_make_a_text_too_long() -> None:
    assert len(str(CheckpointError("\x1b" * 1_000_000))) <= errors.LONGEST_TEXT
