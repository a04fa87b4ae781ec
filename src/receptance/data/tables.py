"""Rows of tables: Parquet files, and datasets of the Hugging Face hub or in its format on the disk.

Both need a package that is not always there: pyarrow (`pip install "receptance[parquet]"`) and datasets
(`pip install "receptance[datasets]"`), of which version 4 and later execute no code of a dataset.

    data/part-0.parquet                     a file
    hf:ORG/NAME                             a dataset, its split "train"
    hf:ORG/NAME:SUBSET@SPLIT                another part of it
    hf:./folder                             one that `save_to_disk` wrote, or a folder of files
"""

from __future__ import annotations

import functools
import importlib
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from receptance.data.archive import Archive, member_of
from receptance.data.rows import FIELDS
from receptance.data.unpacking import UNPACKED_BYTES, UNPACKED_RATIO, Limit, named, whole
from receptance.errors import DataError

PARQUET = ".parquet"
DATASET = "hf:"
ROWS_AT_ONCE = 1000
ROWS_A_CHUNK = 10_000  # of a dataset
BYTES_A_CHUNK = 2**27  # of a Parquet file, unpacked
PARQUET_ERRORS = (OSError, ValueError, KeyError, IndexError, TypeError, NotImplementedError)  # of pyarrow


def is_table(path: str) -> bool:
    """Whether a source is a table."""
    return path.startswith(DATASET) or Path(path).suffix.lower() == PARQUET


def parts_of(path: str) -> Iterator[tuple[int, int]]:
    """Yield (first row from 0, number of rows) of parts of a table that can be read by themselves.

    Raises DataError where it cannot be read, or the package for it is missing.
    """
    if path.startswith(DATASET):
        count = len(_dataset(path))
        for first in range(0, count, ROWS_A_CHUNK):
            yield first, min(ROWS_A_CHUNK, count - first)
        return
    yield from ((first, rows) for first, rows, _, _ in _parquet_parts(_parquet(path), path))


def version_of(path: str) -> str:
    """Return what changes when the table does."""
    if path.startswith(DATASET):
        return str(_dataset(path)._fingerprint)
    if member := member_of(path):
        with Archive(member[0]) as archive:
            return archive.version(member[1])
    status = Path(path).stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def size_of(path: str) -> int:
    """Return the bytes of a table as it lies on the disk; of a dataset, in its cache."""
    if path.startswith(DATASET):
        return int(_dataset(path).data.nbytes)
    if member := member_of(path):
        with Archive(member[0]) as archive:
            return archive.packed_size(member[1])
    return Path(path).stat().st_size


def rows_of(path: str, first: int, count: int, text_field: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of one of the parts, as far as documents are made of their columns.

    Raises DataError where the file is damaged.
    """
    if path.startswith(DATASET):
        dataset = _dataset(path)
        dataset = dataset.select_columns(_wanted(dataset.column_names, text_field))
        for start in range(first, first + count, ROWS_AT_ONCE):
            columns = dataset[start : min(start + ROWS_AT_ONCE, first + count)]
            names = list(columns)
            yield from (dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True))
        return
    file = _parquet(path)
    group, skipped = next(
        (group, skipped) for begin, _, group, skipped in _parquet_parts(file, path) if begin == first
    )
    try:
        columns = _wanted(file.schema_arrow.names, text_field)
        batches = file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=columns)
        rows = (row for batch in batches for row in batch.to_pylist())
        yield from itertools.islice(rows, skipped, skipped + count)
    except PARQUET_ERRORS as error:
        raise DataError(f"{path}: from row {first + 1} on, this Parquet file is damaged: {error}.") from error


def _wanted(columns: list[str], text_field: str) -> list[str]:
    """Return the columns that may hold text; all where none does, so that the error names them."""
    return [name for name in columns if name == text_field or name in FIELDS] or columns


def _parquet_parts(file: Any, path: str) -> Iterator[tuple[int, int, int, int]]:
    """Yield (first row, number of rows, number of the row group, its rows before) of parts of a file."""
    before = 0
    # Not the sizes of the columns, where a damaged footer lets pyarrow end the process.
    packed = size_of(path)
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        rows = group.num_rows
        if group.total_byte_size > max(UNPACKED_BYTES, UNPACKED_RATIO * packed):
            raise DataError(
                f"{path}: from row {before + 1} on, {packed:,} bytes unpack to {group.total_byte_size:,}, "
                "but text never packs into so few. If it is meant to, write the file without compression."
            )
        step = max(1, rows * BYTES_A_CHUNK // max(group.total_byte_size, BYTES_A_CHUNK))
        for first in range(0, rows, step):
            yield before + first, min(step, rows - first), number, first
        before += rows


def _parquet(path: str) -> Any:  # pyarrow has no types
    parquet = _imported("pyarrow.parquet", path, "pyarrow", "parquet")
    member = member_of(path)
    file = path if member is None else io.BytesIO(_unpacked(*member))
    try:
        return parquet.ParquetFile(file, page_checksum_verification=True)
    except PARQUET_ERRORS as error:
        raise DataError(
            f"{path}: cannot be read as Parquet, so it is damaged, or another kind of file: {error}."
        ) from error


def _unpacked(path: str, name: str) -> bytes:
    """Return a member of an archive: Parquet is not read from its beginning to its end."""
    with named(f"{path}/{name}"), Archive(path) as archive, archive.open(name) as stream:
        return whole(stream, Limit(f"{path}/{name}", size=archive.packed_size(name), is_packed=True))


@functools.lru_cache(maxsize=4)
def _dataset(source: str) -> Any:  # nor has datasets
    datasets = _imported("datasets", source, "datasets", "datasets")
    name, _, split = source.removeprefix(DATASET).partition("@")
    name, _, subset = name.partition(":")
    split = split or "train"
    try:
        if _is_saved(Path(name)):
            loaded = datasets.load_from_disk(name)
            return loaded[split] if isinstance(loaded, dict) else loaded
        return datasets.load_dataset(name, subset or None, split=split)
    except (OSError, ValueError, KeyError, RuntimeError) as error:  # among them all that `datasets` defines
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{source}: cannot be opened as a dataset: {reason} Datasets are named hf:ORG/NAME, "
            "hf:ORG/NAME:SUBSET@SPLIT, or hf:./FOLDER."
        ) from error


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` made a folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _imported(module: str, source: str, package: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise DataError(
            f'{source}: reading this needs the package {package}: pip install "receptance[{extra}]".'
        ) from error
