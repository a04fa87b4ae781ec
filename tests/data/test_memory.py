from __future__ import annotations

from pathlib import Path

import pytest

from receptance.data import memory
from receptance.data.memory import ROOM_A_BYTE, longest_document_bytes


def test_a_document_may_take_the_memory_that_is_free_or_that_a_container_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "LIMIT", tmp_path / "memory.max")
    (tmp_path / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable:  8000000 kB\n")
    assert longest_document_bytes() == 8_000_000 * 1024 // ROOM_A_BYTE
    (tmp_path / "memory.max").write_text("max\n")
    assert longest_document_bytes() == 8_000_000 * 1024 // ROOM_A_BYTE
    (tmp_path / "memory.max").write_text("1000000000\n")
    assert longest_document_bytes() == 1_000_000_000 // ROOM_A_BYTE


def test_where_nothing_is_known_something_is_assumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MEMORY", tmp_path / "none")
    monkeypatch.setattr(memory, "LIMIT", tmp_path / "none")
    assert longest_document_bytes() > 2**20
