from __future__ import annotations

import pickle
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from receptance.data.chunks import Chunk
from receptance.data.shard import Shard, ShardMaker, load_with_key
from receptance.data.split import Split
from receptance.errors import DataError
from receptance.tokenizers import Tokenizer, load_tokenizer

CHAT = b'{"prompt": "Hi", "completion": "Yes"}\n{"text": ""}\n{"text": "abc"}\n'
CHUNK = Chunk(path="a", kind="lines", size=1, data=CHAT)


def maker(tokenizer: Tokenizer | None = None, split: Split | None = None, field: str = "text") -> ShardMaker:
    return ShardMaker(
        tokenizer or load_tokenizer("bytes"), split or Split(0.0, 0, cuts=False), field, "strict"
    )


def test_a_shard_holds_the_tokens_and_what_is_learnt_of_them(tmp_path: Path) -> None:
    maker().make([CHUNK], "key").save(tmp_path / "0.safetensors")
    shard = Shard.load(tmp_path / "0.safetensors")
    assert bytes(shard.tokens.astype(np.uint8)) == b"User: Hi\n\nAssistant: Yes\0abc\0"
    assert shard.mask.tolist() == [0] * 20 + [1] * 9
    assert shard.sizes.tolist() == [25, 4]
    assert shard.bytes_of_text.tolist() == [24, 3]
    assert shard.learnt_bytes.tolist() == [4, 3]
    assert shard.left_out.tolist() == [1, 0]


def test_a_key_depends_on_all_that_decides_a_shard() -> None:
    usual = maker().key([CHUNK], "bytes")
    assert usual == maker().key([CHUNK], "bytes") == pickle.loads(pickle.dumps(maker())).key([CHUNK], "bytes")
    others = {
        maker().key([CHUNK, CHUNK], "bytes"),
        maker().key([CHUNK], "world"),
        maker(split=Split(0.5, 9, cuts=False)).key([CHUNK], "bytes"),
        maker(field="body").key([CHUNK], "bytes"),
    }
    assert len(others | {usual}) == 5


def test_a_damaged_shard_or_one_of_another_key_is_none(tmp_path: Path) -> None:
    path = tmp_path / "0.safetensors"
    assert load_with_key(path, "key") is None
    maker().make([CHUNK], "key").save(path)
    found = load_with_key(path, "key")
    assert found is not None
    assert {field.name for field in fields(found)} >= {"tokens", "mask"}
    assert load_with_key(path, "other") is None
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert load_with_key(path, "key") is None
    with pytest.raises(DataError, match=r"0\.safetensors: this shard is damaged"):
        Shard.load(path)
