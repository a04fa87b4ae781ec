"""A tokenizer.json gives the ids of the package `tokenizers`, but text never becomes a special token."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenizers
from receptance.errors import TokenizerError
from receptance.tokenizers import Tokenizer, load_tokenizer, train_bpe

SPELLS_SPECIAL = [
    "<|endoftext|>",
    "<|padding|>",
    "a<|endoftext|>b",
    " <|endoftext|>\n<|endoftext|>",
    "<|<|padding|>",
]
CODE = Path(str(sys.modules["json"].__file__)).read_text("utf-8")
PROSE = "It was a bright cold day in April, and the clocks were striking thirteen. "

any_text = st.text(st.characters(codec="utf-8"), max_size=40) | st.text(
    "aeit  \n\r\t.,;=()[]_\"'0123456789<|>-日本語のé\u0301", max_size=60
)


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_bpe([CODE, PROSE], 600)


@pytest.fixture(scope="module")
def contents(trained: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a good tokenizer.json holds."""
    path = trained.save(tmp_path_factory.mktemp("trained"))
    assert path is not None
    read: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return read


def write(folder: Path, contents: dict[str, Any], **changed: object) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(contents | changed), "utf-8")
    return path


def added(number: int, text: str, *, special: bool) -> dict[str, Any]:
    matching = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": text, "special": special, **matching}


def test_every_vector_is_exact_but_for_special_tokens(pile: Tokenizer, vectors: dict[str, Any]) -> None:
    spelled = [vector["text"] for vector in vectors["encode"] if {0, 1} & set(vector["neox"])]
    assert sorted(spelled) == ["<|endoftext|>", "<|padding|>"]
    for vector in vectors["encode"]:
        if vector["text"] not in spelled:
            assert pile.encode(vector["text"]) == vector["neox"]
            assert (pile.decode(vector["neox"]) == vector["text"]) == vector["neox_roundtrip"]
    for vector in vectors["neox_decode"]:
        assert pile.decode(vector["ids"]) == vector["decode_skip_special"]


@settings(max_examples=200)
@given(text=any_text)
def test_any_text_has_the_ids_of_the_package(
    pile: Tokenizer, pile_engine: tokenizers.Tokenizer, text: str
) -> None:
    ids = pile.encode(text)
    assert ids == pile_engine.encode(text).ids
    assert pile.decode(ids) == unicodedata.normalize("NFC", text)


@given(data=st.data())
def test_any_ids_have_the_text_of_the_package(
    pile: Tokenizer, pile_engine: tokenizers.Tokenizer, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(0, 260) | st.integers(0, 50276), max_size=20))
    assert pile.decode(ids) == pile_engine.decode(ids, skip_special_tokens=True)


@pytest.fixture(scope="module")
def pile_engine(pile_file: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(pile_file))


def test_the_pile_tokenizer_says_what_a_model_needs(pile: Tokenizer) -> None:
    assert (pile.name, pile.vocabulary_size, pile.end_of_text) == ("20B_tokenizer", 50277, 0)


@pytest.mark.parametrize("text", SPELLS_SPECIAL)
def test_text_that_spells_a_special_token_stays_text(pile: Tokenizer, trained: Tokenizer, text: str) -> None:
    for tokenizer in (pile, trained):
        for ids in (tokenizer.encode(text), *tokenizer.encode_batch(["x", text])[1:]):
            assert not {0, 1} & set(ids) or (tokenizer is trained and 0 not in ids)
            assert tokenizer.decode(ids) == text


def test_runs_of_spaces_are_added_tokens_and_text(pile: Tokenizer) -> None:
    assert pile.encode(" " * 24) == [50254]
    assert pile.decode([50254]) == " " * 24
    assert pile.decode(pile.encode("a <|endoftext|>      b")) == "a <|endoftext|>      b"


def test_saving_keeps_the_file_and_its_name(pile: Tokenizer, pile_file: Path, tmp_path: Path) -> None:
    path = pile.save(tmp_path)
    assert path == tmp_path / "20B_tokenizer.json"
    assert path.read_bytes() == pile_file.read_bytes()
    other = tmp_path / "other.json"
    path.rename(other)
    assert load_tokenizer(other).name == "tokenizer.json"


