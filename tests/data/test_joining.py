from __future__ import annotations

from pathlib import Path

import numpy as np

from receptance.data import TokenStore
from receptance.data.chunks import Chunk
from receptance.data.joining import Joining
from receptance.data.shard import Shard, ShardMaker
from receptance.data.split import Split
from receptance.tokenizers import load_tokenizer


def shard_of(texts: list[str]) -> Shard:
    """Return the shard of some plain texts, half of which, about, are held back."""
    data = "".join(f'{{"text": "{text}"}}\n' for text in texts).encode()
    maker = ShardMaker(load_tokenizer("bytes"), Split(0.5, 2**63, cuts=False), "text", "strict")
    return maker.make([Chunk(path="a", kind="lines", size=1, data=data)], "key")


def test_duplicates_count_over_all_shards_and_repeats_are_none(tmp_path: Path) -> None:
    first, second = shard_of(list("abcabc")), shard_of(list("cdd"))
    tokenizer = load_tokenizer("bytes")
    with Joining(tmp_path, ["train", "validation"], tokenizer, deduplicate=True) as joining:
        joining.add(first, [0], weight=1)
        joining.add(second, [1], weight=3)
    assert joining.duplicates == 5
    held = first.is_held_back[:3].tolist() + second.is_held_back[1:2].tolist()
    train = bytes(TokenStore(tmp_path / "train").flat.astype(np.uint8)).split(b"\0")[:-1]
    validation = bytes(TokenStore(tmp_path / "validation").flat.astype(np.uint8)).split(b"\0")[:-1]
    letters = [b"a", b"b", b"c", b"d"]
    weights = [1, 1, 1, 3]
    assert sorted(validation) == [x for x, back in zip(letters, held, strict=True) if back]
    assert sorted(train) == [
        x for x, back, weight in zip(letters, held, weights, strict=True) if not back for _ in range(weight)
    ]
