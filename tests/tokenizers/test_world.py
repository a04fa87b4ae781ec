"""The World tokenizer gives the ids of the official one, and a damaged file gives none."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rwkv import rwkv_tokenizer  # type: ignore[import-untyped]  # a package without types

from receptance import native
from receptance.errors import TokenizerError
from receptance.tokenizers import load_tokenizer, world
from receptance.tokenizers.world import WorldTokenizer

from .conftest import PACKAGE_VOCABULARY

SINGLE = [f"{value + 1} {bytes([value])!r} 1" for value in range(256)]


def vocabulary_file(folder: Path, *lines: str, name: str = "own.txt", end: str = "\n") -> Path:
    path = folder / name
    path.write_bytes("".join(line + end for line in (*SINGLE, *lines)).encode())
    return path


@pytest.fixture(params=["native", "reference"])
def tokenizer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> WorldTokenizer:
    """The published vocabulary, with the compiled library and without."""
    if request.param == "native":
        if native.library() is None:
            pytest.skip(str(native.unavailable_reason()))
        found: WorldTokenizer = request.getfixturevalue("world")
        return found
    monkeypatch.setattr(native, "library", lambda: None)
    return world.read(PACKAGE_VOCABULARY)


def test_every_vector_is_exact(tokenizer: WorldTokenizer, vectors: dict[str, Any]) -> None:
    for vector in vectors["encode"]:
        assert tokenizer.encode(vector["text"]) == vector["world"]
        assert tokenizer.decode(vector["world"]) == vector["text"]
    for vector in vectors["world_encode_bytes"]:
        data = bytes.fromhex(vector["bytes_hex"])
        assert tokenizer.encode_bytes(data) == vector["world"]
        assert tokenizer.decode_bytes(vector["world"]) == data
    known = [vector for vector in vectors["world_decode"] if vector["bytes_hex"] is not None]
    assert len(known) > 100
    for vector in known:
        assert tokenizer.decode_bytes(vector["ids"]) == bytes.fromhex(vector["bytes_hex"])
        assert tokenizer.decode(vector["ids"]) == vector["utf8_replace"]


mixed_text = st.text(st.characters(codec="utf-8"), max_size=40) | st.text(
    "aeit  \n\r\t.,;=()[]_\"'0123456789-日本語のé", max_size=60
)


@settings(max_examples=300)
@given(text=mixed_text)
def test_any_text_has_the_ids_of_the_official_tokenizer(
    world: WorldTokenizer, official_world: rwkv_tokenizer.TRIE_TOKENIZER, text: str
) -> None:
    ids = world.encode(text)
    assert ids == official_world.encode(text)
    assert world.decode(ids) == text


@settings(max_examples=300)
@given(data=st.binary(max_size=60))
def test_any_bytes_have_the_ids_of_the_official_tokenizer(
    world: WorldTokenizer, official_world: rwkv_tokenizer.TRIE_TOKENIZER, data: bytes
) -> None:
    ids = world.encode_bytes(data)
    assert ids == official_world.encodeBytes(data)
    assert world.decode_bytes(ids) == data


def test_a_long_source_text_has_the_ids_of_the_official_tokenizer(
    tokenizer: WorldTokenizer, official_world: rwkv_tokenizer.TRIE_TOKENIZER
) -> None:
    text = Path(str(sys.modules["argparse"].__file__)).read_text("utf-8")
    assert tokenizer.encode(text) == official_world.encode(text)


def test_text_never_becomes_the_end_of_a_text(world: WorldTokenizer) -> None:
    assert world.encode("\0") == [1]
    assert world.encode("<|endoftext|>") == [61, 125, 25258, 7588, 2318, 125, 63]


def test_rows_without_a_token_show_as_unreadable_text(world: WorldTokenizer) -> None:
    assert world.vocabulary_size == 65536
    assert world.decode([65530, 65535]) == "\ufffd\ufffd"


def test_line_ends_do_not_change_the_vocabulary(world: WorldTokenizer, tmp_path: Path) -> None:
    source = PACKAGE_VOCABULARY.read_bytes().replace(b"\r\n", b"\n")
    (tmp_path / "lf.txt").write_bytes(source)
    (tmp_path / "crlf.txt").write_bytes(source.replace(b"\n", b"\r\n"))
    for name in ("lf.txt", "crlf.txt"):
        found = load_tokenizer(tmp_path / name)
        assert (found.name, found.vocabulary_size) == ("rwkv_vocab_v20230424", 65536)
        assert found.encode("\r\nHello\n world") == world.encode("\r\nHello\n world")


def test_saving_writes_a_file_that_loads_as_the_same(world: WorldTokenizer, tmp_path: Path) -> None:
    path = world.save(tmp_path)
    assert path == tmp_path / "rwkv_vocab_v20230424.txt"
    assert path.read_bytes() == PACKAGE_VOCABULARY.read_bytes()
    assert list(tmp_path.iterdir()) == [path]
    assert load_tokenizer(path).name == world.name


def test_a_vocabulary_of_ones_own_has_its_files_name_and_size(tmp_path: Path) -> None:
    path = vocabulary_file(
        tmp_path, "300 'hello' 5", '299 "it\'s \\u00e9" 7', "298 b'\\xff\\xfe' 2", end="\r\n"
    )
    own = load_tokenizer(path)
    assert (own.name, own.vocabulary_size) == ("own.txt", 301)
    assert own.encode("hello it's é") == [300, 33, 299]
    assert own.decode_bytes([298]) == b"\xff\xfe"
    (tmp_path / "run").mkdir()
    assert own.save(tmp_path / "run") == tmp_path / "run" / "own.txt"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("", "is not an id"),
        ("300 'hello'", "is not an id"),
        ("300 'hello' 5 5", "is not an id"),
        ("300  'hello' 5", "is not an id"),
        ("-1 'hello' 5", "is not an id"),
        ("٣ 'hello' 5", "is not an id"),
        ("300 'hello' + 'x' 6", "is not an id"),
        ("300 'hel' 'lo' 5", "is not an id"),
        ("300 f'hello' 5", "is not an id"),
        ("300 r'hello' 5", "is not an id"),
        ("300 'hello\" 5", "is not an id"),
        ("300 'hel\\lo' 5", "is not an id"),
        ("300 '\\N{DIGIT ONE}x' 2", "is not an id"),
        ("300 ['hello'] 5", "is not an id"),
        ("300 __import__('os').system('touch hacked') 5", "is not an id"),
        ("300 " + "(" * 1000 + " 5", "is not an id"),
        ("300 'hello' 4", "the literal has 5 bytes, but the line says 4"),
        ("300 '日本' 2", "the literal has 6 bytes, but the line says 2"),
        ("300 '' 0", "must not be empty"),
        ("300 '\\ud800x' 4", "surrogates not allowed"),
        ("300 '\\Uffffffffx' 4", "unicode"),
        ("300 b'日本' 6", "ASCII"),
        ("0 'hello' 5", "id 0 is not among 1 to 65535"),
        ("65536 'hello' 5", "id 65536 is not among 1 to 65535"),
        ("256 'hello' 5", "id 256 stands on line 256 already"),
        ("300 'a' 1", "the token b'a' stands on line 98 already"),
        (f"300 '{'x' * 5000}' 5000", "no line has more than 4,096"),
        ("300 '" + "\\\\" * 2000, "is not an id"),
    ],
)
def test_a_damaged_line_is_an_error_that_names_it(tmp_path: Path, line: str, what: str) -> None:
    path = vocabulary_file(tmp_path, "299 'fine' 4", line, "301 'more' 4")
    with pytest.raises(TokenizerError, match=rf"own\.txt, line 258: .*{what}"):
        load_tokenizer(path)
    assert sorted(tmp_path.iterdir()) == [path]


def test_bytes_that_are_not_utf8_are_an_error_that_names_the_line(tmp_path: Path) -> None:
    path = vocabulary_file(tmp_path)
    path.write_bytes(path.read_bytes() + b"300 'caf\xe9' 4\n")
    with pytest.raises(TokenizerError, match="line 257: 'utf-8' codec can't decode byte 0xe9"):
        load_tokenizer(path)


def test_a_file_without_every_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("\n".join(SINGLE[:200]))
    with pytest.raises(TokenizerError, match=r"56 of the 256 single bytes .* 0xc8 first.* 200 lines"):
        load_tokenizer(path)
    path.write_bytes(b"")
    with pytest.raises(TokenizerError, match="256 of the 256 single bytes"):
        load_tokenizer(path)


def test_tokens_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["".join(letters[(i * j) % 26] for j in range(1, 2000)) + f"{i:05}" for i in range(600)]
    path = vocabulary_file(tmp_path, *(f"{300 + i} {t!r} {len(t)}" for i, t in enumerate(tokens)))
    with pytest.raises(
        TokenizerError, match=r"its 856 tokens have 1,202,656 bytes together, .* 1,048,576 at most"
    ):
        load_tokenizer(path)


def test_the_published_name_is_kept_for_the_published_vocabulary(tmp_path: Path) -> None:
    whole = PACKAGE_VOCABULARY.read_bytes().splitlines(keepends=True)
    path = tmp_path / "rwkv_vocab_v20230424.txt"
    path.write_bytes(b"".join(whole[:40_000]))  # every line is well-formed, but the download broke off
    with pytest.raises(TokenizerError, match="40,000 well-formed lines, but is not that vocabulary"):
        load_tokenizer(path)


@pytest.mark.parametrize("line", [b"\n", b"\0" * 100, b"\\" * 100, b"'" * 100, b"1 'a' 1\n", b"9" * 100])
def test_a_hostile_file_is_refused_in_time(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "own.txt"
    path.write_bytes(line * (8_000_000 // len(line)))
    start = time.process_time()
    with pytest.raises(TokenizerError, match=r"own\.txt, line [12]:"):
        load_tokenizer(path)
    assert time.process_time() - start < 20
