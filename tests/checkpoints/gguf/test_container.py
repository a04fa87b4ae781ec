"""GGUF files are read as the package `gguf` writes and reads them, and nothing in them is believed."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from receptance.checkpoints.gguf import container
from receptance.checkpoints.gguf.container import Array
from receptance.errors import CheckpointError
from tests.checkpoints.gguf.gguf_bytes import array, gguf_file, number, text, value

F32 = 0
FOUR = struct.pack("<4f", 1, 2, 3, 4)


def put(folder: Path, content: bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(content)
    return path


def refusal(folder: Path, content: bytes) -> str:
    path = put(folder, content)
    with pytest.raises(CheckpointError) as error:
        container.read(path)
    assert str(path) in str(error.value)
    return str(error.value).removeprefix(f"{path}: ")


@pytest.fixture
def package() -> Any:
    return pytest.importorskip("gguf")


def test_metadata_of_every_type_are_read_as_the_package_wrote_them(tmp_path: Path, package: Any) -> None:
    path = tmp_path / "a.gguf"
    writer = package.GGUFWriter(path, "rwkv7")
    scalars = {
        "uint8": 255, "int8": -128, "uint16": 65535, "int16": -32768, "uint32": 2**32 - 1, "int32": -(2**31),
        "uint64": 2**64 - 1, "int64": -(2**63), "float32": 0.5, "float64": math.pi,
        "bool": True, "string": "ü\n",
    }  # fmt: skip
    for kind, content in scalars.items():
        getattr(writer, f"add_{kind}")(f"a.{kind}", content)
    writer.add_array("a.strings", ["", "a", "ü" * 300])
    writer.add_array("a.bytes", [b"\xff", b"\0"])
    writer.add_array("a.numbers", [1, -2, 3])
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    metadata = container.read(path).metadata
    assert {kind: metadata[f"a.{kind}"] for kind in scalars} == scalars
    assert metadata["a.bool"] is True
    assert metadata["general.architecture"] == "rwkv7"
    strings, raw, numbers = (metadata[f"a.{key}"] for key in ("strings", "bytes", "numbers"))
    assert isinstance(strings, Array)
    assert isinstance(raw, Array)
    assert isinstance(numbers, Array)
    assert strings.strings() == [b"", b"a", "ü".encode() * 300]
    assert raw.strings() == [b"\xff", b"\0"]
    assert (numbers.count, numbers.strings()) == (3, [])


@settings(max_examples=30)
@given(
    sizes=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=4),
    kinds=st.lists(st.sampled_from(["F32", "F16", "F64", "BF16", "Q8_0", "Q5_1"]), min_size=4, max_size=4),
    alignment=st.sampled_from([8, 32, 128]),
    seed=st.integers(0, 2**32 - 1),
)
def test_tensors_are_read_as_the_package_wrote_them(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[list[int]],
    kinds: list[str],
    alignment: int,
    seed: int,
) -> None:
    package = pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("tensors") / "a.gguf"
    writer = package.GGUFWriter(path, "rwkv6")
    writer.add_custom_alignment(alignment)
    generator = np.random.default_rng(seed)
    expected = {}
    for index, (shape, kind) in enumerate(zip(sizes, kinds, strict=False)):
        values = generator.normal(size=(*shape[:-1], 32 * shape[-1])).astype(np.float32)
        if kind in ("F64", "F16"):
            stored = values.astype({"F64": np.float64, "F16": np.float16}[kind])
            writer.add_tensor(str(index), stored)
            expected[str(index)] = torch.from_numpy(stored)
        else:
            stored = package.quants.quantize(values, package.GGMLQuantizationType[kind])
            writer.add_tensor(str(index), stored, raw_dtype=package.GGMLQuantizationType[kind])
            back = package.quants.dequantize(stored, package.GGMLQuantizationType[kind])
            expected[str(index)] = torch.from_numpy(back)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    found = container.read(path).weights
    assert list(found) == list(expected)
    for (name, weight), kind in zip(found.items(), kinds, strict=False):
        tensor = weight.read()
        assert (weight.shape, weight.dtype) == (tuple(tensor.shape), tensor.dtype)
        assert tensor.dtype == {"F16": torch.float16, "F64": torch.float64, "BF16": torch.bfloat16}.get(
            kind, torch.float32
        )
        assert torch.equal(tensor.to(expected[name].dtype), expected[name])


@pytest.mark.parametrize("version", [2, 3])
def test_versions_two_and_three_are_alike(tmp_path: Path, version: int) -> None:
    path = put(tmp_path, gguf_file({"a": number(7)}, [("w", (2, 2), F32, 0, FOUR)], version=version))
    file = container.read(path)
    assert file.metadata == {"a": 7}
    assert torch.equal(file.weights["w"].read(), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


def test_changing_a_weight_changes_neither_the_file_nor_what_others_read(tmp_path: Path) -> None:
    path = put(tmp_path, gguf_file((), [("w", (4,), F32, 0, FOUR)]))
    before = path.read_bytes()
    container.read(path).weights["w"].read().zero_()
    assert path.read_bytes() == before
    assert torch.equal(container.read(path).weights["w"].read(), torch.tensor([1.0, 2.0, 3.0, 4.0]))


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = gguf_file(
        {"a": text("b"), "c": array(8, ["d", "e"]), "f": array(5, [1, 2]), "g": value(7, True)},
        [("w", (4,), F32, 0, FOUR), ("x", (32,), 8, 32, bytes(34))],
    )
    assert len(container.read(put(tmp_path, whole)).weights) == 2
    for length in range(len(whole) - 30):  # the last 30 bytes pad
        assert "byte" in refusal(tmp_path, whole[:length])


def test_padding_at_the_end_may_be_missing(tmp_path: Path) -> None:
    whole = gguf_file((), [("w", (4,), F32, 0, FOUR)])
    path = put(tmp_path, whole[: len(whole) - 16])
    assert float(container.read(path).weights["w"].read().sum()) == 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gguf_file(magic=b"GGML"), "does not begin with 'GGUF'"),
        (gguf_file(version=1), "version 1, but receptance reads 2 and 3"),
        (gguf_file(version=4), "version 4"),
        (gguf_file(version=3 << 24), "big-endian"),
        (gguf_file(num_tensors=2**63), "number of tensors at byte 8 is 9,223,372,036,854,775,808"),
        (gguf_file(num_keys=2**64 - 1), "number of keys at byte 16 is 18,446,744,073,709,551,615"),
        (gguf_file(num_tensors=1)[:24], "the name of a tensor at byte 24 needs 8 bytes"),
        (gguf_file(num_keys=1)[:24], "a key of the metadata at byte 24 needs 8 bytes"),
        (gguf_file([("k", number(1)), ("k", number(2))]), "key 'k' occurs twice"),
        (gguf_file([(b"\xff", number(1))]), "byte 32 is not UTF-8"),
        (gguf_file([("k", struct.pack("<I", 13))]), "'k' is of type 13"),
        (gguf_file([("k", text("x")[:-1] + b"\xff")]), "'k' at byte .* is not UTF-8"),
        (gguf_file([("k", struct.pack("<IQ", 8, 2**62))]), "length of 'k'"),
        (gguf_file([("k", array(8, ["a"], count=2**40))]), "length of 'k' at byte .* is 1,099,511,627,776"),
        (gguf_file([("k", array(8, ["a"], count=1000))]), "'k' at byte"),
        (gguf_file([("k", struct.pack("<IIQQ", 9, 8, 2, 2**64 - 1))]), "needs"),
        (gguf_file([("k", array(12, [1.5], count=2**61))]), "length of 'k'"),
        (gguf_file([("k", struct.pack("<IIQ", 9, 9, 1) + array(4, [1]))]), "'k' is an array of type 9"),
        (gguf_file([("general.alignment", number(0))]), "'general.alignment' is 0"),
        (gguf_file([("general.alignment", number(48))]), "'general.alignment' is 48"),
        (gguf_file([("general.alignment", number(2**31))]), "'general.alignment' is 2147483648"),
        (gguf_file([("general.alignment", text("32"))]), "'general.alignment' is '32'"),
        (gguf_file((), [("w" * 65, (4,), F32, 0, FOUR)]), "length of the name of a tensor at byte 24 is 65"),
        (gguf_file((), [("w", (1,) * 5, F32, 0, FOUR)]), "number of axes of 'w' at byte .* is 5"),
        (
            gguf_file((), [("w", (4,), F32, 0, FOUR), ("w", (4,), F32, 32, FOUR)]),
            "two tensors of the name 'w'",
        ),
        (
            gguf_file((), [("w", (4,), F32, 0, FOUR), ("x", (4,), F32, 0, FOUR)]),
            "'x' .* overlaps the tensor before",
        ),
        (gguf_file((), [("w", (4,), F32, 0, FOUR), ("x", (4,), F32, 16, FOUR)]), "'x' .* overlaps"),
        (gguf_file((), [("w", (4,), F32, 32, FOUR)]), "'w' .* leaves a gap before it; it must lie at 0"),
        (gguf_file((), [("w", (4,), F32, 2**64 - 32, FOUR)]), "leaves a gap"),
        (gguf_file((), [("w", (2**63, 2), F32, 0, FOUR)]), "it is cut off"),
        (gguf_file((), [("w", (2**32, 2**32, 2**32, 2**32), F32, 0, FOUR)]), "it is cut off"),
        (gguf_file((), [("w", (9,), F32, 0, FOUR)]), "ends at byte .* it is cut off"),
        (gguf_file((), [("w", (4, 0), F32, 0, FOUR)]), "'w' cannot be .0, 4.: an axis has the size 0"),
        (gguf_file((), [("w", (2**62, 0, 2**62), F32, 0, b"")]), "an axis has the size 0"),
        (gguf_file((), [("w", (16,), 8, 0, bytes(34))]), "Q8_0 has blocks of 32 values, and a row has 16"),
        (gguf_file((), [("w", (), 8, 0, bytes(34))]), "Q8_0 has blocks of 32 values, and a row has 1"),
        (
            gguf_file((), [("w", (256,), 11, 0, bytes(110))]),
            "its type is Q3_K, and receptance reads F32, .*Q6_K",
        ),
        (gguf_file((), [("w", (4,), 26, 0, FOUR)]), "its type is I32"),
        (gguf_file((), [("w", (4,), 999, 0, FOUR)]), "its type is number 999"),
        (gguf_file((), [("w", (4,), F32, 0, FOUR)]) + bytes(1), "some belong to no tensor"),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    assert re.search(message, refusal(tmp_path, content))


def test_a_long_name_is_shown_in_part(tmp_path: Path) -> None:
    key = "k" * 60_000
    assert len(refusal(tmp_path, gguf_file([(key, struct.pack("<I", 99))]))) < 300


def test_a_file_too_short_for_a_header_is_refused(tmp_path: Path) -> None:
    for length in (0, 4, 23):
        assert f"this one has {length}" in refusal(tmp_path, gguf_file()[:length])
