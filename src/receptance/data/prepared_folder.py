"""The folder that training reads, as it comes to be: no file takes its name before all are written."""

from __future__ import annotations

import errno
import itertools
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from receptance.claim import claimed
from receptance.data.description import FILE, TRAIN, VALIDATION, Description, read_description
from receptance.data.indexed import mask_file, store_files
from receptance.data.joining import Joining
from receptance.data.shard import Shard
from receptance.data.sources import Sources
from receptance.errors import DataError
from receptance.tokenizers import Tokenizer

SHARDS = ".shards"  # the folder of unfinished work in the output

# How many sources are described one by one, and how many characters their names may have.
LISTED = 50
LISTED_CHARACTERS = 4000
NAMED = 5  # in an error

# A disk, a quota and the largest size of a file.
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)


def fill(
    output: Path,
    made: list[Path],
    shards: Iterable[tuple[Shard, Sequence[int]]],
    tokenizer: Tokenizer,
    named: str,
    *,
    texts: Sources,
    weights: Sequence[float],
    validation_fraction: float,
    deduplicate: bool,
) -> Description:
    """Join shards in a folder, describe it, and add all files to those `made`, which `new_folder` gave.

    Shards come with the numbers of their chunks' sources, which have one weight. `named` is what the
    tokenizer was called by whoever asked for it.
    """
    splits = [TRAIN, VALIDATION] if validation_fraction else [TRAIN]
    with Joining(output, splits, tokenizer, deduplicate) as joining:
        for shard, numbers in shards:
            joining.add(shard, numbers, weights[numbers[0]])
        statistics = joining.statistics()
        _refuse_empty({name: split.documents for name, split in statistics.items()}, texts.paths)
        _remove_description(output)
        made += [path for split in splits for path in _files(output / split)]
    file = tokenizer.save(output)
    made += [output / FILE, *([file] if file else [])]
    # Names of files may be any bytes.
    names = [name.encode(errors="surrogateescape").decode(errors="replace") for name in texts.paths]
    room = _room(names)
    description = Description(
        tokenizer=tokenizer.name,
        tokenizer_file=file.name if file else None,
        vocabulary_size=tokenizer.vocabulary_size,
        end_of_text=tokenizer.end_of_text,
        splits=statistics,
        empty=joining.empty,
        undecodable=joining.undecodable,
        duplicates=joining.duplicates,
        sources=joining.sources(names, weights, room),
        made_by={
            "receptance": _version(),
            "sources": _first(names, room),
            "weights": _first(list(map(str, weights)), room) if set(weights) != {1.0} else [],
            "validation_fraction": validation_fraction,
            "deduplicate": deduplicate,
            "tokenizer": named,
            "include": list(texts.include),
            "exclude": list(texts.exclude),
            "text_field": texts.text_field,
            "errors": texts.errors,
        },
    )
    description.write(output)
    return description


@contextmanager
def new_folder(output: Path, overwrite: bool) -> Iterator[list[Path]]:
    """Make the folder, and yield a list for the files that are made in it.

    Where the block raises, a folder that was empty or not there is so again, but for finished shards; hidden
    files do not count. Raises ConfigError where another process is at work in it.
    """
    was_there = output.exists()
    was_empty = check_output(output, overwrite)
    output.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    with claimed(output, "preparing data", "choose another folder."):
        try:
            yield made
            shutil.rmtree(output / SHARDS, ignore_errors=True)
        except BaseException as error:
            if was_empty:
                _remove(made)
            with suppress(OSError):  # of a folder that is not there, or not empty
                (output / SHARDS).rmdir()
            if not was_there:
                with suppress(OSError):
                    output.rmdir()
            if isinstance(error, OSError) and error.errno in FULL:
                raise DataError(
                    f"{output}: cannot be written: {error.strerror}. The tokens are there twice until all "
                    "is done. Make room and run the same again: it goes on where it was."
                ) from error
            raise


def check_output(output: Path, overwrite: bool) -> bool:
    """Return whether the folder is empty or not there. Raises DataError where nothing may be written."""
    if output.exists() and not output.is_dir():
        raise DataError(f"{output} is a file, but the prepared data needs a folder.")
    is_empty = not output.exists() or all(path.name.startswith(".") for path in output.iterdir())
    if not (is_empty or overwrite):
        raise DataError(
            f"{output} is not empty. Choose another folder, or replace what was prepared there (--overwrite)."
        )
    return is_empty


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _refuse_empty(documents: dict[str, int], names: Sequence[str]) -> None:
    """Refuse a split without documents, which could only confuse later."""
    if not any(documents.values()):
        raise DataError(
            f"{', '.join(_first(names, NAMED))}: there is no text in it; every document is empty or was left "
            "out."
        )
    for name, count in documents.items():
        if not count:
            raise DataError(
                f"The sources hold too little text for the split {name!r}. Give more, or choose another "
                "validation_fraction (0 holds nothing back)."
            )


def _files(prefix: Path) -> list[Path]:
    """Return the files that a store may have."""
    return [*store_files(prefix), mask_file(prefix)]


def _remove_description(output: Path) -> None:
    """Take the seal off a folder to be replaced, and what the new contents may not replace."""
    with suppress(DataError):  # nothing there, or not finished
        vocabulary = read_description(output).tokenizer_file
        if vocabulary:
            _remove([output / Path(vocabulary).name])
    _remove([output / FILE, *_files(output / VALIDATION)])


def _room(names: Sequence[str]) -> int:
    """Return of how many names, in order, a description has room."""
    ends = itertools.accumulate(map(len, names))
    return min(LISTED, sum(end <= LISTED_CHARACTERS for end in ends))


def _first(names: Sequence[str], room: int) -> list[str]:
    """Return as many names as there is room for, and how many there are beside them."""
    return [*names[:room], *([f"… and {len(names) - room:,} more"] if room < len(names) else [])]


def _version() -> str:
    """Return the version of this package; the package itself may not be imported from here."""
    with suppress(PackageNotFoundError):
        return version("receptance")
    return "not installed"
