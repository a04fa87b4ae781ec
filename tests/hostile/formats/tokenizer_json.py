"""`tokenizer.json`, which a package of compiled code reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from receptance.tokenizers import bpe
from tests.hostile import values
from tests.hostile.corpus import Case, Example, Format

FILE = "tokenizer.json"
TEXT = "The quick brown fox, naïve 日本語 <|endoftext|>\n\n" * 5 + "a" * 200 + " " * 200 + "!" * 200


def read(path: Path) -> object:
    """Read a tokenizer, and use it."""
    tokenizer = bpe.read(path)
    ids = tokenizer.encode(TEXT)
    assert all(0 <= number < tokenizer.vocabulary_size for number in ids)
    assert tokenizer.end_of_text not in ids
    tokenizer.decode(ids)
    return tokenizer


@cache
def small() -> bytes:
    """Return a tokenizer learnt from a few words."""
    tokenizer = bpe.train_bpe(["the cat sat on the mat and the cat ran " * 20], 280)
    with TemporaryDirectory() as folder:
        path = tokenizer.save(Path(folder))
        assert path
        return path.read_bytes()


def examples() -> list[Example]:
    """One learnt here."""
    content = small()
    borders = [
        content.index(f'"{key}"'.encode()) for key in ("added_tokens", "pre_tokenizer", "model", "merges")
    ]
    return [Example("small", {FILE: content}, FILE, {FILE: borders})]


def attacks() -> Iterator[Case]:
    """Parts that are wrong, or that multiply the text."""
    whole = json.loads(small())
    for name, text, _ in values.json_texts():
        yield Case.of(name, {FILE: text}, FILE)

    def case(name: str, *, loads: bool | None = None, **changes: Any) -> Case:
        return Case.of(name, {FILE: json.dumps({**whole, **changes}).encode()}, FILE, loads=loads)

    model = whole["model"]
    for key in whole:
        for value in (None, [], {}, 3, "x", {"type": "evil"}):
            yield case(f"{key} is {value!r}", **{key: value})
    for key in model:
        for value in (None, [], {}, 3, "x", -1, 1e308):
            yield case(f"model.{key} is {value!r}", model={**model, key: value})
    for kind in ("WordPiece", "Unigram", "WordLevel", "Evil", ""):
        yield case(f"a model {kind!r}", loads=False, model={**model, "type": kind})
    vocabulary = model["vocab"]
    first = next(iter(vocabulary))
    for number in (-1, 2**31, 2**32 - 1, 2**32, 2**63, 1.5, "1", None, 10**30):
        yield case(f"an id {number!r}", model={**model, "vocab": {**vocabulary, first: number}})
        special = {**whole["added_tokens"][0], "id": number}
        yield case(f"a special token of id {number!r}", added_tokens=[special])
    yield case("an id twice", model={**model, "vocab": {**vocabulary, "zz": 5}})
    yield case("an id far away", model={**model, "vocab": {**vocabulary, "zz": 4_000_000_000}})
    for token in ("", "\x00", "日", "\x1b[2J", " ", "a" * 1_000_000):
        yield case(f"a token {token[:10]!r}", model={**model, "vocab": {**vocabulary, token: 5000}})
        added = {**whole["added_tokens"][0], "id": 5000, "content": token}
        yield case(f"an added token {token[:10]!r}", added_tokens=[*whole["added_tokens"], added])
    for merge in ("", "a", "a b c", "zz zz", ["a"], ["a", "b", "c"], [1, 2], None, "a" * 100_000 + " b"):
        yield case(f"a merge {str(merge)[:20]!r}", model={**model, "merges": [*model["merges"], merge]})
    yield case("a merge 100,000 times", model={**model, "merges": model["merges"][:1] * 100_000})
    yield from _multipliers(case, whole)


def _multipliers(case: Any, whole: dict[str, Any]) -> Iterator[Case]:
    ten = {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaa"}
    between = {"type": "Replace", "pattern": {"Regex": ""}, "content": "a" * 100_000}
    rows = {
        "one replacement": ten,
        "seven replacements": {"type": "Sequence", "normalizers": [ten] * 7},
        "a large replacement": between,
        "a slow expression": {"type": "Replace", "pattern": {"Regex": "(a+)+$|(a|a)*b"}, "content": "b"},
        "a wrong expression": {"type": "Replace", "pattern": {"Regex": "("}, "content": "b"},
        "a large expression": {
            "type": "Replace",
            "pattern": {"Regex": "(((a{1000}){1000}){1000})"},
            "content": "",
        },
        "a prepended text": {"type": "Prepend", "prepend": "x" * 10_000_000},
        "a broken charsmap": {"type": "Precompiled", "precompiled_charsmap": "////"},
        "a lowercase": {"type": "Lowercase"},
        "a strip": {"type": "Strip", "strip_left": True, "strip_right": True},
        "NFC": {"type": "NFC"},
    }
    for name, normalizer in rows.items():
        yield case(f"a normalizer of {name}", normalizer=normalizer)
    nested: Any = {"type": "NFC"}
    for _ in range(120):
        nested = {"type": "Sequence", "normalizers": [nested]}
    yield case("normalizers in one another", normalizer=nested)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    for name, pattern in {
        "slow": "(a+)+b", "slower": "(x+x+)+y|(a*)*b|( +)+!c", "wrong": "[", "empty": "",
        "large": "a{100000}{1000}", "recursive": "(?<p>a\\g<p>?b)", "looking back": "(?<=a)b",
        "unknown": "\\p{Evil}",
    }.items():  # fmt: skip
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        yield case(
            f"a split that is {name}", pre_tokenizer={"type": "Sequence", "pretokenizers": [split, level]}
        )
        yield case(f"a split that is {name}, inverted", pre_tokenizer={**split, "invert": True})
    yield case(
        "a split that removes",
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "."}, "behavior": "Removed", "invert": False},
    )
    for place in ("post_processor", "decoder"):
        for name in ("BertProcessing", "TemplateProcessing", "Replace", "WordPiece", "Metaspace", "Fuse"):
            yield case(f"a {place} {name}", **{place: {"type": name}})
    yield case(
        "truncation to 1",
        truncation={"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0},
    )
    yield case(
        "padding to 2^31",
        padding={
            "strategy": {"Fixed": 2**31}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "x",
        },
    )  # fmt: skip


FORMAT = Format("tokenizer json", read, examples, attacks)
