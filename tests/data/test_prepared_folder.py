"""The description of a prepared folder counts each source by itself, and has room for any number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import receptance
from receptance.data import prepare, read_description
from receptance.data.prepared_folder import new_folder
from receptance.errors import ConfigError


def write_lines(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_each_source_is_counted_by_itself_and_their_sums_are_those_of_the_splits(tmp_path: Path) -> None:
    texts = {"a": ["one", "two", "two", "longest of all"], "b": ["one", "three"], "c": ["four"] * 2}
    sources = [write_lines(tmp_path / f"{name}.jsonl", rows) for name, rows in texts.items()]
    description = prepare(
        sources,
        tmp_path / "out",
        tokenizer="bytes",
        weights=[1, 1, 3],
        deduplicate=True,
        validation_fraction=0,
    )
    assert description == read_description(tmp_path / "out")
    assert [Path(source.name).stem for source in description.sources] == ["a", "b", "c"]
    assert [source.weight for source in description.sources] == [1, 1, 3]
    kept = [["one", "two", "longest of all"], ["three"], ["four"] * 3]  # one token a byte, and the end
    assert [source.documents for source in description.sources] == [len(rows) for rows in kept]
    assert [source.tokens for source in description.sources] == [
        sum(len(r) + 1 for r in rows) for rows in kept
    ]
    assert [source.bytes_of_text for source in description.sources] == [sum(map(len, rows)) for rows in kept]
    assert [source.longest_document for source in description.sources] == [15, 6, 5]
    assert [source.duplicates for source in description.sources] == [1, 1, 1]
    train = description.splits["train"]
    assert sum(source.documents for source in description.sources) == train.documents
    assert sum(source.tokens for source in description.sources) == train.tokens
    assert sum(source.duplicates for source in description.sources) == description.duplicates
    written = json.loads((tmp_path / "out" / "data.json").read_text())
    assert written["sources"][1]["bytes_per_token"] == round(5 / 6, 6)


def test_the_tail_of_many_sources_is_one_entry(tmp_path: Path) -> None:
    sources = [write_lines(tmp_path / f"{i}.jsonl", [f"text {i}"]) for i in range(60)]
    description = prepare(sources, tmp_path / "out", tokenizer="bytes")
    *listed, others = description.sources
    assert others.name == f"… and {60 - len(listed)} more"
    assert others.weight is None
    assert 0 < others.documents == 60 - len(listed)
    splits = description.splits.values()
    assert sum(source.tokens for source in description.sources) == sum(split.tokens for split in splits)


FULL_DISK = """
import resource, sys
from receptance.data import prepare, shards, unpacking
from receptance.errors import DataError
unpacking.CHUNK_BYTES = shards.SHARD_BYTES = 10_000
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
try:
    prepare(sys.argv[1], sys.argv[2], tokenizer="bytes")
except DataError as error:
    print(error)
"""


@pytest.mark.parametrize("size", [5_000, 60_000], ids=["while tokenising", "while joining"])
def test_a_full_disk_says_so_and_what_is_done_is_kept(tmp_path: Path, size: int) -> None:
    pytest.importorskip("resource")
    texts = [f"document {i} " + "x" * 90 for i in range(400)]
    source = write_lines(tmp_path / "a.jsonl", texts)
    out = tmp_path / "out"
    environment = os.environ | {"PYTHONPATH": str(Path(receptance.__file__).parents[1])}
    command = [sys.executable, "-c", FULL_DISK, str(source), str(out), str(size)]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert told.startswith(f"{out}: cannot be written: File too large.")
    assert "Make room" in told
    left = {path.suffix for path in out.rglob("*") if path.is_file()} if out.exists() else set()
    assert left == (set() if size < 10_000 else {".safetensors"})
    assert prepare(source, out, tokenizer="bytes").splits["train"].documents > 300


def test_what_a_killed_process_left_half_written_is_removed_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".train.bin.0123abcd.tmp").write_bytes(b"half of it")
    (out / ".notes").touch()
    prepare(write_lines(tmp_path / "a.jsonl", ["one"]), out, tokenizer="bytes", validation_fraction=0)
    assert {path.name for path in out.iterdir()} == {".notes", "data.json", "train.bin", "train.idx"}


def test_a_folder_is_prepared_by_one_process_at_a_time(tmp_path: Path) -> None:
    source, out = write_lines(tmp_path / "a.jsonl", ["one"]), tmp_path / "out"
    with (
        new_folder(out, overwrite=False),
        pytest.raises(ConfigError, match="another process is preparing data here"),
    ):
        prepare(source, out, tokenizer="bytes", validation_fraction=0)
    assert out.is_dir()
    prepare(source, out, tokenizer="bytes", validation_fraction=0)
