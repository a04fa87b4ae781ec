"""Tasks that are generated: to find in a long text what was said once. Each is a function of seed and length.

passkey  a number, said once somewhere in a text that says nothing else (arxiv.org/abs/2305.16300, appendix)
recall   one value of many that were each said with a key, in any order: associative recall with several
         queries, as in arxiv.org/abs/2312.04927, in letters that every tokenizer has

Lengths are in bytes, so that models of different tokenizers are asked the same.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from receptance.errors import ConfigError
from receptance.evaluation.items import Asked, Completion

LENGTHS = (256, 1024, 4096)
COUNT = 50
QUERIES = 4  # of each list of pairs

_TASK = "One number is hidden in this text. Find it and remember it: you will be asked for it.\n"
_FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
_QUESTION = "What is the pass key? The pass key is"
_PAIR_BYTES = len("abc 1, ")


def generated(
    name: str, *, lengths: Sequence[int] = LENGTHS, count: int | None = None, seed: int = 0
) -> Asked:
    """Return the items of a generated task, in groups by length.

    lengths  of the texts before the question, in bytes, to within a sentence
    count    items of each length; None: 50

    Raises ConfigError for an unknown task, a length that holds nothing or a count below one.
    """
    if name not in GENERATED:
        raise ConfigError(f"there is no generated task {name!r}; there are {', '.join(GENERATED)}.")
    make, shortest = GENERATED[name]
    count = COUNT if count is None else count
    if count < 1 or any(not shortest <= length <= 100_000_000 for length in lengths):
        raise ConfigError(
            f"{name} was asked for {count} items of {', '.join(map(str, lengths))} bytes, but there must be "
            f"at least one item, and {shortest} bytes."
        )
    items: list[Completion] = []
    for length in dict.fromkeys(lengths):
        made: list[Completion] = []
        while len(made) < count:
            made += make(length, np.random.default_rng([seed, length, len(made)]))
        items += made[:count]
    return Asked(f"generated from seed {seed}", items)


def _passkey(length: int, draw: np.random.Generator) -> Iterator[Completion]:
    key = f"{draw.integers(10_000, 100_000)}"
    needle = f"The pass key is {key}. Remember it. {key} is the pass key.\n"
    sentences = max(0, length - len(_TASK) - len(needle)) // len(_FILLER)
    before = int(draw.integers(0, sentences + 1))
    text = _TASK + _FILLER * before + needle + _FILLER * (sentences - before)
    yield Completion(context=text + _QUESTION, ending=f" {key}", group=f"{length} bytes")


def _recall(length: int, draw: np.random.Generator) -> Iterator[Completion]:
    pairs = length // _PAIR_BYTES
    numbers = draw.choice(26**3, size=min(pairs, 26**3), replace=False)
    letters = string.ascii_lowercase
    keys = [letters[n // 676] + letters[n // 26 % 26] + letters[n % 26] for n in numbers.tolist()]
    values = draw.integers(0, 10, len(keys)).tolist()
    text = "".join(f"{key} {value}, " for key, value in zip(keys, values, strict=True))
    for asked in draw.choice(len(keys), size=min(QUERIES, len(keys)), replace=False).tolist():
        yield Completion(context=text + keys[asked], ending=f" {values[asked]}", group=f"{length} bytes")


# What makes one or more items of a length, and the shortest length that holds one.
GENERATED: dict[str, tuple[Callable[[int, np.random.Generator], Iterator[Completion]], int]] = {
    "passkey": (_passkey, 150),
    "recall": (_recall, _PAIR_BYTES),
}
