"""A tokenizer is found by name, by path and beside a checkpoint; the wrong one is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from receptance.errors import TokenizerError
from receptance.tokenizers import find_tokenizer, load, load_tokenizer, train_bpe, world_json
from receptance.tokenizers.world import WorldTokenizer

from .conftest import PACKAGE_VOCABULARY

PROSE = ["the cat sat on the mat and the hat"] * 4


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.pth"
    path.touch()
    return path


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr(load, "find_spec", find_nothing)


@pytest.mark.parametrize("name", ["world", "World", "rwkv_vocab_v20230424"])
def test_the_world_vocabulary_comes_from_an_installed_package(name: str) -> None:
    assert load_tokenizer(name).name == "rwkv_vocab_v20230424"


def test_bytes_need_no_file(nothing_installed: None) -> None:
    assert load_tokenizer("bytes").name == "bytes"


@pytest.mark.parametrize("name", ["20B_tokenizer", "20b", "pile"])
def test_the_pile_tokenizer_comes_from_a_package_that_has_it(
    name: str, pile_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_it(package: str) -> ModuleSpec | None:
        spec = ModuleSpec(package, None, is_package=True)
        spec.submodule_search_locations = [str(tmp_path)]
        return spec if package == "rwkv" else None

    monkeypatch.setattr(load, "find_spec", find_it)
    with pytest.raises(TokenizerError, match=rf"20B_tokenizer\.json, which was not found in {tmp_path}\."):
        load_tokenizer(name)
    shutil.copy(pile_file, tmp_path)
    assert load_tokenizer(name).name == "20B_tokenizer"


def test_a_vocabulary_that_no_package_has_is_an_error_that_says_what_to_do(nothing_installed: None) -> None:
    with pytest.raises(TokenizerError, match=r"packages rwkv.*not installed.*`pip install rwkv` brings it"):
        load_tokenizer("world")


def test_a_path_gives_the_file_there(pile_file: Path) -> None:
    assert load_tokenizer(str(pile_file)).name == "20B_tokenizer"
    assert load_tokenizer(PACKAGE_VOCABULARY).name == "rwkv_vocab_v20230424"


def test_a_folder_or_a_checkpoint_gives_the_file_in_the_folder(checkpoint: Path) -> None:
    trained = train_bpe(PROSE, 300)
    trained.save(checkpoint.parent)
    for path in (checkpoint, checkpoint.parent):
        assert load_tokenizer(path).encode("the cat") == trained.encode("the cat")


def test_a_folder_with_two_vocabularies_is_not_guessed_about(checkpoint: Path) -> None:
    train_bpe(PROSE, 300).save(checkpoint.parent)
    shutil.copy(PACKAGE_VOCABULARY, checkpoint.parent)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json and rwkv_vocab_v20230424\.txt; give the path"):
        load_tokenizer(checkpoint)


def test_two_files_of_the_same_vocabulary_are_one(checkpoint: Path, world: WorldTokenizer) -> None:
    (checkpoint.parent / "tokenizer.json").write_text(world_json.files(world)["tokenizer.json"], "utf-8")
    world.save(checkpoint.parent)
    assert load_tokenizer(checkpoint).name == "rwkv_vocab_v20230424"


def test_a_vocabulary_that_is_named_is_found_in_a_file_that_is_called_otherwise(
    checkpoint: Path, world: WorldTokenizer, nothing_installed: None
) -> None:
    with pytest.raises(TokenizerError, match="was not found"):
        find_tokenizer(checkpoint, "rwkv_vocab_v20230424", 65536)
    (checkpoint.parent / "tokenizer.json").write_text(world_json.files(world)["tokenizer.json"], "utf-8")
    assert find_tokenizer(checkpoint, "rwkv_vocab_v20230424", 65536).name == "rwkv_vocab_v20230424"
    assert find_tokenizer(checkpoint, None, 65536).name == "rwkv_vocab_v20230424"


def test_a_folder_without_vocabulary_is_an_error_that_says_what_is_looked_for(checkpoint: Path) -> None:
    with pytest.raises(TokenizerError, match=r"none of tokenizer\.json, 20B_tokenizer\.json, rwkv_vocab"):
        load_tokenizer(checkpoint)


@pytest.mark.parametrize(
    "name",
    ["gpt2", "no/such/folder", "missing.json", "missing.txt", "", "a" * 5000, "~nobody-of-that-name/x"],
)
def test_what_does_not_exist_is_an_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TokenizerError):
        load_tokenizer(name)


def test_the_name_in_the_header_decides(checkpoint: Path) -> None:
    shutil.copy(PACKAGE_VOCABULARY, checkpoint.parent)
    assert find_tokenizer(checkpoint, "bytes", 65536).name == "bytes"
    train_bpe(PROSE, 300).save(checkpoint.parent)
    assert find_tokenizer(checkpoint, "tokenizer.json", 65536).name == "tokenizer.json"
    assert find_tokenizer(checkpoint, "rwkv_vocab_v20230424", 65536).name == "rwkv_vocab_v20230424"


def test_a_vocabulary_of_ones_own_is_found_by_its_files_name(checkpoint: Path) -> None:
    lines = [f"{value + 1} {bytes([value])!r} 1\n" for value in range(256)]
    (checkpoint.parent / "own.txt").write_text("".join(lines))
    assert find_tokenizer(checkpoint, "own.txt", 257).name == "own.txt"


@pytest.mark.parametrize(
    "name",
    [
        "../own.txt",
        "/etc/own.json",
        "own",
        "",
        ".",
        "..",
        ".json/..",
        "own.txt/",
        "a\0.txt",
        "own.pth",
        "日" * 200 + ".txt",
        "\ud800.txt",
    ],
)
def test_a_hostile_name_in_the_header_reads_no_other_folder(checkpoint: Path, name: str) -> None:
    (checkpoint.parent.parent / "own.txt").touch()
    with pytest.raises(TokenizerError, match=r"is no tokenizer's name|was not found"):
        find_tokenizer(checkpoint, name, 65536)


@pytest.mark.parametrize(("rows", "name"), [(65536, "rwkv_vocab_v20230424"), (256, "bytes")])
def test_without_name_or_file_the_size_of_the_model_decides(checkpoint: Path, rows: int, name: str) -> None:
    assert find_tokenizer(checkpoint, None, rows).name == name


def test_among_several_files_the_one_of_the_models_size_is_taken(checkpoint: Path, pile_file: Path) -> None:
    shutil.copy(PACKAGE_VOCABULARY, checkpoint.parent)
    shutil.copy(pile_file, checkpoint.parent)
    trained = train_bpe(PROSE, 300)
    trained.save(checkpoint.parent)
    assert find_tokenizer(checkpoint, None, 65536).name == "rwkv_vocab_v20230424"
    assert find_tokenizer(checkpoint.parent, None, 50277).name == "20B_tokenizer"
    assert find_tokenizer(checkpoint, None, trained.vocabulary_size).name == "tokenizer.json"


def test_a_model_of_a_published_size_does_not_take_a_smaller_vocabulary_beside_it(
    checkpoint: Path, pile_file: Path
) -> None:
    shutil.copy(pile_file, checkpoint.parent)
    assert find_tokenizer(checkpoint, None, 65536).name == "rwkv_vocab_v20230424"


def test_rows_rounded_up_are_served_by_the_file_beside(checkpoint: Path) -> None:
    trained = train_bpe(PROSE, 300)
    trained.save(checkpoint.parent)
    assert find_tokenizer(checkpoint, None, 320).name == "tokenizer.json"


@pytest.mark.parametrize("name", ["rwkv_vocab_v20230424", None])
def test_a_tokenizer_that_needs_more_rows_than_the_model_has_is_refused(
    checkpoint: Path, name: str | None
) -> None:
    shutil.copy(PACKAGE_VOCABULARY, checkpoint.parent)
    with pytest.raises(
        TokenizerError, match=r"model has 50,000 rows, .* needs 65,536: it belongs to another"
    ):
        find_tokenizer(checkpoint, name, 50_000)


def test_a_model_without_any_tokenizer_is_an_error_that_says_where_it_was_looked_for(
    checkpoint: Path,
) -> None:
    with pytest.raises(TokenizerError, match=rf"{checkpoint.parent}: has none of .* 1,234 rows"):
        find_tokenizer(checkpoint, None, 1234)
    with pytest.raises(
        TokenizerError, match=rf"tokenizer\.json, which was not found in {checkpoint.parent}\."
    ):
        find_tokenizer(checkpoint, "tokenizer.json", 1234)


def test_importing_and_finding_import_neither_torch_nor_the_packages_searched() -> None:
    code = (
        "import sys, receptance.tokenizers as t; assert 'tokenizers' not in sys.modules; "
        "t.load_tokenizer('world'); assert not {'torch', 'rwkv', 'tokenizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
