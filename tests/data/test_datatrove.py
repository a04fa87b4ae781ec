"""What datatrove's executors make in any number of tasks is what one process makes, to the byte."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from receptance.data import prepare, shards, unpacking
from receptance.data.datatrove import Preparation
from receptance.errors import ConfigError, DataError

executors = pytest.importorskip("datatrove.executor")
readers = pytest.importorskip("datatrove.pipeline.readers.parquet")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def texts(begin: int, end: int) -> list[str]:
    return [f"document {i % 350}, " + "word ä " * (i % 9) for i in range(begin, end)]


def lines_of(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Sources of every kind, some texts of which come again."""
    folder = tmp_path / "corpus"
    (folder / "books").mkdir(parents=True)
    (folder / "a.jsonl").write_bytes(lines_of({"text": text} for text in texts(0, 300)))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines_of({"text": t} for t in texts(200, 260))))
    (folder / "books" / "c.txt").write_text("One book.\n" * 300)
    (folder / "books" / "empty.txt").write_text("")
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    (folder / "chats.jsonl").write_bytes(lines_of({"messages": turns * (i + 1)} for i in range(20)))
    table = pyarrow.Table.from_pylist([{"text": text} for text in texts(250, 400)])
    parquet.write_table(table, folder / "d.parquet", row_group_size=40)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let little text be in a chunk and in a shard, so that tasks share out files."""
    monkeypatch.setattr(unpacking, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(shards, "SHARD_BYTES", 3000)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(steps: Sequence[Callable[..., Any]], logs: Path, tasks: int = 1, workers: int = 1) -> None:
    executors.LocalPipelineExecutor(list(steps), tasks=tasks, workers=workers, logging_dir=str(logs)).run()


@pytest.mark.parametrize(("tasks", "workers"), [(1, 1), (3, 2), (40, 1)])
def test_tasks_make_what_one_process_makes(tmp_path: Path, corpus: Path, tasks: int, workers: int) -> None:
    prepare(corpus, tmp_path / "one", tokenizer="bytes", deduplicate=True, validation_fraction=0.05)
    preparation = Preparation(
        sources=corpus,
        output=tmp_path / "out",
        tokenizer="bytes",
        deduplicate=True,
        validation_fraction=0.05,
    )
    run([preparation.tokenise], tmp_path / "logs", tasks, workers)
    run([preparation.join], tmp_path / "logs-of-join")
    assert files(tmp_path / "out") == files(tmp_path / "one")


def test_documents_of_a_datatrove_reader_are_those_of_ours(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    for number in range(3):
        rows = [{"text": text} for text in texts(90 * number, 90 * number + 100)]
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{number}.parquet")
    prepare(folder, tmp_path / "one", tokenizer="bytes")
    preparation = Preparation(output=tmp_path / "out", tokenizer="bytes")
    run([readers.ParquetReader(str(folder)), preparation.tokenise], tmp_path / "logs", tasks=3)
    run([preparation.join], tmp_path / "logs-of-join")
    for name in ("train.bin", "train.idx", "validation.bin", "validation.idx"):
        assert files(tmp_path / "out")[name] == files(tmp_path / "one")[name]


def test_weights_repeat_the_documents_of_their_source(tmp_path: Path, corpus: Path) -> None:
    sources, weights = [corpus / "a.jsonl", corpus / "b.jsonl.gz"], [1, 2.5]
    one = prepare(sources, tmp_path / "one", tokenizer="bytes", weights=weights)
    preparation = Preparation(sources=sources, output=tmp_path / "out", tokenizer="bytes", weights=weights)
    for rank in range(4):
        preparation.tokenise(None, rank, 4)
    preparation.join()
    described = json.loads((tmp_path / "out" / "data.json").read_text())
    assert [source["documents"] for source in described["sources"]] == [s.documents for s in one.sources]
    assert described == json.loads((tmp_path / "one" / "data.json").read_text())


def test_a_task_goes_on_with_the_shards_that_it_had_finished(tmp_path: Path, corpus: Path) -> None:
    preparation = Preparation(sources=corpus, output=tmp_path / "out", tokenizer="bytes")
    for rank in range(2):
        preparation.tokenise(None, rank, 2)
    folder = tmp_path / "out" / ".shards" / "00000-of-00002"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    lost, *kept = sorted(before)
    assert kept
    lost.unlink()
    (folder / "done.json").unlink()
    with pytest.raises(DataError, match="of 2 tasks that tokenise, 1 have not finished: 0"):
        preparation.join()
    preparation.tokenise(None, 0, 2)
    assert {path: path.stat().st_mtime_ns for path in kept} == {path: before[path] for path in kept}
    preparation.join()
    prepare(corpus, tmp_path / "one", tokenizer="bytes")
    assert files(tmp_path / "out") == files(tmp_path / "one")


def test_work_that_does_not_belong_together_is_not_joined(tmp_path: Path, corpus: Path) -> None:
    out = tmp_path / "out"
    preparation = Preparation(sources=corpus, output=out, tokenizer="bytes")
    with pytest.raises(DataError, match=r"\.shards holds nothing.*Run that step first"):
        preparation.join()
    preparation.tokenise(None, 0, 1)
    with pytest.raises(DataError, match=r"00000-of-00001: this task had .* another tokenizer"):
        Preparation(sources=corpus, output=out, tokenizer="world").join()
    (corpus / "e.txt").write_text("a text that the task did not know of")
    with pytest.raises(DataError, match="this task had other sources"):
        preparation.join()
    preparation.tokenise(None, 1, 2)
    with pytest.raises(DataError, match=r"holds works of 1 and of 2 tasks.*Remove"):
        preparation.join()
    shutil.rmtree(out / ".shards" / "00000-of-00001")
    preparation.tokenise(None, 0, 2)
    preparation.join()
    with pytest.raises(DataError, match="is not empty"):
        preparation.tokenise(None, 0, 2)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"weights": [1, 2]}, "2 weights for 1 sources"),
        ({"validation_fraction": 1}, "validation_fraction is 1"),
        ({"errors": "ignore"}, "errors is 'ignore'"),
        ({"tokenizer": "bpe:4096"}, "Learn it from a part of the texts"),
        ({"sources": "-"}, "standard input, has no shares"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_a_task_begins(
    options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Preparation(**{"sources": "corpus", "output": "out", **options})


def test_texts_come_from_one_side_only(tmp_path: Path, corpus: Path) -> None:
    both = Preparation(sources=corpus, output=tmp_path / "out")
    with pytest.raises(ConfigError, match="either from `sources`"):
        both.tokenise(iter([]), 0, 1)
    with pytest.raises(ConfigError, match="either from `sources`"):
        Preparation(output=tmp_path / "out").tokenise(None, 0, 1)