@given(text=any_text)
def test_a_trained_tokenizer_gives_every_text_back(trained: Tokenizer, text: str) -> None:
    ids = trained.encode(text)
    assert 0 not in ids
    assert trained.decode(ids) == text


def test_a_trained_tokenizer_learns_from_its_texts(trained: Tokenizer) -> None:
    assert (trained.name, trained.vocabulary_size, trained.end_of_text) == ("tokenizer.json", 600, 0)
    assert len(trained.encode(CODE)) < len(CODE.encode()) / 2
    assert len(trained.encode("def")) == 1


def test_hugging_face_reads_what_was_trained(trained: Tokenizer, tmp_path: Path) -> None:
    engine = tokenizers.Tokenizer.from_file(str(trained.save(tmp_path)))
    assert engine.encode(CODE).ids == trained.encode(CODE)
    assert engine.decode(trained.encode(CODE)) == CODE
    assert engine.token_to_id("<|endoftext|>") == 0


def test_training_twice_gives_the_same_tokenizer(trained: Tokenizer, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from receptance.tokenizers import train_bpe; "
        "train_bpe([Path(sys.argv[1]).read_text('utf-8'), sys.argv[2]], 600).save(Path(sys.argv[3]))"
    )
    file = str(sys.modules["json"].__file__)
    subprocess.run([sys.executable, "-c", code, file, PROSE, str(tmp_path)], check=True)
    other = (tmp_path / "tokenizer.json").read_bytes()
    path = trained.save(tmp_path)
    assert path is not None
    assert hashlib.sha256(other).digest() == hashlib.sha256(path.read_bytes()).digest()


def test_texts_too_small_give_fewer_tokens() -> None:
    assert train_bpe([], 1000).vocabulary_size == 257
    assert train_bpe(["abc abc"], 1000).vocabulary_size < 270


def test_training_refuses_what_cannot_be() -> None:
    with pytest.raises(TokenizerError, match=r"a vocabulary of 256 was asked for; .* need 257"):
        train_bpe([PROSE], 256)
    with pytest.raises(TokenizerError, match=r"position 1 .* lone surrogate"):
        train_bpe([PROSE, "a\udc00"], 300)


def test_settings_of_the_file_that_lose_or_add_text_are_not_obeyed(
    contents: dict[str, Any], trained: Tokenizer, tmp_path: Path
) -> None:
    path = write(
        tmp_path,
        contents,
        truncation={"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 100},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<|endoftext|>",
        },
        post_processor={
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "e", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"e": {"id": "e", "ids": [0], "tokens": ["<|endoftext|>"]}},
        },
        model=contents["model"] | {"dropout": 0.9},
    )
    assert load_tokenizer(path).encode(PROSE) == trained.encode(PROSE)


def test_what_makes_a_text_many_times_as_long_is_refused(contents: dict[str, Any], tmp_path: Path) -> None:
    ten = {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaa"}
    for normalizer in (ten, {"type": "Sequence", "normalizers": [{"type": "NFC"}, ten, ten]}):
        with pytest.raises(TokenizerError, match=r"has a normalizer 'Replace', which may turn"):
            load_tokenizer(write(tmp_path, contents, normalizer=normalizer))
    forms = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}
    assert load_tokenizer(write(tmp_path, contents, normalizer=forms)).encode("Ａ") == [
        contents["model"]["vocab"]["a"]
    ]


def test_an_added_token_of_absurd_length_is_refused(contents: dict[str, Any], tmp_path: Path) -> None:
    for text in ("x" * 5000, "\u00e9" * 5000):
        tokens = [*contents["added_tokens"], added(5000, text, special=False)]
        with pytest.raises(TokenizerError, match=r"added token has more than 4,096 characters"):
            load_tokenizer(write(tmp_path, contents, added_tokens=tokens))


