"""Whatever a file holds, it loads right or one of our errors says why not: at little cost, without harm."""

from __future__ import annotations

import re
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from receptance.checkpoints import formats, huggingface, writers
from tests.hostile import values
from tests.hostile.corpus import FORMATS, Case, Format
from tests.hostile.formats import safetensors, tokenizer_json, vocabulary
from tests.hostile.watched import Result, Watcher

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

SECONDS = 2.0
MEMORY_BYTES = 64 << 20  # beside twice the size of the file
LONGEST_MESSAGE = 2000
LEAST_CASES = 300  # of all formats together


@pytest.fixture(scope="session")
def watcher() -> Iterator[Watcher]:
    watcher = Watcher()
    yield watcher
    watcher.close()


def complaints(case: Case, result: Result, size: int) -> list[str]:
    """Say what is wrong with how a file was read."""
    found = [f"{result.error}: {result.message[:300]}"] if result.outcome not in ("loaded", "refused") else []
    if result.outcome == "loaded" and case.loads is False:
        found.append("it was loaded")
    if result.outcome == "refused" and case.loads is True:
        found.append(f"it was refused: {result.message[:300]}")
    if result.seconds > SECONDS:
        found.append(f"{result.seconds:.1f} s")
    if result.growth_bytes > 2 * size + MEMORY_BYTES:
        found.append(f"{result.growth_bytes / 1e6:.0f} MB for {size / 1e6:.1f} MB")
    if len(result.message) > LONGEST_MESSAGE:
        found.append(f"a message of {len(result.message):,} characters: {result.message[:80]}")
    if re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", result.message):
        found.append(f"a message that controls the terminal: {result.message[:300]!r}")
    return found + result.did


def files_outside() -> dict[str, bytes]:
    """Return good files that lie beside the folder of a case; whoever is led there opens one."""
    tokenizer, model = tokenizer_json.small(), safetensors.saved("4")
    named = {f"{values.OUTSIDE}.json": tokenizer, f"{values.OUTSIDE}.safetensors": model}
    words = vocabulary.examples()[0].files[vocabulary.FILE]
    return named | {f"{values.OUTSIDE}.txt": words, values.OUTSIDE: model, "tokenizer.json": tokenizer}


def size_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_symlink())


def chosen(format_: Format, part: str) -> Iterator[Case]:
    """Yield a quarter of the cases, the same ones every time, or the rest."""
    return (
        case for case in format_.cases() if (zlib.crc32(case.name.encode()) % 4 == 0) == (part == "quarter")
    )


@pytest.mark.parametrize("part", ["quarter", pytest.param("rest", marks=pytest.mark.slow)])
@pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.name)
def test_a_hostile_file_loads_right_or_is_refused_and_does_no_harm(
    format_: Format,
    part: str,
    watcher: Watcher,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    for number, example in enumerate(format_.examples()):
        warm = tmp_path / f"warm{number}"
        warm.mkdir()
        watcher.read(format_.name, example.case().put(warm), warm, warm=True)
    for name, content in files_outside().items():
        (tmp_path / name).write_bytes(content)
    wrong, results = [], []
    for number, case in enumerate(chosen(format_, part)):
        folder = tmp_path / f"case {number}"
        folder.mkdir()
        path = case.put(folder)
        before = sorted(folder.iterdir())
        result = watcher.read(format_.name, path, folder)
        results.append(result)
        found = complaints(case, result, size_of(folder))
        if sorted(folder.iterdir()) != before:
            found.append("files appeared or went")
        shutil.rmtree(folder)
        wrong += [f"{case.name}: {'; '.join(found)[:600]}"] if found else []
    kinds = Counter(result.outcome for result in results)
    record_property(
        "figure",
        f"hostile files, {format_.name}: {len(results)} ({kinds['refused']} refused, "
        f"{kinds['loaded']} loaded right), at most {max(r.seconds for r in results):.2f} s and "
        f"{max(r.growth_bytes for r in results) / 1e6:.0f} MB",
    )
    assert len(results) >= LEAST_CASES / len(FORMATS)
    assert not wrong, f"{len(wrong)} of {len(results)}:\n" + "\n".join(wrong)


def test_every_format_of_checkpoints_has_its_module() -> None:
    readers = [module for module in vars(formats).values() if isinstance(module, ModuleType)]
    known = {module.FORMAT for module in readers if hasattr(module, "FORMAT")}
    known |= {*writers.WRITERS, *(dialect.format for dialect in huggingface.DIALECTS)}
    assert known <= {name for format_ in FORMATS for name in format_.checkpoints}
