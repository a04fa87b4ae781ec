"""Recipes: TOML that a person writes, or has got from another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from receptance.training.recipe import config_to_tables, load_config
from tests.hostile.corpus import Case, Example, Format

FILE = "recipe.toml"
HONEST = b"""[run]
folder = "runs/x"
seed = 3

[model]
num_layers = 2
hidden_size = 32

[data]
folder = "data"
context = 64

[training]
batch_size = 4
max_steps = 10

[optimizer]
learning_rate = 1e-3
final_learning_rate = 1e-4
"""


def read(path: Path) -> object:
    """Read a recipe, and turn it back into tables."""
    return config_to_tables(load_config(path))


def examples() -> list[Example]:
    """One recipe."""
    borders = [place for place in range(len(HONEST)) if HONEST.startswith(b"[", place)]
    return [Example("recipe", {FILE: HONEST}, FILE, {FILE: borders})]


def attacks() -> Iterator[Case]:
    """Values that are none, and TOML that a parser suffers from."""

    def case(name: str, content: bytes, *, loads: bool | None = False) -> Case:
        return Case.of(name, {FILE: content}, FILE, loads=loads)

    for value in (
        "-1", "0", "2147483648", "9223372036854775808", "1e400", "inf", "-inf", "nan", "true", '""', '"8"',
        "[]",
        "{}", "[8]", "{a = 1}", "1979-05-27", "07:32:00", "0x10", "0o7", "1_0", "9" * 5000, "1." + "0" * 5000,
        "'\\ud800'", '"\\ud800"', '"\\U00110000"', '"\\x1b[2J"', "'''" + "x" * 1_000_000 + "'''",
    ):  # fmt: skip
        for key in (
            b"batch_size = 4",
            b"learning_rate = 1e-3",
            b"num_layers = 2",
            b'folder = "data"',
            b"seed = 3",
        ):
            name = key.partition(b" ")[0]
            new = HONEST.replace(key, name + b" = " + value.encode())
            yield case(f"{name.decode()} = {value[:20]}", new, loads=None)
    deep = 100_000
    texts = {
        "lists in one another": b"a = " + b"[" * deep + b"]" * deep,
        "tables in one another": b"a = " + b"{a=" * 5000 + b"1" + b"}" * 5000,
        "a key of 50,000 parts": b".".join([b"a"] * 50_000) + b" = 1",
        "a table of 50,000 parts": b"[" + b".".join([b"a"] * 50_000) + b"]",
        "a list that never ends": b"a = " + b"[" * deep,
        "a key twice": HONEST + b"learning_rate = 1\n",
        "a table twice": HONEST + b"[run]\n",
        "a table that is a list": HONEST.replace(b"[run]", b"[[run]]"),
        "a section that is a number": b"run = 3\n",
        "an unknown key": HONEST + b"lerning_rate = 1\n",
        "an unknown section": HONEST + b"[evil]\na = 1\n",
        "a key of 1 MB": HONEST + b"a" * 1_000_000 + b" = 1\n",
        "a key of escapes": HONEST + b'"\\u001b[2J" = 1\n',
        "100,000 keys": HONEST + b"".join(b"k%d = 1\n" % i for i in range(100_000)),
        "20,000 tables": HONEST + b"".join(b"[t%d]\n" % i for i in range(20_000)),
        "nothing": b"",
        "wrong UTF-8": b"a = '\xff'",
        "a zero byte": HONEST + b"\x00",
        "a byte order mark": b"\xef\xbb\xbf" + HONEST,
        "UTF-16": HONEST.decode().encode("utf-16"),
        "old ends of lines": HONEST.replace(b"\n", b"\r"),
        "JSON": b'{"run": {}}',
        "a path with a zero byte": HONEST.replace(b'"data"', b'"a\\u0000b"'),
        "spaces": b" " * 5_000_000,
        "comments": b"#\n" * 2_000_000,
        "strings": HONEST + b'a = "' + b"\\u0041" * 100_000 + b'"\n',
        "a long list": HONEST + b"a = [" + b"1," * 300_000 + b"]\n",
    }
    for name, content in texts.items():
        yield case(name, content, loads=None if name in ("a path with a zero byte",) else False)
    for target in ("/dev/zero", ".", "missing", FILE):

        def linked(folder: Path, target: str = target) -> Path:
            (folder / FILE).symlink_to(target)
            return folder / FILE

        yield Case(f"a link to {target}", linked)


FORMAT = Format("recipe", read, examples, attacks)