def test_an_expression_that_the_package_gives_up_on_is_an_error(
    contents: dict[str, Any], tmp_path: Path
) -> None:
    slow = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}
    tokenizer = load_tokenizer(write(tmp_path, contents, pre_tokenizer=slow))
    with pytest.raises(TokenizerError, match="the package tokenizers gives up on it"):
        tokenizer.encode("x" * 100)


@pytest.mark.parametrize("whole_words", [True, False])
def test_a_merge_that_spells_a_special_token_is_undone(
    contents: dict[str, Any], tmp_path: Path, whole_words: bool
) -> None:
    text, merges, vocabulary = "<|endoftext|>", [], dict(contents["model"]["vocab"])
    for length in range(2, len(text) + 1):
        vocabulary.setdefault(text[:length], len(vocabulary))
        merges.append([text[: length - 1], text[length - 1]])
    model = contents["model"] | {"vocab": vocabulary, "merges": merges, "ignore_merges": whole_words}
    cut = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    path = write(tmp_path, contents, model=model, pre_tokenizer=cut)

    engine = tokenizers.Tokenizer.from_file(str(path))
    engine.encode_special_tokens = True
    assert engine.encode(text).ids == [0]
    tokenizer = load_tokenizer(path)
    assert tokenizer.encode(text) == [vocabulary[character] for character in text]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_end_of_a_text_is_found_under_its_usual_names(contents: dict[str, Any], tmp_path: Path) -> None:
    model = contents["model"]
    vocabulary = {token: number for token, number in model["vocab"].items() if number}
    first = min(number for token, number in vocabulary.items() if len(token) > 1)
    vocabulary = {token: number for token, number in vocabulary.items() if number != first}
    merges = [
        pair for pair in model["merges"] if "".join(pair) in vocabulary and set(pair) <= set(vocabulary)
    ]
    for name, number in (("</s>", first), ("<s>", 0)):
        changed = model | {"vocab": vocabulary | {name: number}, "merges": merges}
        path = write(tmp_path, contents, model=changed, added_tokens=[added(number, name, special=True)])
        tokenizer = load_tokenizer(path)
        assert tokenizer.end_of_text == number
        assert number not in tokenizer.encode(name)
    plain = model | {"vocab": vocabulary | {"zero": 0}, "merges": merges}
    path = write(tmp_path, contents, model=plain, added_tokens=[])
    with pytest.raises(TokenizerError, match=r"no token ends a document: id 0 is ordinary text"):
        load_tokenizer(path)


def test_files_that_are_no_byte_level_bpe_are_refused(contents: dict[str, Any], tmp_path: Path) -> None:
    model, vocabulary = contents["model"], contents["model"]["vocab"]
    lacking = {token: number for token, number in vocabulary.items() if "~" not in token}
    merges = [pair for pair in model["merges"] if "~" not in "".join(pair)]
    for changed, what in [
        ({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}, "holds a WordLevel model"),
        (
            model | {"vocab": vocabulary | {"▁word": 600}},
            "token 600 is '▁word', where '▁' stands for no byte",
        ),
        (model | {"vocab": vocabulary | {"a b": 600}}, "where ' ' stands for no byte"),
        (
            model | {"vocab": lacking, "merges": merges},
            "1 of the bytes that UTF-8 uses are no tokens, 0x7e first",
        ),
        (model | {"end_of_word_suffix": "</w>"}, "without prefixes and suffixes"),
        (model | {"merges": [["no", "such"]]}, r"is not a tokenizer\.json"),
    ]:
        path = write(tmp_path, contents, model=changed)
        with pytest.raises(TokenizerError, match=rf"tokenizer\.json: .*{what}"):
            load_tokenizer(path)


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"model":',
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"\xff\xfe",
        b'{"version":"1.0"}',
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, source: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(source)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: "):
        load_tokenizer(path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(contents: dict[str, Any], tmp_path: Path, part: float) -> None:
    path = write(tmp_path, contents)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(TokenizerError, match=r"is not a tokenizer\.json|is not UTF-8"):
        load_tokenizer(path)
