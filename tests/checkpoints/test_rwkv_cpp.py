"""Files of rwkv.cpp are read as that program reads them, and written as it writes them."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from receptance import checkpoints
from receptance.checkpoints import rwkv_cpp, writers
from receptance.checkpoints.contents import weights
from receptance.checkpoints.load import open_model
from receptance.checkpoints.rwkv_cpp import RWKV4_LAYOUT, RWKV50_LAYOUT, RWKV52_LAYOUT
from receptance.checkpoints.stored_model import from_module
from receptance.errors import CheckpointError, ConfigError
from receptance.models import AnyModel
from tests.checkpoints.files import random_model
from tests.checkpoints.rwkv_cpp_models import GENERATIONS, model_of, wide_model
from tests.models.examples import example
from tests.models.trained import FIRST_TOKENS

# The tiny models of rwkv.cpp and what it runs them with; its files and what they cost after three tokens.
TINY = {
    "rwkv-4.0-660K": {},
    "rwkv-5.1-730K": {"group_norm_epsilon": 1e-5},
    "rwkv-5.2-730K": {"group_norm_epsilon": 1e-5},
    "rwkv-6.0-3m-dequantQ5_1": {},
    "rwkv-7.0-834K": {},
}
ORIGINALS = {
    "tiny-rwkv-4v0-660K-FP16": ("rwkv-4.0-660K", 1.6e-3),
    "tiny-rwkv-5v2-730K-Q5_0": ("rwkv-5.2-730K", 0.51),
    "tiny-rwkv-5v2-730K-Q5_1": ("rwkv-5.2-730K", 0.37),
    "tiny-rwkv-6v0-3m-Q5_1": ("rwkv-6.0-3m-dequantQ5_1", 0.0757),
    "tiny-rwkv-7v0-834K-FP16": ("rwkv-7.0-834K", 4.8e-7),
}
COMPUTED = (".att.time_decay", ".att.time_first")


def tiny(shared: Path, name: str) -> Path:
    return shared / "data" / "tiny-models" / f"{name}.safetensors"


def original(shared: Path, name: str) -> Path:
    return shared / "data" / "tiny-models" / "rwkv-cpp-bin" / f"{name}.bin"


def tensors(path: Path) -> dict[str, tuple[bytes, bytes]]:
    """Take a file apart by its specification: what is said of each tensor, and its numbers."""
    data, place, found = path.read_bytes(), 24, {}
    bytes_per_block = {0: (1, 4), 1: (1, 2), 7: (32, 22), 8: (32, 24)}
    while place < len(data):
        num_axes, name_bytes, kind = struct.unpack_from("<3i", data, place)
        sizes = struct.unpack_from(f"<{num_axes}i", data, place + 12)
        name_begin = place + 12 + 4 * num_axes
        begin = name_begin + name_bytes
        values, size = bytes_per_block[kind]
        end = begin + math.prod(sizes) // values * size
        found[data[name_begin:begin].decode()] = (data[place:begin], data[begin:end])
        place = end
    return found


@torch.no_grad()
def distance(path: Path, shared: Path, name: str) -> float:
    """Return how far the logits after three tokens are from those that the project expects of a model."""
    expected = np.load(shared / "data" / "tiny-models" / f"{name}.expected-logits.npy")
    model = checkpoints.load(path, dtype=torch.float32, **TINY[name]).model
    logits = model(torch.tensor([FIRST_TOKENS]))[0][0, -1]
    return float((logits - torch.from_numpy(expected)).abs().max())


@pytest.mark.parametrize("name", ORIGINALS)
def test_files_of_the_project_give_its_logits(shared: Path, name: str) -> None:
    model, cost = ORIGINALS[name]
    assert checkpoints.load(original(shared, name)).format == "rwkv.cpp"
    assert distance(original(shared, name), shared, model) == pytest.approx(cost, rel=0.05, abs=1e-6)


def test_dequantised_matrices_are_what_another_reader_made_of_them(shared: Path) -> None:
    ours = open_model(original(shared, "tiny-rwkv-6v0-3m-Q5_1")).weights
    theirs = open_model(tiny(shared, "rwkv-6.0-3m-dequantQ5_1")).weights
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(weight.read(), theirs[name].read()) for name, weight in ours.items())


@pytest.mark.parametrize("name", ["tiny-rwkv-4v0-660K-FP16", "tiny-rwkv-7v0-834K-FP16"])
def test_a_file_of_the_project_is_written_again_byte_for_byte(
    shared: Path, tmp_path: Path, name: str
) -> None:
    checkpoints.convert(original(shared, name), tmp_path / "a.bin")
    assert tensors(tmp_path / "a.bin") == tensors(original(shared, name))
    written, theirs = (path.read_bytes()[:24] for path in (tmp_path / "a.bin", original(shared, name)))
    assert written[4:8] == struct.pack("<i", 101)
    assert (written[:4], written[8:]) == (theirs[:4], theirs[8:])


@pytest.mark.parametrize("quantization", ["q5_0", "q5_1"])
def test_quantised_files_are_those_of_the_project(shared: Path, tmp_path: Path, quantization: str) -> None:
    pytest.importorskip("gguf")
    source = open_model(tiny(shared, "rwkv-5.2-730K"))
    writers.write(tmp_path / "a.bin", source, "rwkv.cpp", quantization)
    theirs = original(shared, f"tiny-rwkv-5v2-730K-{quantization.upper()}")
    assert tensors(tmp_path / "a.bin") == tensors(theirs)
    assert (tmp_path / "a.bin").read_bytes()[:24] == theirs.read_bytes()[:24]


@pytest.mark.parametrize("name", TINY)
def test_trained_models_come_back(shared: Path, tmp_path: Path, name: str) -> None:
    before = open_model(tiny(shared, name))
    writers.write(tmp_path / "a.bin", before, "rwkv.cpp")
    after = open_model(tmp_path / "a.bin")
    assert after.config == before.config
    for key, weight in before.weights.items():
        one, other = weight.read().float(), after.weights[key].read()
        is_computed = key.endswith(COMPUTED) and before.config.generation in "45"
        torch.testing.assert_close(other, one, rtol=0, atol=2e-7 if is_computed else 0, msg=key)


@pytest.mark.parametrize("name", TINY)
def test_trained_models_compute_the_same_through_the_format(shared: Path, tmp_path: Path, name: str) -> None:
    writers.write(tmp_path / "a.bin", open_model(tiny(shared, name)), "rwkv.cpp")
    cost = 0.0757 if "dequant" in name else 0.0
    assert distance(tmp_path / "a.bin", shared, name) == pytest.approx(cost, rel=0.01, abs=1e-5)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_16_bits_comes_back_to_the_bit(
    tmp_path: Path, generation: str, dtype: torch.dtype
) -> None:
    model = model_of(generation, dtype)
    checkpoints.save(model, tmp_path / "a.bin", format="rwkv.cpp")
    after = open_model(tmp_path / "a.bin")
    for name, tensor in model.state_dict().items():
        assert torch.equal(after.weights[name].read(), tensor.float()), name
    # bfloat16 has no place in the format
    large = {after.weights[name].dtype for name in ("emb.weight", "blocks.1.ffn.key.weight")}
    assert large == {torch.float16 if dtype == torch.float16 else torch.float32}


@pytest.mark.parametrize("generation", GENERATIONS)
def test_what_was_written_is_written_again_byte_for_byte(tmp_path: Path, generation: str) -> None:
    checkpoints.save(model_of(generation), tmp_path / "a.bin", format="rwkv.cpp")
    result = checkpoints.convert(tmp_path / "a.bin", tmp_path / "b.bin")
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()
    assert (result.unequal, result.largest_difference) == ({}, 0)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("quantization", rwkv_cpp.QUANTISED)
def test_quantised_are_the_matrices_that_the_program_quantises(
    tmp_path: Path, generation: str, quantization: str
) -> None:
    pytest.importorskip("gguf")
    checkpoints.save(wide_model(generation), tmp_path / "a.pth", format="pth")
    result = checkpoints.convert(tmp_path / "a.pth", tmp_path / "a.bin", quantization=quantization)
    assert 0 < result.largest_difference < 0.5
    changed = {name.partition(".")[2].partition(".")[2] for name in result.unequal}
    expected = {
        f"{part}.weight"
        for part in ("att.receptance", "att.key", "att.value", "att.output", "ffn.key", "ffn.value")
    }
    expected |= set() if generation == "7" else {"ffn.receptance.weight"}
    expected |= {"att.gate.weight"} if generation in ("5.2", "6") else set()
    expected |= {"att.time_maa_w1", "att.time_decay_w1", "att.time_decay_w2"} if generation == "6" else set()
    assert {name for name in changed if not f".{name}".endswith(COMPUTED)} == expected


TABLES = {
    "4": (RWKV4_LAYOUT, "time_decay", lambda x: -math.exp(x)),
    "5.0 u": (RWKV50_LAYOUT, "time_first", math.exp),
    "5.0 w": (RWKV50_LAYOUT, "time_decay", lambda x: math.exp(-math.exp(x))),
    "5.2 w": (RWKV52_LAYOUT, "time_decay", lambda x: math.exp(-math.exp(x))),
}


def there_and_back(kind: str, values: Tensor) -> tuple[Tensor, Tensor]:
    layout, name, _ = TABLES[kind]
    name = f"blocks.3.att.{name}"
    shape = (-1, 2) if kind.startswith("5.2") else (-1,)
    stored = layout.to_foreign(weights({name: values.reshape(shape)}))
    back = layout.to_official(Path("file"), stored)[name].read()
    return stored[name].read().reshape(-1), back.reshape(-1)


@pytest.mark.parametrize("kind", TABLES)
@given(values=st.lists(st.floats(-12, 4, width=32), min_size=2, max_size=8).filter(lambda x: len(x) % 2 == 0))
def test_values_that_the_program_stores_computed_come_back_as_near_as_they_can(
    kind: str, values: list[float]
) -> None:
    ours = torch.tensor(values)
    stored, back = there_and_back(kind, ours)
    assert torch.equal(stored, torch.tensor([TABLES[kind][2](value) for value in values]))
    # The program computes with the stored numbers: these are the same again, to the bit.
    assert torch.equal(there_and_back(kind, back)[0], stored)
    # exp(x) is rounded by one part in 2^24 at most, and so is log d, which is absolute there: exp(-exp(x)).
    slack = torch.exp(-ours) if kind.endswith("w") else torch.ones_like(ours)
    assert bool(((back - ours).abs() <= 2.0**-23 * (slack + ours.abs())).all())


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_values_of_16_bits_come_back_to_the_bit(kind: str, dtype: torch.dtype) -> None:
    every = torch.arange(2**16).to(torch.uint16).view(dtype).float()
    lowest = {torch.bfloat16: -12.0, torch.float16: -8.0}[dtype] if kind.endswith("w") else -80.0
    near_zero = 2.0**-9 if kind.endswith("w") else 2.0**-12  # nearer, float16 is finer than what is stored
    usable = every[(every >= lowest) & (every <= 4) & (every.abs() >= near_zero)][:30000]
    usable = usable[: len(usable) // 2 * 2]
    assert len(usable) > 3000
    assert torch.equal(there_and_back(kind, usable)[1], usable)


@pytest.mark.parametrize("kind", TABLES)
def test_decays_beyond_float32_come_back_finite(kind: str) -> None:
    stored, back = there_and_back(kind, torch.tensor([-300.0, -110.0, 5.0, 80.0]))
    assert torch.isfinite(back).all()
    assert torch.equal(there_and_back(kind, back)[0], stored)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (random_model(attention_size=32), "attention_size 32 beside hidden_size 24"),
        (example("5.1", torch.float32), r"RWKV-5\.1; it runs RWKV-5\.0 and 5\.2"),
        (example("7"), "float64; convert with dtype float32"),
    ],
)
def test_what_the_program_cannot_run_is_not_written(tmp_path: Path, model: AnyModel, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checkpoints.save(model, tmp_path / "a.bin", format="rwkv.cpp")
    assert list(tmp_path.iterdir()) == []


def test_a_value_whose_exponential_is_infinite_is_refused_by_name(tmp_path: Path) -> None:
    model = random_model()
    with torch.no_grad():
        model.get_parameter("blocks.1.att.time_decay")[3] = 89.0
    with pytest.raises(ConfigError, match=r"'blocks\.1\.att\.time_decay' would be infinite"):
        checkpoints.save(model, tmp_path / "a.bin", format="rwkv.cpp")
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_no_whole_blocks_are_not_quantised(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"'blocks\.0\.\S+' has 24 columns, but Q8_0 needs a multiple of 32"
    ):
        writers.write(tmp_path / "a.bin", from_module(random_model()), "rwkv.cpp", "q8_0")
    assert list(tmp_path.iterdir()) == []


class TestDamage:
    """Each lie is told apart, and named with its place."""

    @pytest.fixture
    def content(self, tmp_path: Path) -> bytes:
        checkpoints.save(random_model(), tmp_path / "good.bin", format="rwkv.cpp")
        return (tmp_path / "good.bin").read_bytes()

    @staticmethod
    def refused(tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "bad.bin").write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            checkpoints.load(tmp_path / "bad.bin")

    @pytest.mark.parametrize(
        ("place", "number", "message"),
        [
            (4, 99, "says version 99"),
            (4, 2**31, "says version 2147483648"),
            (8, 30, "vocabulary_size = 30, but its tensors have 31"),
            (12, 2**32 - 1, "hidden_size = 4294967295, but its tensors have 24"),
            (16, 4, "num_layers = 4, but its tensors have 3"),
            (20, 4, "the header has numbers of type 4, but known are 0, 1, 2, 3, 7"),
            (24, 0, "the tensor at byte 24 has 0 axes"),
            (24, 4, "the tensor at byte 24 has 4 axes"),
            (28, 0, "a name of 0 bytes"),
            (28, 2**32 - 1, "a name of 4,294,967,295 bytes"),
            (32, 5, "'emb.weight' has numbers of type 5"),
            (32, 9, r"'emb.weight' cannot be \(31, 24\): Q8_0 has blocks of 32 values, and a row has 24"),
            (36, 2**32 - 1, "cut off"),
            (40, 0, r"'emb.weight' is \(0, 24\): it has no numbers"),
        ],
    )
    def test_a_wrong_number(
        self, tmp_path: Path, content: bytes, place: int, number: int, message: str
    ) -> None:
        damaged = content[:place] + struct.pack("<I", number) + content[place + 4 :]
        self.refused(tmp_path, damaged, message)

    def test_a_file_that_ends_early_or_late(self, tmp_path: Path, content: bytes) -> None:
        for length in (4, 23, 25, 35, 43, 50, 60, len(content) - 1):
            self.refused(
                tmp_path, content[:length], r"bad\.bin: .*(cut off|has \d+ bytes, but its header 24)"
            )
        self.refused(tmp_path, content[:24], "this is no RWKV model")
        self.refused(tmp_path, content + b"\0", "the tensor at byte .* cut off")
        self.refused(tmp_path, content + content[24:], "'emb.weight', at byte .* is there twice")

    def test_blocks_of_the_old_kind(self, tmp_path: Path) -> None:
        header = struct.pack("<4s5I", b"fmgg", 100, 31, 24, 3, 2)
        self.refused(tmp_path, header, "the header was quantised by a rwkv.cpp of before May 2023")
        tensor = struct.pack("<3I1I1s", 1, 1, 2, 32, b"a") + bytes(18)
        header = struct.pack("<4s5I", b"fmgg", 100, 31, 24, 3, 0)
        self.refused(tmp_path, header + tensor, "'a' was quantised by a rwkv.cpp of before May 2023")

    def test_a_name_that_is_no_text(self, tmp_path: Path, content: bytes) -> None:
        damaged = content.replace(b"emb.weight", b"emb\xff.eight", 1)
        self.refused(tmp_path, damaged, "the name of the tensor at byte 24 is not UTF-8")

    @pytest.mark.parametrize("value", [1.5, math.nan, -math.inf])
    def test_a_decay_that_is_none(self, tmp_path: Path, content: bytes, value: float) -> None:
        name = b"blocks.2.att.time_decay"
        place = content.index(name) + len(name)
        damaged = content[:place] + struct.pack("<f", value) + content[place + 4 :]
        self.refused(tmp_path, damaged, r"'blocks\.2\.att\.time_decay' holds (nan|inf) at \[0\]")

    def test_too_many_tensors(self, tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rwkv_cpp, "MAX_TENSORS", 5)
        self.refused(tmp_path, content, "is one of more than 5 tensors")


def test_changing_a_weight_in_place_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    checkpoints.save(random_model(), tmp_path / "a.bin", format="rwkv.cpp")
    before = (tmp_path / "a.bin").read_bytes()
    weight = open_model(tmp_path / "a.bin").weights["blocks.0.ffn.key.weight"]
    weight.read().zero_()
    assert (tmp_path / "a.bin").read_bytes() == before
    assert not weight.read().any()  # mapped and not copied: what was changed is the same memory
