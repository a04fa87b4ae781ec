"""How fast text becomes ids and ids become text: `python -m benchmarks.tokenizers [--output FILE]`.

The text is the source code of Python's standard library, one document a file. Times include all of Python's
share, from `str` to `list[int]` and back. One thread, except that the BPE encodes a batch on all cores.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.report import add_output, publish
from receptance import native
from receptance.errors import TokenizerError
from receptance.tokenizers import Tokenizer, load_tokenizer, train_bpe
from receptance.tokenizers.trie import NativeTrie, ReferenceTrie
from receptance.tokenizers.world import WorldTokenizer


class Case(NamedTuple):
    """Something to measure, on so many bytes of text."""

    name: str
    run: Callable[[], object]
    size: int


def standard_library(limit: int) -> list[str]:
    """Return source files of Python's standard library, in order, until they have `limit` bytes."""
    texts, size = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        texts.append(path.read_text("utf-8", errors="replace"))
        size += len(texts[-1].encode())
        if size >= limit:
            break
    return texts


def cases(texts: list[str], pile: str | None) -> Iterator[Case]:
    """Yield what is measured."""
    size = sum(len(text.encode()) for text in texts)
    world = load_tokenizer("world")
    assert isinstance(world, WorldTokenizer)
    vocabulary = {world.decode_bytes([token]): token for token in range(1, 65530)}
    data = [text.encode() for text in texts]
    library = native.library()
    if library is not None:
        trie = NativeTrie(library, vocabulary)
        yield Case("World, native trie: encode", lambda: [trie.encode(part) for part in data], size)
    reference = ReferenceTrie(vocabulary)
    yield Case("World, Python reference: encode", lambda: [reference.encode(part) for part in data], size)
    yield from of_tokenizer("World, as chosen here", world, texts, size)
    yield from of_package(texts, size)
    if pile is not None:
        yield from of_tokenizer("20B_tokenizer", load_tokenizer(pile), texts, size)
    yield from of_tokenizer("BPE trained on this text, 4,096 ids", train_bpe(texts, 4096), texts, size)
    yield from of_tokenizer("bytes", load_tokenizer("bytes"), texts, size)


def of_tokenizer(name: str, tokenizer: Tokenizer, texts: list[str], size: int) -> Iterator[Case]:
    """Yield both directions of one of our tokenizers."""
    ids = tokenizer.encode_batch(texts)
    yield Case(f"{name}: encode", lambda: [tokenizer.encode(text) for text in texts], size)
    yield Case(f"{name}: encode_batch", lambda: tokenizer.encode_batch(texts), size)
    yield Case(f"{name}: decode", lambda: [tokenizer.decode(part) for part in ids], size)


def of_package(texts: list[str], size: int) -> Iterator[Case]:
    """Yield both directions of the World tokenizer of the package `rwkv`."""
    try:
        from rwkv import rwkv_tokenizer  # type: ignore[import-untyped]  # a package without types
    except ImportError:
        return
    vocabulary = Path(rwkv_tokenizer.__file__).with_name("rwkv_vocab_v20230424.txt")
    official = rwkv_tokenizer.TRIE_TOKENIZER(str(vocabulary))
    ids = [official.encode(text) for text in texts]
    yield Case("World, package rwkv: encode", lambda: [official.encode(text) for text in texts], size)
    yield Case("World, package rwkv: decode", lambda: [official.decode(part) for part in ids], size)


def seconds(run: Callable[[], object], repeats: int) -> list[float]:
    """Return the time of each of so many runs, after one that is not counted."""
    run()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return taken


def report(texts: list[str], repeats: int, pile: str | None) -> Iterator[str]:
    """Yield the lines of the table."""
    size = sum(len(text.encode()) for text in texts)
    yield f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores."
    yield f"{len(texts)} files of the standard library, {size / 1e6:.2f} MB; {repeats} runs."
    yield ""
    yield "| what | median, MB/s | best, MB/s |"
    yield "|---|---:|---:|"
    for case in cases(texts, pile):
        taken = seconds(case.run, repeats)
        median, best = (case.size / duration / 1e6 for duration in (statistics.median(taken), min(taken)))
        yield f"| {case.name} | {median:.1f} | {best:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=1.0, help="how much text (default: 1)")
    parser.add_argument("--repeats", type=int, default=5, help="counted runs of each case (default: 5)")
    parser.add_argument("--pile", metavar="FILE", help="a 20B_tokenizer.json, to measure it too")
    add_output(parser)
    arguments = parser.parse_args()
    try:
        texts = standard_library(int(arguments.megabytes * 1e6))
        publish("Tokenizers", report(texts, arguments.repeats, arguments.pile), arguments.output)
    except TokenizerError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
