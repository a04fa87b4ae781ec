"""A packed model holds what packing makes of its matrices, in memory and in a file, whoever reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from receptance import checkpoints
from receptance.checkpoints import packed_weights, single_file
from receptance.checkpoints.contents import Weight
from receptance.checkpoints.stored_model import StoredModel, from_module
from receptance.errors import CheckpointError, ConfigError
from receptance.quantization.packed import FORMATS, Format, PackedMatrix
from tests.models.examples import EXAMPLES, example

LOW_RANKS = {
    "6": {f"att.{name}" for name in ("time_maa_w1", "time_maa_w2", "time_decay_w1", "time_decay_w2")},
    "7": {f"att.{name}{half}" for name in "wavg" for half in "12"},
}


def stored(generation: str, dtype: torch.dtype = torch.float32) -> StoredModel:
    return from_module(example(generation, dtype))


def expected(name: str, tensor: Tensor, generation: str, matrix_format: Format) -> Tensor:
    """Restate which number format a weight of a model in that format is in."""
    last = name.partition(".")[2].partition(".")[2]
    rest: Format = "float32" if matrix_format == "float32" else "bfloat16"
    if last in LOW_RANKS.get(generation, ()):
        return tensor if rest == "float32" else tensor.bfloat16()
    if name == "emb.weight":
        return PackedMatrix.pack(tensor, rest if matrix_format == rest else "int8").dequantize()
    if tensor.ndim == 2 and name.endswith(".weight"):
        return PackedMatrix.pack(tensor, matrix_format).dequantize()
    return tensor


@pytest.mark.parametrize("matrix_format", FORMATS)
@pytest.mark.parametrize("generation", EXAMPLES)
def test_a_file_gives_what_packing_made_of_the_model(
    generation: str, matrix_format: Format, tmp_path: Path
) -> None:
    model = example(generation, torch.float32)
    path = tmp_path / "a.safetensors"
    single_file.write(path, packed_weights.packed(from_module(model), matrix_format))
    loaded = checkpoints.load(path, dtype=torch.float32).model.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded[name], expected(name, tensor, generation, matrix_format).float()), name


@pytest.mark.parametrize("generation", EXAMPLES)
def test_the_matrices_of_a_file_lie_where_they_can_be_used_in_place(generation: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    packed = packed_weights.packed(stored(generation), "int4")
    single_file.write(path, packed)
    again = checkpoints.open_model(path)
    for name, weight in again.weights.items():
        ours = packed.weights[name]
        assert (weight.shape, weight.dtype) == (ours.shape, ours.dtype)
        if weight.packed is None or ours.packed is None:
            assert weight.packed is ours.packed is None
            continue
        for found, made in zip(weight.packed.read(), ours.packed.read(), strict=True):
            assert found.data.data_ptr() % 64 == 0
            assert (found.format, found.rows, found.columns) == (made.format, made.rows, made.columns)
            assert torch.equal(found.data, made.data)


def test_the_bytes_of_a_file_mean_what_is_written_about_them(tmp_path: Path) -> None:
    """One number is found in the file by the words of native/packed.h alone."""
    model = example("4", torch.float32)
    single_file.write(tmp_path / "a", packed_weights.packed(from_module(model), "int4"))
    with safe_open(tmp_path / "a", framework="np") as file:
        metadata, data = file.metadata(), file.get_tensor("blocks.1.ffn.value.weight")
    assert metadata["format_version"] == "2"
    assert json.loads(metadata["packed"])["blocks.1.ffn.value.weight"] == ["int4", [16, 40]]
    row, column = 5, 37
    group = data[288 * (column // 32) :][:288]
    scale = np.uint32(group[:32].view(np.uint16)[row]) << 16
    place = column % 32
    byte = group[32:].reshape(4, 16, 4)[place % 16 // 4, row, place % 4]
    number = (byte >> 4 if place >= 16 else byte & 15) - 8.0
    weight = checkpoints.open_model(tmp_path / "a").weights["blocks.1.ffn.value.weight"].read()
    assert weight[row, column] == number * scale.view(np.float32)
    original = model.state_dict()["blocks.1.ffn.value.weight"][row, column]
    assert abs(float(original - weight[row, column])) < abs(scale.view(np.float32))


@pytest.mark.parametrize("generation", ["6", "7"])
def test_formats_may_differ_from_matrix_to_matrix(generation: str, tmp_path: Path) -> None:
    source = stored(generation)
    formats = {name: FORMATS[index % 4] for index, name in enumerate(source.formats)}
    single_file.write(tmp_path / "a", packed_weights.packed(source, formats))
    again = checkpoints.open_model(tmp_path / "a")
    assert again.formats == formats
    assert sorted(again.number_format.split(", ")) == sorted(FORMATS)
    for name, matrix_format in formats.items():
        tensor = source.weights[name].read()
        assert torch.equal(
            again.weights[name].read().float(), PackedMatrix.pack(tensor, matrix_format).dequantize()
        )


def test_the_embedding_is_in_integers_only_where_all_that_multiplies_is() -> None:
    source = stored("7")
    cases = (("int4", "int8", "int8"), ("int4", "bfloat16", "bfloat16"), ("float32", "int8", "bfloat16"))
    for head, others, expected in cases:
        packed = packed_weights.packed(source, dict.fromkeys(source.formats, others) | {"head.weight": head})
        embedding = packed.weights["emb.weight"].packed
        assert embedding is not None
        assert embedding.format == expected


def divergence(full: Tensor, other: Tensor) -> float:
    """The mean divergence (Kullback-Leibler) of logits."""
    p, q = full.double().log_softmax(-1), other.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


# Not the one of RWKV-6: its matrices were rounded to 5 bits before, and nearly fit into int8.
@pytest.mark.parametrize("name", ["4.0-660K", "5.1-730K", "5.2-730K", "7.0-834K"])
@torch.no_grad()
def test_an_embedding_in_int8_changes_a_trained_model_less_than_matrices_in_int8(
    shared: Path, name: str
) -> None:
    folder = shared / "data" / "tiny-models"
    source = checkpoints.open_model(folder / f"rwkv-{name}.safetensors").cast(torch.float32)
    tokens = torch.from_numpy(np.load(folder / f"rwkv-{name}.ref.npz")["tokens"]).long().view(1, -1)
    rounded = packed_weights.packed(source, "int8").weights["emb.weight"]
    own = source.weights["emb.weight"]
    embedding = replace(source, weights={**source.weights, "emb.weight": rounded})
    matrices = packed_weights.packed(source, "int8")
    matrices = replace(matrices, weights={**matrices.weights, "emb.weight": own})
    logits = [checkpoints.module(each)(tokens)[0] for each in (source, embedding, matrices)]
    assert 0 < divergence(logits[0], logits[1]) < divergence(logits[0], logits[2])


def test_the_rounding_may_be_anyones_and_sees_every_matrix_in_its_order() -> None:
    asked: list[str] = []

    def half(name: str, matrix: Tensor, matrix_format: Format) -> PackedMatrix:
        asked.append(name)
        return PackedMatrix.pack(matrix / 2, matrix_format)

    source = stored("7")
    packed = packed_weights.packed(source, "bfloat16", half)
    assert asked == []
    for name, weight in packed.weights.items():
        tensor = source.weights[name].read() / (1 if weight.packed is None else 2)
        assert torch.equal(weight.read(), tensor.to(weight.dtype)), name
    assert asked == [name for name in source.weights if source.is_matrix(name)]


def test_what_is_packed_in_its_format_already_is_taken_as_it_is(tmp_path: Path) -> None:
    single_file.write(tmp_path / "a", packed_weights.packed(stored("7"), "int8"))
    again = checkpoints.open_model(tmp_path / "a")
    same = packed_weights.packed(again, "int8")
    assert all(same.weights[name].packed is weight.packed for name, weight in again.weights.items())
    other = packed_weights.packed(again, "int4")
    assert other.weights["head.weight"].packed is not again.weights["head.weight"].packed
    assert other.weights["blocks.0.att.w1"].packed is again.weights["blocks.0.att.w1"].packed


def test_numbers_that_change_are_packed_no_longer() -> None:
    weight = packed_weights.packed(stored("4"), "int8").weights["head.weight"]
    assert weight.packed is not None
    assert weight.map(lambda tensor: tensor.T).packed is None
    assert from_module(example("4")).cast(torch.float32).weights["head.weight"].packed is None


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        ("int3", "'int3' is unknown"),
        ({}, "'blocks.0.att.key.weight' needs a format"),
        ({"emb.weight": "int8"}, "'emb.weight' is no matrix"),
    ],
)
def test_formats_that_do_not_fit_the_model_are_refused(
    formats: str | Mapping[str, str], message: str
) -> None:
    source = stored("4")
    if isinstance(formats, dict) and formats:
        formats = dict.fromkeys(source.formats, "int8") | formats
    with pytest.raises(ConfigError, match=message):
        packed_weights.packed(source, formats)  # type: ignore[arg-type]  # that is the point


def test_numbers_that_are_too_large_for_bfloat16_are_named() -> None:
    source = stored("4")
    head = torch.full(source.weights["head.weight"].shape, 3.4e38)
    large = replace(source, weights={**source.weights, "head.weight": Weight.of(head)})
    with pytest.raises(CheckpointError, match=r"'head\.weight' holds values up to"):
        packed_weights.packed(large, "bfloat16").weights["head.weight"].read()


def written(tmp_path: Path, matrix_format: Format) -> Path:
    path = tmp_path / "a.safetensors"
    single_file.write(path, packed_weights.packed(stored("4"), matrix_format))
    return path


def test_a_packed_model_takes_the_memory_that_its_file_takes(tmp_path: Path) -> None:
    content = written(tmp_path, "int4").read_bytes()
    header_bytes = 8 + int.from_bytes(content[:8], "little")
    model = checkpoints.open_model(tmp_path / "a.safetensors")
    assert packed_weights.bytes_in_memory(model) == len(content) - header_bytes


@pytest.mark.parametrize("matrix_format", FORMATS)
def test_a_number_that_is_not_finite_is_found_where_it_is_read(matrix_format: Format, tmp_path: Path) -> None:
    path = written(tmp_path, matrix_format)
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    begin = start + header["blocks.0.att.key.weight"]["data_offsets"][0]
    content[begin : begin + 4] = np.array([np.inf], np.float32).tobytes()
    if matrix_format != "float32":
        content[begin : begin + 2] = np.array([np.inf], np.float32).tobytes()[2:]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"'blocks\.0\.att\.key\.weight' holds .* must be finite"):
        checkpoints.load(path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (["int5", [24, 16]], "no format of"),
        (["int8", [24, -16]], "no format of"),
        (["int8", [24, True]], "no format of"),
        (["int8", [24, 10**400]], "no format of"),
        (["int8", [64, 16]], "needs 2,176 bytes, but it has"),
        (["int8", [2, 24, 16]], "none of a matrix"),
        (["int8", [384]], "none of a matrix"),
        ("int8", "no format of"),
    ],
)
def test_a_header_that_does_not_fit_the_bytes_is_refused(entry: object, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, "int8")
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    packed = json.loads(header["__metadata__"]["packed"])
    header["__metadata__"]["packed"] = json.dumps(packed | {"blocks.0.att.key.weight": entry})
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[start:])
    with pytest.raises(CheckpointError, match=rf"'blocks.0.att.key.weight'.*{message}"):
        checkpoints.open_model(path)
