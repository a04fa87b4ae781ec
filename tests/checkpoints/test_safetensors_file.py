"""Safetensors files: every inconsistency is named, and what we write is what the library reads."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from receptance.checkpoints import safetensors_file
from receptance.errors import CheckpointError, ConfigError
from tests.checkpoints.files import write_raw_safetensors


def entry(begin: int, end: int, shape: object = None, dtype: object = "U8") -> dict[str, object]:
    shape = [end - begin] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


TENSORS = {
    "half": torch.randn(3, 5).half(),
    "brain": torch.randn(7).bfloat16(),
    "double": torch.randn(1, 2, 3).double(),
    "scalar": torch.tensor(1.5),
    "empty": torch.zeros(0, 4),
    "count": torch.arange(5),
    "flag": torch.tensor([True, False]),
}


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    safetensors_file.write(tmp_path / "a.safetensors", TENSORS, {"key": "value ü"})
    theirs = load_file(tmp_path / "a.safetensors")
    assert theirs.keys() == TENSORS.keys()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in TENSORS.items())
    assert all(theirs[name].dtype == tensor.dtype for name, tensor in TENSORS.items())


def test_we_read_what_the_library_writes(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors", {"key": "value ü"})
    ours, metadata = safetensors_file.read(tmp_path / "a.safetensors")
    assert metadata == {"key": "value ü"}
    assert ours.keys() == TENSORS.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in TENSORS.items())


def test_the_same_tensors_give_the_same_bytes_and_lie_on_cache_lines(tmp_path: Path) -> None:
    metadata = {str(i): "x" for i in range(10)}
    tensors = {"a": torch.randn(64, 64), "b": torch.randn(64, 64).bfloat16()}
    for name in ("one", "two"):
        safetensors_file.write(tmp_path / name, tensors, metadata)
    content = (tmp_path / "one").read_bytes()
    assert content == (tmp_path / "two").read_bytes()
    assert (8 + int.from_bytes(content[:8], "little")) % 64 == 0


def test_every_value_lies_at_a_multiple_of_its_size_and_whole_cache_lines_on_cache_lines(
    tmp_path: Path,
) -> None:
    tensors = TENSORS | {"lines": torch.randn(32).bfloat16(), "bytes": torch.zeros(128, dtype=torch.uint8)}
    safetensors_file.write(tmp_path / "a", tensors, {})
    ours, _ = safetensors_file.read(tmp_path / "a")
    for name, tensor in ours.items():
        size = 64 if tensor.nbytes % 64 == 0 else tensor.itemsize
        assert tensor.numel() == 0 or tensor.data_ptr() % size == 0, name


def test_views_are_written_as_they_are_seen(tmp_path: Path) -> None:
    whole = torch.randn(6, 8)
    views = {"rows": whole[2:4], "columns": whole[:, 1:3], "transposed": whole.t()}
    safetensors_file.write(tmp_path / "a", views, {})
    ours, _ = safetensors_file.read(tmp_path / "a")
    assert all(torch.equal(ours[name], tensor) for name, tensor in views.items())


def test_reading_copies_nothing_and_changing_a_tensor_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors_file.write(path, {"a": torch.ones(1000)}, {})
    before = path.read_bytes()
    tensors, _ = safetensors_file.read(path)
    tensors["a"].zero_()
    assert path.read_bytes() == before
    assert torch.equal(safetensors_file.read(path)[0]["a"], torch.ones(1000))


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        pytest.param(b"\xff\xfe", b"", "byte 8 of the header is not UTF-8", id="not text"),
        pytest.param(b"{,}", b"", "not JSON from byte 9", id="not JSON"),
        pytest.param(b"[1]", b"", "header is a list", id="list"),
        pytest.param(b"[" * 200_000, b"", "cannot be read", id="deep"),
        pytest.param(b'{"a": ' + b"9" * 5000 + b"}", b"", "cannot be read", id="long number"),
        pytest.param(
            b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            b"0",
            "'a' occurs 2 times",
            id="twice",
        ),
        pytest.param({"a": 5}, b"", "'a'", id="entry is a number"),
        pytest.param({"a": {"dtype": "U8"}}, b"", "'a'", id="entry is incomplete"),
        pytest.param({"a": entry(0, 1, [-1])}, b"0", "'a'", id="negative axis"),
        pytest.param({"a": entry(0, 1, [True])}, b"0", "'a'", id="boolean axis"),
        pytest.param({"a": entry(0, 1, [1.0])}, b"0", "'a'", id="fractional axis"),
        pytest.param({"a": entry(0, 1, [2**62] * 50_000)}, b"0", "'a'", id="many axes"),
        pytest.param({"a": entry(0, 1, [2**62] * 8)}, b"0", "'a' has the shape", id="huge axes"),
        pytest.param({"a": entry(0, 0, [2**75, 0])}, b"", "'a' has the shape", id="an axis beyond torch"),
        pytest.param({"a": entry(0, 0, [2**40, 2**40, 0])}, b"", "'a' has the shape", id="axes beyond torch"),
        pytest.param(
            {"a": entry(0, 2, [3])}, b"00", "'a' of shape .3,. in U8 needs 3 bytes", id="too little"
        ),
        pytest.param({"a": entry(4, 0, [4])}, b"0000", "'a'", id="backwards"),
        pytest.param({"a": entry(0, 1, dtype="F8_E4M3")}, b"0", "'a' is of type F8_E4M3", id="type"),
        pytest.param({"a": entry(0, 1, dtype=["U8"])}, b"0", "'a'", id="type is a list"),
        pytest.param({"a": entry(0, 4), "b": entry(2, 6)}, b"0" * 6, "'b' .* overlaps", id="overlap"),
        pytest.param({"a": entry(0, 2), "b": entry(3, 4)}, b"0" * 4, "'b' .* leaves a gap", id="gap"),
        pytest.param({"a": entry(1, 2)}, b"00", "'a' .* leaves a gap", id="gap at the start"),
        pytest.param({"a": entry(0, 9)}, b"0", "'a' ends at byte .*: it is cut off", id="beyond the end"),
        pytest.param({"a": entry(0, 1)}, b"00", "bytes that belong to no tensor", id="more data"),
        pytest.param({"__metadata__": {"a": 1}}, b"", "__metadata__", id="metadata not text"),
        pytest.param({"__metadata__": "a"}, b"", "__metadata__", id="metadata no object"),
    ],
)
def test_every_inconsistency_is_named_at_once(
    tmp_path: Path, header: bytes | dict[str, object], data: bytes, message: str
) -> None:
    path = write_raw_safetensors(tmp_path / "a.safetensors", header, data)
    started = time.process_time()
    with pytest.raises(CheckpointError, match=message):
        safetensors_file.read(path)
    assert time.process_time() - started < 10


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**15, 100_000_001, 3])
def test_a_header_longer_than_the_file_is_refused_before_it_is_read(tmp_path: Path, length: int) -> None:
    (tmp_path / "a").write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="bytes 0 to 7"):
        safetensors_file.read(tmp_path / "a")


def test_a_header_beyond_reason_is_neither_read_nor_written(tmp_path: Path) -> None:
    path = write_raw_safetensors(tmp_path / "a.safetensors", b"{}" + b" " * 2_000_000)
    with pytest.raises(CheckpointError, match=r"its header has 2,000,002 bytes, but no model needs more"):
        safetensors_file.read(path)
    metadata = {"notes": "x" * 2_000_000}
    with pytest.raises(ConfigError, match=r"names and metadata need 2,000,\d+ bytes.* Leave metadata out"):
        safetensors_file.write(tmp_path / "b.safetensors", {"a": torch.zeros(3)}, metadata)
    assert not (tmp_path / "b.safetensors").exists()


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    safetensors_file.write(tmp_path / "a", {"a": torch.randn(9), "b": torch.randn(5, 5)}, {"key": "value"})
    content = (tmp_path / "a").read_bytes()
    for length in range(len(content)):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            safetensors_file.read(tmp_path / "cut")


@given(st.binary(max_size=64), st.integers(0, 200))
def test_garbage_is_a_checkpoint_error_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes, place: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage"
    header = json.dumps({"a": entry(0, 4), "b": entry(4, 6)}).encode()
    text = header[:place] + garbage + header[place + len(garbage) :]
    try:
        tensors, _ = safetensors_file.read(write_raw_safetensors(path, text, b"012345"))
    except CheckpointError:
        return
    assert sum(tensor.nbytes for tensor in tensors.values()) == 6
