from __future__ import annotations

from pathlib import Path

import pytest

from receptance.data import memory
from receptance.data.memory import ROOM_A_BYTE, available_bytes, free_bytes, longest_document_bytes

FREE = 8_000_000 * 1024


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a system of whose memory FREE is free."""
    monkeypatch.setattr(memory, "SYSTEM", tmp_path)
    write(tmp_path / "proc/meminfo", "MemTotal: 9000000 kB\nMemAvailable:  8000000 kB\nSwapFree: 1000 kB\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_document_may_take_the_memory_that_is_free(system: Path) -> None:
    assert longest_document_bytes() == FREE // ROOM_A_BYTE
    assert free_bytes(with_swap=True) == FREE + 1000 * 1024


@pytest.mark.parametrize(
    ("group", "files"),
    [
        ("0::/", {"memory.max": "3000000000", "memory.stat": "file 5\nanon_thp 6\nanon 1000000000\n"}),
        ("0::/user/job", {"user/memory.max": "2000000000", "user/job/memory.max": "max"}),
        ("0::/", {"memory.max": "2000000000"}),
        ("1:cpu,memory:/of/the/host\n0::/", {"memory/memory.limit_in_bytes": "2000000000"}),
        (
            "4:memory:/job",
            {
                "memory/job/memory.limit_in_bytes": "2500000000",
                "memory/job/memory.stat": "total_rss 500000000",
            },
        ),
    ],
)
def test_a_container_or_a_job_may_allow_less(system: Path, group: str, files: dict[str, str]) -> None:
    write(system / "proc/self/cgroup", f"9:freezer:/\n{group}\n")
    for name, text in files.items():
        write(system / "sys/fs/cgroup" / name, text)
    assert free_bytes() == available_bytes() == 2_000_000_000


def test_a_container_that_sets_no_limit_or_is_full_is_understood(system: Path) -> None:
    write(system / "proc/self/cgroup", "0::/\n")
    write(system / "sys/fs/cgroup/memory.max", "max\n")
    assert free_bytes() == FREE
    write(system / "sys/fs/cgroup/memory.max", "1000\n")
    write(system / "sys/fs/cgroup/memory.stat", "anon 2000\n")
    assert free_bytes() == 0


def test_where_nothing_is_known_something_is_assumed(system: Path) -> None:
    (system / "proc/meminfo").unlink()
    assert free_bytes() is None
    assert longest_document_bytes() > 2**20
