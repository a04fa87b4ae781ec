"""Vocabularies in World's format, lines of `id literal length`: literals that are more than text."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from receptance.tokenizers import world
from tests.hostile.corpus import Case, Example, Format

FILE = "vocabulary.txt"


def read(path: Path) -> object:
    """Read a vocabulary, and take any bytes there and back."""
    tokenizer = world.read(path)
    data = bytes(range(256)) * 4 + "naïve 日本語\n".encode() * 10
    ids = tokenizer.encode_bytes(data)
    assert tokenizer.decode_bytes(ids) == data
    assert all(0 < number < tokenizer.vocabulary_size for number in ids)
    return tokenizer


def line(number: int | str, literal: str, length: int | str) -> bytes:
    """Return one line of a vocabulary."""
    return f"{number} {literal} {length}\n".encode("utf-8", "surrogatepass")


def base() -> bytes:
    """Return the lines of all single bytes."""
    return b"".join(line(value + 1, repr(bytes([value])), 1) for value in range(256))


def examples() -> list[Example]:
    """The bytes and some words."""
    words = (" the", "日本", "\n\n", "'\"", "é")
    content = base() + b"".join(line(257 + i, repr(w), len(w.encode())) for i, w in enumerate(words))
    return [Example("small", {FILE: content}, FILE, {FILE: [len(base())]})]


LITERALS = (
    "__import__('os').system('true')", "'a'*10**9", "b'a' * 10**9", "('a')", "'a' 'b'", "'a'+'b'", "f'{1}'",
    "f'{open(\"/etc/passwd\")}'", "r'a'", "u'a'", "B'a'", "bytes(10**10)", "'a", "a'", "''", "b''", "'''a'''",
    "'\\N{DIGIT ONE}'", "'\\777'", "'\\x4'", "'\\ud800'", "'\\udfff\\ud800'", "'\\U00110000'",
    "'\\U0010ffff'",
    "'\\\n'", "'a\\'", "'\\0'", "'\\a'", "'\\x41' #", "'a';1", "1", "None", "[1]", "{}", "lambda: 0", "...",
    "(yield)", "'\x00'", "b'é'", "b'\\u0041'", "'\ufeff'", "'\u2028'", "'\x85'", "'\x0c'", "'\x1b[2J'",
    "not 'a'", "`id`", "'a'[0]", "'a'.upper()", "'{0.__class__}'.format(1)", "'%s' % 1", "0x41", "1e999",
    "-'a'", "'a' if 1 else 'b'", "*'a'", "'\ud800'",
)  # fmt: skip


def attacks() -> Iterator[Case]:
    """Lines that are not what they should be."""
    for literal in LITERALS:
        for length in (1, 4):
            content = base() + line(300, literal, length)
            yield Case.of(f"literal {literal!r} of {length}", {FILE: content}, FILE, loads=None)
    for number in (
        -1,
        0,
        1,
        65535,
        65536,
        999999,
        1000000,
        2**31,
        2**64,
        "1e3",
        "0x12",
        "+300",
        " 300",
        "٣",
        "3_00",
        "1.0",
        "",
    ):
        yield Case.of(f"id {number!r}", {FILE: base() + line(number, "'ab'", 2)}, FILE, loads=number == 65535)
    for length in (-1, 0, 1, 3, 2**31, 2**63, "", "two", "2 ", "02", "2.0", "٢"):
        yield Case.of(
            f"length {length!r}", {FILE: base() + line(300, "'ab'", length)}, FILE, loads=length == "02"
        )
    long = "x" * 4000
    lines = {
        "an id twice": line(300, "'ab'", 2) + line(300, "'cd'", 2),
        "a token twice": line(300, "'ab'", 2) + line(301, "b'ab'", 2),
        "an empty line": b"\n",
        "a line of spaces": b"   \n",
        "a tab for a space": b"300\t'ab'\t2\n",
        "two spaces": b"300  'ab'  2\n",
        "no length": b"300 'ab'\n",
        "only an id": b"300\n",
        "a zero byte": b"300 'a\x00b' 3\n\x00",
        "wrong UTF-8": b"300 '\xff\xfe' 2\n",
        "a surrogate in UTF-8": b"300 '\xed\xa0\x80' 3\n",
        "a byte order mark": b"\xef\xbb\xbf300 'ab' 2\n",
        "a line of 4,000 characters": line(300, f"'{long}'", 4000),
        "a line of 5,000 characters": line(300, f"'{long}{long[:1000]}'", 5000),
        "a line of 10 MB": line(300, "'" + "x" * 10_000_000 + "'", 10_000_000),
        "a line of 1 MB of escapes": line(300, "'" + "\\x41" * 250_000 + "'", 250_000),
        "a line of 1 MB of quotes": b"300 " + b"'" * 1_000_000 + b" 1\n",
        "a line of 1 MB of backslashes": b"300 '" + b"\\" * 1_000_000 + b"' 1\n",
        "a line of 4,000 backslashes": b"300 '" + b"\\" * 4000 + b"' 1\n",
        "a line of 4,000 brackets": b"300 " + b"(" * 4000 + b" 1\n",
        "an id of 4,000 digits": b"1" * 4000 + b" 'ab' 2\n",
        "ends of lines of all kinds": b"300 'ab' 2\r301 'cd' 2\x0b302 'ef' 2\x0c",
        "UTF-16": "300 'ab' 2\n".encode("utf-16"),
    }
    for name, more in lines.items():
        yield Case.of(name, {FILE: base() + more}, FILE, loads=None if "4,000 characters" in name else False)
    for missing in (0, 10, 65, 255):
        left = b"".join(part for i, part in enumerate(base().splitlines(keepends=True)) if i != missing)
        yield Case.of(f"without byte {missing}", {FILE: left}, FILE)
    yield Case.of("the name of the published one", {world.FILE: base()}, world.FILE)
    yield Case.of("too large", {FILE: base() + b"#" * (17 << 20)}, FILE)
    yield Case.of("nothing", {FILE: b""}, FILE)
    yield from _tries()


def _tries() -> Iterator[Case]:
    """Vocabularies that read well, but whose tree of tokens is large or slow to build."""
    generator = random.Random(0)

    def vocabulary(tokens: list[bytes]) -> bytes:
        return base() + b"".join(line(257 + i, repr(t), len(t)) for i, t in enumerate(tokens))

    long = [b"a" * n for n in range(2, 3900)]
    yield Case.of("tokens of 2 to 3,900 letters", {FILE: vocabulary(long)}, FILE, loads=None)
    letters = "abcdefghijklmnopqrstuvwxyz"
    apart = ["".join(generator.choices(letters, k=2000)).encode() for _ in range(4000)]
    yield Case.of("4,000 tokens of 2,000 letters", {FILE: vocabulary(apart)}, FILE, loads=None)
    short = sorted({generator.randbytes(3) for _ in range(60_000)})
    yield Case.of("60,000 tokens of 3 bytes", {FILE: vocabulary(short)}, FILE, loads=None)
    crowded = [bytes([a, b]) for a in range(1, 256, 2) for b in range(0, 256, 2)]
    crowded += [bytes([a, b, c]) for a in range(0, 256, 8) for b in range(1, 256, 16) for c in (0, 128, 255)]
    yield Case.of("a crowded tree", {FILE: vocabulary(crowded)}, FILE, loads=None)


FORMAT = Format("vocabulary", read, examples, attacks)
