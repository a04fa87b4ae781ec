"""The description of a prepared folder counts each source by itself, and has room for any number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from receptance.data import prepare, read_description


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
