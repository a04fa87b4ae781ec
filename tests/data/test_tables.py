"""Tables are read as the rows that were put into them, by other programs' own writers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from receptance.data import prepare, tables
from receptance.data.sources import Sources
from receptance.errors import DataError

ROWS: list[dict[str, Any]] = [
    {"id": i, "text": f"row {i} " + "ä" * (i % 40), "vector": [0.5] * 20} for i in range(500)
]
CHATS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": f"{i}!"}]}
    for i in range(50)
]


def texts_of(source: str | Path) -> list[str]:
    return [document.text for document in Sources([source])]


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    table = pyarrow.Table.from_pylist(ROWS)
    pytest.importorskip("pyarrow.parquet").write_table(table, path, row_group_size=120)
    return path


@pytest.mark.parametrize("size", [2**27, 1500])
def test_a_parquet_file_gives_its_rows_in_order_in_parts_of_any_size(
    parquet: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(tables, "BYTES_A_CHUNK", size)
    assert texts_of(parquet) == [row["text"] for row in ROWS]
    chunks = [chunk for _, chunk in Sources([parquet]).chunks()]
    assert sum(chunk.size for chunk in chunks) == parquet.stat().st_size
    assert chunks[0].first == 1
    assert len(chunks) == 5 if size > 2000 else len(chunks) > 5


def test_a_table_is_prepared_like_the_same_rows_in_json(parquet: Path, tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for source, out in ((parquet, "parquet"), (lines, "lines")):
        prepare(source, tmp_path / out, tokenizer="bytes", processes=1)
    for name in ("train.bin", "train.idx", "validation.bin"):
        assert (tmp_path / "parquet" / name).read_bytes() == (tmp_path / "lines" / name).read_bytes()


def test_conversations_in_parquet_are_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(CHATS), path)
    assert texts_of(path) == [f"User: {i}?\n\nAssistant: {i}!" for i in range(50)]


def test_a_table_without_text_names_its_columns(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist([{"body": "x"}]), path)
    with pytest.raises(DataError, match=r"a\.parquet: row 1: .* its fields: 'body'"):
        texts_of(path)


@pytest.mark.parametrize("damage", ["cut off", "no table", "bytes", "empty"])
def test_a_damaged_parquet_file_is_named(parquet: Path, damage: str) -> None:
    content = bytearray(parquet.read_bytes())
    if damage == "cut off":
        del content[len(content) // 2 :]
    elif damage == "no table":
        content = bytearray(b"plain text")
    elif damage == "empty":
        content = bytearray()
    else:
        content[4 : len(content) // 2] = b"\xff" * (len(content) // 2 - 4)
    parquet.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet: "):
        texts_of(parquet)


def test_no_wrong_byte_in_the_footer_of_a_parquet_file_ends_the_process(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), tmp_path / "a.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(
        pyarrow.Table.from_pylist([{"text": "a"}] * 3), parquet
    )
    content = parquet.read_bytes()
    begin = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    refused = 0
    for place in range(begin, len(content) - 8):
        for bit in (1, 4, 64):  # asked for the size of a column, pyarrow 26 does at some
            parquet.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
            try:
                texts_of(parquet)
            except DataError:
                refused += 1
    assert refused > 100


def test_datasets_on_the_disk_are_read_by_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(tables, "ROWS_A_CHUNK", 70)
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()
    both = datasets.DatasetDict(
        train=datasets.Dataset.from_list(ROWS), test=datasets.Dataset.from_list(CHATS)
    )
    both.save_to_disk("saved")
    both["train"].save_to_disk("one")
    assert texts_of("hf:./saved") == texts_of("hf:./one") == [row["text"] for row in ROWS]
    assert texts_of("hf:saved@test") == [f"User: {i}?\n\nAssistant: {i}!" for i in range(50)]
    with pytest.raises(DataError, match="hf:saved@dev: cannot be opened as a dataset"):
        texts_of("hf:saved@dev")


def test_without_the_package_the_extra_is_named(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(tables.importlib, "import_module", absent)
    with pytest.raises(DataError, match=r'a\.parquet: .* pip install "receptance\[parquet\]"'):
        texts_of(parquet)
    with pytest.raises(DataError, match=r'hf:some/thing: .* pip install "receptance\[datasets\]"'):
        texts_of("hf:some/thing")
