"""Converting keeps every bit, brings the tokenizer along and never writes over anything."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from receptance import checkpoints
from receptance.checkpoints.writers import FormatName
from receptance.errors import CheckpointError, ConfigError
from receptance.tokenizers import find_tokenizer, load_tokenizer
from tests.checkpoints.files import assert_same_weights, random_model
from tests.checkpoints.huggingface.folders import small_model
from tests.checkpoints.memory import memory_taken, needs_memory_figures


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    path = tmp_path / "source" / "model.safetensors"
    checkpoints.save(random_model(), path, metadata={"note": "mine"})
    return path


@pytest.mark.parametrize(
    ("name", "format_name"),
    [
        ("model.safetensors", "receptance"),
        ("model.pth", "pth"),
        ("model", "transformers"),
        ("rwkv-4.0", "transformers"),
    ],
)
def test_the_destination_tells_the_format(
    tmp_path: Path, source: Path, name: str, format_name: FormatName
) -> None:
    result = checkpoints.convert(source, tmp_path / name)
    assert result.destination.format == format_name
    assert result.destination.path == tmp_path / name
    assert result.largest_difference <= 1e-6
    assert_same_weights(checkpoints.load(tmp_path / name).model, random_model())


def test_the_format_may_be_given(tmp_path: Path, source: Path) -> None:
    assert checkpoints.convert(source, tmp_path / "model.bin", format="pth").destination.format == "pth"
    with pytest.raises(ConfigError, match=r"'\.zip' says nothing about the format"):
        checkpoints.convert(source, tmp_path / "other.zip")


def test_metadata_and_the_name_of_the_tokenizer_go_along(tmp_path: Path) -> None:
    checkpoints.save(random_model(), tmp_path / "a.safetensors", tokenizer="bytes", metadata={"note": "mine"})
    result = checkpoints.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert (result.destination.tokenizer, result.destination.metadata) == ("bytes", {"note": "mine"})
    assert result.tokenizer_file is None


def test_hashes_are_those_of_the_files(tmp_path: Path, source: Path) -> None:
    result = checkpoints.convert(source, tmp_path / "hf")
    written = tmp_path / "hf" / "model.safetensors"
    assert result.source_sha256 == {source: hashlib.sha256(source.read_bytes()).hexdigest()}
    assert result.destination_sha256 == {written: hashlib.sha256(written.read_bytes()).hexdigest()}


def test_a_dtype_costs_what_it_costs(tmp_path: Path, source: Path) -> None:
    result = checkpoints.convert(source, tmp_path / "a.pth", dtype=torch.bfloat16)
    assert result.destination.dtype == torch.bfloat16
    assert 1e-4 < result.largest_difference < 0.5
    assert_same_weights(
        checkpoints.load(tmp_path / "a.pth").model, random_model().cast_matrices(torch.bfloat16)
    )


def test_there_and_back_is_the_same_file(tmp_path: Path, source: Path) -> None:
    checkpoints.convert(source, tmp_path / "a.pth")
    checkpoints.convert(tmp_path / "a.pth", tmp_path / "hf")
    back = checkpoints.convert(tmp_path / "hf", tmp_path / "b.pth")
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
    assert_same_weights(checkpoints.load(back.destination.path).model, random_model())


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth", "model"])
def test_nothing_is_written_over(tmp_path: Path, source: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(ConfigError, match="exists already"):
        checkpoints.convert(source, tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"mine"


def test_a_source_that_cannot_be_loaded_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "bad.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError):
        checkpoints.convert(tmp_path / "bad.pth", tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pth"]


class TestTokenizerFiles:
    """The vocabulary beside the source is put beside the destination."""

    @pytest.fixture
    def vocabulary(self, shared: Path) -> Path:
        return shared / "data" / "tokenizers" / "20B_tokenizer.json"

    @pytest.fixture
    def pile_model(self, tmp_path: Path, vocabulary: Path) -> Path:
        (tmp_path / "pile").mkdir()
        model = random_model(vocabulary_size=50277, num_layers=2, hidden_size=8)
        checkpoints.save(model, tmp_path / "pile" / "model.pth", format="pth")
        (tmp_path / "pile" / "20B_tokenizer.json").write_bytes(vocabulary.read_bytes())
        return tmp_path / "pile" / "model.pth"

    def test_it_is_called_as_transformers_calls_it(
        self, tmp_path: Path, pile_model: Path, vocabulary: Path
    ) -> None:
        result = checkpoints.convert(pile_model, tmp_path / "hf")
        assert result.tokenizer_file == tmp_path / "hf" / "tokenizer.json"
        assert json.loads(result.tokenizer_file.read_text()) == json.loads(vocabulary.read_text())
        assert result.destination.tokenizer == "tokenizer.json"
        transformers = pytest.importorskip("transformers")
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
        assert theirs("Hello world")["input_ids"] == [12092, 1533]

    @pytest.mark.filterwarnings("ignore")  # transformers on the models that it does not know
    @pytest.mark.parametrize(
        ("generation", "format_name"),
        [("4", "transformers"), ("6", "transformers"), ("7", "transformers"), ("7", "transformers-native")],
    )
    def test_transformers_reads_the_ids_of_world(
        self, tmp_path: Path, generation: str, format_name: FormatName
    ) -> None:
        sizes = {"vocabulary_size": 65536, "num_layers": 2, "hidden_size": 64}
        model = random_model(**sizes) if generation == "4" else small_model(generation, **sizes)
        (tmp_path / "world").mkdir()
        checkpoints.save(model, tmp_path / "world" / "model.safetensors", tokenizer="rwkv_vocab_v20230424")
        world = load_tokenizer("world")
        world.save(tmp_path / "world")
        result = checkpoints.convert(
            tmp_path / "world" / "model.safetensors", tmp_path / "hf", format=format_name
        )
        assert result.tokenizer_file == tmp_path / "hf" / "rwkv_vocab_v20230424.txt"

        transformers = pytest.importorskip("transformers")
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
        text = " User: 你好,\n\n  x = 1\r\n\tcafé\0 "
        assert theirs(text)["input_ids"] == world.encode(text)
        assert theirs.decode(world.encode(text)) == text
        assert theirs("<|endoftext|>")["input_ids"] == [theirs.eos_token_id] == [0]
        chat = [{"role": "user", "content": " Hi! "}, {"role": "assistant", "content": "Hello."}]
        assert theirs.apply_chat_template(chat, tokenize=False) == "User: Hi!\n\nAssistant: Hello.\n\n"

        (tmp_path / "back").mkdir()
        back = checkpoints.convert(tmp_path / "hf", tmp_path / "back" / "model.safetensors").destination
        assert back.tokenizer == "rwkv_vocab_v20230424"
        assert find_tokenizer(back.path, back.tokenizer, 65536).encode(text) == world.encode(text)

    def test_line_ends_do_not_make_a_vocabulary_another(self, tmp_path: Path, pile_model: Path) -> None:
        vocabulary = pile_model.with_name("20B_tokenizer.json")
        lines = vocabulary.read_bytes().splitlines()
        (tmp_path / vocabulary.name).write_bytes(b"\r\n".join(lines))
        checkpoints.convert(pile_model, tmp_path / "model.safetensors")
        assert (tmp_path / vocabulary.name).read_bytes() == vocabulary.read_bytes()

    def test_another_one_in_its_place_is_not_written_over(self, tmp_path: Path, pile_model: Path) -> None:
        (tmp_path / "20B_tokenizer.json").write_text("mine")
        with pytest.raises(ConfigError, match="is not the tokenizer of"):
            checkpoints.convert(pile_model, tmp_path / "model.safetensors")
        assert (tmp_path / "20B_tokenizer.json").read_text() == "mine"
        assert not (tmp_path / "model.safetensors").exists()


def test_a_conversion_tells_how_far_it_is(tmp_path: Path, source: Path) -> None:
    told: dict[str, list[tuple[int, int]]] = {}
    checkpoints.convert(
        source,
        tmp_path / "a.pth",
        report=lambda stage, done, total: told.setdefault(stage, []).append((done, total)),
    )
    assert list(told) == ["writing", "comparing weights", "running the source", "running the result"]
    size = sum(tensor.nbytes for tensor in random_model().state_dict().values())
    for reports in told.values():
        done, totals = zip(*reports, strict=True)
        assert list(done) == sorted(done)
        assert done[-1] == size
        assert set(totals) == {size}


def _convert_there_and_back(source: Path, folder: Path) -> None:
    checkpoints.convert(source, folder / "converted.safetensors")
    checkpoints.convert(folder / "converted.safetensors", folder / "again.pth")


@needs_memory_figures
def test_a_conversion_holds_a_small_part_of_the_model_in_memory(tmp_path: Path, source: Path) -> None:
    size, taken = memory_taken(_convert_there_and_back, source, tmp_path)
    assert size > 150e6
    assert taken < 0.2 * size
