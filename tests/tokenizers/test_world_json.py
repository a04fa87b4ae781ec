"""World as `tokenizer.json`: transformers gives our ids from what we write, and we give the file's."""

from __future__ import annotations

import json
import lzma
import random
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rwkv import rwkv_tokenizer  # type: ignore[import-untyped]  # a package without types

import tokenizers
from receptance.errors import TokenizerError
from receptance.tokenizers import find_tokenizer, load_tokenizer, train_bpe, world, world_json
from receptance.tokenizers.world import WorldTokenizer

from .conftest import PACKAGE_VOCABULARY

FILE = "tokenizer.json"
BYTES = {value + 1: bytes([value]) for value in range(256)}


def own(tokens: Mapping[int, bytes]) -> WorldTokenizer:
    return WorldTokenizer(world.source_of(BYTES | dict(tokens)), Path("own.txt"))


def written(tokenizer: WorldTokenizer, folder: Path) -> Path:
    for name, text in world_json.files(tokenizer).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folder(world: WorldTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(world, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    """What transformers makes of our files; text that spells a special token is text."""
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder, split_special_tokens=True)


class TestWriting:
    """The package `tokenizers` cuts and joins as World does."""

    def test_every_vector_is_exact(self, theirs: Any, vectors: dict[str, Any]) -> None:
        for vector in vectors["encode"]:
            assert theirs(vector["text"])["input_ids"] == vector["world"]
            assert theirs.decode(vector["world"]) == vector["text"]
        known = [v for v in vectors["world_decode"] if v["bytes_hex"] is not None and 0 not in v["ids"]]
        assert len(known) > 100
        for vector in known:
            assert theirs.decode(vector["ids"]) == vector["utf8_replace"]

    def test_every_token_is_one(self, theirs: Any, world: WorldTokenizer) -> None:
        texts = {row: world.decode([row]) for row in range(1, 65530)}
        whole = [row for row, text in texts.items() if text.encode() == world.decode_bytes([row])]
        assert len(whole) == 65529 - 486
        assert theirs([texts[row] for row in whole])["input_ids"] == [[row] for row in whole]
        assert theirs.batch_decode([[row] for row in texts]) == list(texts.values())

    @settings(max_examples=300)
    @given(
        text=st.text() | st.text(" \n\r\t\0\x7fazAZ09.,'中文のがé한ж\u3000\u4000\u9fff\ua000𝒳", max_size=80)
    )
    def test_any_text_has_the_ids_of_the_official_tokenizer(
        self, theirs: Any, official_world: rwkv_tokenizer.TRIE_TOKENIZER, text: str
    ) -> None:
        ids = theirs(text)["input_ids"]
        assert ids == official_world.encode(text)
        assert theirs.decode(ids) == text

    @settings(max_examples=200)
    @given(data=st.binary(max_size=60))
    def test_bytes_as_text_have_the_ids_of_the_official_tokenizer(
        self, theirs: Any, official_world: rwkv_tokenizer.TRIE_TOKENIZER, data: bytes
    ) -> None:
        for text in (data.decode("utf-8", "replace"), data.decode("latin-1")):
            assert theirs(text)["input_ids"] == official_world.encode(text)

    def test_any_tokens_after_one_another_have_the_ids_of_the_official_tokenizer(
        self, theirs: Any, world: WorldTokenizer, official_world: rwkv_tokenizer.TRIE_TOKENIZER
    ) -> None:
        draw = random.Random(1)
        rows = [[draw.randrange(1, 65530) for _ in range(8)] for _ in range(2000)]
        texts = [world.decode(ids) for ids in rows]
        assert theirs(texts)["input_ids"] == [official_world.encode(text) for text in texts]
        assert theirs.batch_decode(rows) == texts

    def test_a_long_source_text_has_the_ids_of_the_official_tokenizer(
        self, theirs: Any, official_world: rwkv_tokenizer.TRIE_TOKENIZER
    ) -> None:
        text = Path(str(sys.modules["argparse"].__file__)).read_text("utf-8")
        assert theirs(text)["input_ids"] == official_world.encode(text)

    @pytest.mark.parametrize("language", ["en", "ko", "zh"])
    def test_articles_have_our_ids(
        self, theirs: Any, world: WorldTokenizer, shared: Path, language: str
    ) -> None:
        with lzma.open(
            shared / f"data/corpora/wiki-{language}.valid.jsonl.xz", "rt", encoding="utf-8"
        ) as file:
            texts = [json.loads(line)["text"][:5000] for line, _ in zip(file, range(40), strict=False)]
        assert theirs(texts)["input_ids"] == world.encode_batch(texts)

    @pytest.mark.parametrize("unit", ["中", "日、", "1a", "x = 1\n"])
    def test_a_long_text_without_words_is_read_in_time(
        self, theirs: Any, world: WorldTokenizer, unit: str
    ) -> None:
        text = unit * 10_000
        start = time.process_time()
        ids = theirs(text)["input_ids"]
        assert time.process_time() - start < 60  # without cuts it is minutes
        assert ids == world.encode(text)

    def test_token_0_ends_a_document_and_pads(self, folder: Path) -> None:
        transformers = pytest.importorskip("transformers")
        usual = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
        assert (usual.eos_token, usual.eos_token_id, usual.pad_token_id) == ("<|endoftext|>", 0, 0)
        assert usual("Hello<|endoftext|>")["input_ids"] == [33155, 0]
        assert usual.decode([33155, 0], skip_special_tokens=True) == "Hello"
        assert usual(["Hello", "a a"], padding=True)["input_ids"] == [[0, 33155], [98, 332]]

    def test_a_token_that_is_called_like_the_end_of_a_document_stays_text(self, tmp_path: Path) -> None:
        tokenizer = own({300: b"<|endoftext|>"})
        engine = tokenizers.Tokenizer.from_file(str(written(tokenizer, tmp_path) / FILE))
        assert engine.encode("<|endoftext|>").ids == [300]
        assert engine.encode("<<|endoftext|>>").ids == [0]
        again = load_tokenizer(tmp_path)
        assert again.encode("<|endoftext|><<|endoftext|>>") == tokenizer.encode(
            "<|endoftext|><<|endoftext|>>"
        )

    @settings(max_examples=100, deadline=None)
    @given(
        tokens=st.sets(st.text(" \na1.é中", min_size=2, max_size=4), max_size=12),
        text=st.text(" \na1.é中", max_size=60),
    )
    def test_cuts_are_where_no_token_of_the_vocabulary_reaches_across(
        self, tokens: Iterable[str], text: str
    ) -> None:
        tokenizer = own(dict(enumerate((token.encode() for token in tokens), start=300)))
        source = world_json.files(tokenizer)[FILE]
        assert tokenizers.Tokenizer.from_str(source).encode(text).ids == tokenizer.encode(text)
        again = world_json.tokenizer_of(source, Path(FILE))
        assert again is not None
        assert again.tokens == tokenizer.tokens


def published(world: WorldTokenizer, **model: Any) -> dict[str, Any]:
    """Return a file as the folders `RWKV/RWKV7-*-20260805` have it: no cuts, and a string for each row."""
    document: dict[str, Any] = json.loads(world_json.files(world)[FILE])
    document["pre_tokenizer"] = {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False,
    }  # fmt: skip
    placeholders = {f"\ue000{row}\ue001": row for row in range(65530, 65536)}
    document["model"]["vocab"] |= placeholders
    document["model"] |= model
    return document


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / FILE


def put(path: Path, document: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


class TestReading:
    """A file that is World's longest match becomes our tokenizer; any other is refused with the reason."""

    def test_the_published_folders_have_the_published_vocabulary(
        self, path: Path, world: WorldTokenizer, vectors: dict[str, Any], tmp_path: Path
    ) -> None:
        found = find_tokenizer(put(path, published(world)).parent, FILE, 65536)
        assert isinstance(found, WorldTokenizer)
        assert (found.name, found.vocabulary_size) == ("rwkv_vocab_v20230424", 65536)
        for vector in vectors["encode"]:
            assert found.encode(vector["text"]) == vector["world"]
        assert found.tokens == world.tokens
        (tmp_path / "saved").mkdir()
        saved = found.save(tmp_path / "saved")
        assert saved.name == "rwkv_vocab_v20230424.txt"
        assert saved.read_bytes() == PACKAGE_VOCABULARY.read_bytes().replace(b"\r\n", b"\n")

    def test_what_we_write_is_read_as_the_same(self, folder: Path, world: WorldTokenizer) -> None:
        found = load_tokenizer(folder)
        assert isinstance(found, WorldTokenizer)
        assert (found.name, found.tokens) == (world.name, world.tokens)

    def test_what_transformers_saves_is_read_as_the_same(
        self, theirs: Any, tmp_path: Path, world: WorldTokenizer
    ) -> None:
        theirs.save_pretrained(tmp_path)
        assert load_tokenizer(tmp_path).encode("Hello 你好\n\n") == world.encode("Hello 你好\n\n")

    def test_a_vocabulary_of_ones_own_is_saved_in_worlds_format(self, path: Path) -> None:
        written(own({300: b"hello", 299: "é ".encode(), 298: b"\xff\n"}), path.parent)
        found = load_tokenizer(path)
        assert (found.name, found.vocabulary_size) == ("tokenizer.txt", 301)
        assert found.encode("hello é ") == [300, 33, 299]
        saved = found.save(path.parent)
        assert saved is not None
        assert load_tokenizer(saved).decode_bytes([298]) == b"\xff\n"

    @pytest.mark.parametrize(
        ("changes", "what"),
        [
            ({"normalizer": {"type": "NFC"}}, "it has a normalizer"),
            ({"pre_tokenizer": None}, "its pre_tokenizer is neither"),
            ({"pre_tokenizer": {"type": "Whitespace"}}, "its pre_tokenizer is neither"),
            ({"use_regex": True}, "its pre_tokenizer is neither"),
            ({"add_prefix_space": True}, "its pre_tokenizer is neither"),
            ({"continuing_subword_prefix": "##"}, "its tokens that continue a word begin with '##'"),
            ({"added_tokens": []}, "id 0 is the ordinary token '<|endoftext|>'"),
            ({"also": "<think>"}, "has the added token '<think>', but"),
            ({"without": "!"}, "1 of the 256 single bytes are no tokens, 0x21 first"),
            ({"vocab": {"zz": 300}}, "the tokens b'.*' and b'.*' both have the id 300"),
            ({"vocab": {"zz": 65536}}, "id 65536 is not among 1 to 65535"),
        ],
    )
    def test_a_file_that_gives_other_ids_is_refused(
        self, path: Path, changes: dict[str, Any], what: str
    ) -> None:
        document = json.loads(world_json.files(own({300: b"hello"}))[FILE])
        for key, value in changes.items():
            if key in ("normalizer", "pre_tokenizer", "added_tokens"):
                document[key] = value
            elif key == "also":
                document["added_tokens"].append({**document["added_tokens"][0], "id": 301, "content": value})
            elif key == "without":
                del document["model"]["vocab"][value]
            elif key == "vocab":
                document["model"]["vocab"] |= value
            elif key == "continuing_subword_prefix":
                document["model"][key] = value
            else:
                document["pre_tokenizer"]["pretokenizers"][-1][key] = value
        with pytest.raises(TokenizerError, match=rf"{path}.*{what}"):
            load_tokenizer(put(path, document))

    def test_cuts_that_tokens_reach_across_are_refused(self, path: Path, world: WorldTokenizer) -> None:
        document = json.loads(world_json.files(world)[FILE])
        document["model"]["vocab"]["aĠb"] = 65530
        with pytest.raises(TokenizerError, match="its pre_tokenizer is neither"):
            load_tokenizer(put(path, document))

    def test_a_byte_level_bpe_with_the_word_in_it_is_one_still(self, path: Path) -> None:
        train_bpe(["the cat sat on the mat"] * 4, 300).save(path.parent)
        document = json.loads(path.read_text("utf-8"))
        document["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": False}
        assert load_tokenizer(put(path, document)).name == FILE
