"""Our interpreter of pickles understands what torch wrote as torch does, and nothing else at all."""

from __future__ import annotations

import contextlib
import io
import pickle
import random
import time
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from receptance.checkpoints import pickled
from receptance.checkpoints.pickled import torch_archive, torch_pickle
from receptance.checkpoints.pickled.torch_pickle import Place, Storage
from receptance.errors import CheckpointError

PATH = Path("a.pth")
DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
    torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128,
)  # fmt: skip


def program_of(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return archive.read("archive/data.pkl")


def test_a_tensor_is_a_place_in_a_record() -> None:
    state = {"a": torch.zeros(3, 4), "b": torch.zeros(10, dtype=torch.bfloat16)[2:].view(2, 4).t()}
    assert torch_pickle.read(PATH, program_of(state)) == {
        "a": Place(Storage("0", torch.float32, 12), 0, (3, 4), (4, 1)),
        "b": Place(Storage("1", torch.bfloat16, 10), 2, (4, 2), (1, 4)),
    }


def test_plain_values_and_containers_are_what_they_were() -> None:
    state = {
        "numbers": [0, 255, 256, 65535, 65536, -1, 2**31, -(2**40), 10**300, 1.5, -0.0, float("inf")],
        "others": [None, True, False, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), "", "é\n日本", [], {}],
        "ordered": OrderedDict(a=1, b=OrderedDict()),
        "nested": {1: {"x": [{"y": (1, [2, {3: 4}])}]}, None: 1, 1.5: 2},
        "many": list(range(5000)),
        "shared": [[same := ["x"]], same],
    }
    assert torch_pickle.read(PATH, program_of(state)) == state


def test_the_versions_that_modules_note_are_passed_over() -> None:
    state = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3)).state_dict()
    assert state._metadata
    read = torch_pickle.read(PATH, program_of(state))
    assert isinstance(read, dict)
    assert list(read) == list(state)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_number_format_is_read_as_torch_reads_it(tmp_path: Path, dtype: torch.dtype) -> None:
    numbers = (torch.arange(24) % 7).to(dtype)
    state = {
        "whole": numbers,
        "part": numbers[5:17].view(3, 4),
        "turned": numbers.view(4, 6).t(),
        "stepped": numbers[1::3],
        "none": numbers[:0],
        "one": numbers[3],
    }
    torch.save(
        {name: tensor.clone() if name == "whole" else tensor for name, tensor in state.items()},
        tmp_path / "a.pth",
    )
    ours, theirs = pickled.read_tensors(tmp_path / "a.pth"), torch.load(tmp_path / "a.pth", weights_only=True)
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert ours[name].stride() == tensor.stride() or not tensor.numel()
        assert torch.equal(ours[name], tensor)


def test_files_of_blinkdl_are_read_as_torch_reads_them(shared: Path) -> None:
    files = sorted((shared / "data" / "checkpoints").glob("*.pth"))
    assert files
    for file in files:
        ours, theirs = pickled.read_tensors(file), torch.load(file, weights_only=True, map_location="cpu")
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_where_a_damaged_pickle_is_read_torch_reads_the_same(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.randn(3, 4), "b": torch.randn(5).bfloat16()}, tmp_path / "good.pth")
    with zipfile.ZipFile(tmp_path / "good.pth") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    generator, read = random.Random(0), 0
    for _ in range(1000):
        program = bytearray(records["good/data.pkl"])
        for _ in range(generator.choice((1, 1, 2))):
            program[generator.randrange(len(program))] = generator.randrange(256)
        with zipfile.ZipFile(tmp_path / "bad.pth", "w") as archive:
            for name, record in records.items():
                archive.writestr(name, bytes(program) if name.endswith(".pkl") else record)
        try:
            ours = pickled.read_tensors(tmp_path / "bad.pth")
        except CheckpointError:
            continue
        try:
            theirs = torch.load(tmp_path / "bad.pth", weights_only=True, mmap=True, map_location="cpu")
        except RuntimeError as error:  # we do not ask for the device at all
            assert "restore data location" in str(error)  # noqa: PT017 - only where torch refuses
            continue
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
        read += 1
    assert read > 20


@pytest.mark.parametrize(
    "name", ["posix.system", "builtins.eval", "torch.load", "torch._utils._rebuild_tensor_v3"]
)
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_nothing_else_is_imported_or_called(name: str, protocol: int) -> None:
    module, _, function = name.rpartition(".")
    header = b"\x80" + bytes([protocol]) if protocol >= 2 else b""
    programs = (
        f"c{module}\n{function}\n(t".encode() + b"R.",
        f"c{module}\n{function}\n.".encode(),
        f"}}X\x01\x00\x00\x00ac{module}\n{function}\ns.".encode(),
        f"(i{module}\n{function}\n.".encode(),
        f"(c{module}\n{function}\no.".encode(),
    )
    for program in programs:
        with pytest.raises(CheckpointError, match=r"[Nn]othing in it was executed"):
            torch_pickle.read(PATH, header + program)


@pytest.mark.parametrize(
    "program",
    [
        b"", b".", b"0.", b"}", b"t.", b"R.", b"K\x01)R.", b"K\x01K\x01K\x01s.", b"}K\x01a.", b"h\x07.",
        b"Q.", b")Q.", b"}]K\x01s.", b"}(K\x01u.", b"X\xff\xff\xff\x7fa.", b"X\x01\x00\x00\x00\xff.",
        b"cposix", b"\x80\x04.", b"\xff.", b"K\x01}b.", b"](K\x01", b"\x85.", b"}))s.", b"}}}s.",
        b"(K\x01K\x01s.", b"\x8a\xff\x01.",
    ],
)  # fmt: skip
def test_a_damaged_program_is_an_error_of_ours(program: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"a\.pth: byte \d+ of its pickle is damaged"):
        torch_pickle.read(PATH, program)


def test_no_program_takes_longer_than_its_length() -> None:
    pairs = b"".join(b"q%ch%c\x86" % (i, i) for i in range(200))  # a tuple of itself twice, 200 times
    started = time.process_time()
    for program in (
        b"})" + pairs + b"K\x01s.",
        b"]" * 1_000_000,
        b")" + b"\x85" * 1_000_000 + b".",
        b"(" * 1_000_000,
    ):
        with contextlib.suppress(CheckpointError):
            torch_pickle.read(PATH, program)
    assert time.process_time() - started < 60


def test_a_pickle_is_no_larger_than_the_limits_allow() -> None:
    names = [f"blocks.{layer}.att.some_long_name_{i}.weight" for layer in range(61) for i in range(35)]
    state = dict.fromkeys(names, torch.empty(0))
    program = program_of({name: torch.empty(1) for name in state})
    assert len(program) < torch_archive.MAX_PICKLE_BYTES / 2
    assert len(pickle.dumps(names)) < len(program)


@pytest.mark.parametrize(
    ("offset", "size", "stride", "fits"),
    [
        (0, (3, 4), (4, 1), True),
        (0, (), (), True),
        (11, (), (), True),
        (12, (), (), False),
        (1, (3, 4), (4, 1), False),
        (0, (3, 4), (4, 2), False),
        (0, (3,), (0,), True),
        (0, (3,), (-1,), False),
        (-1, (3,), (1,), False),
        (0, (3, 4), (4,), False),
        (0, (0, 2**39), (1, 1), True),
        (0, (0, 2**39, 2**39), (1, 1, 1), False),  # torch multiplies all sizes
        (0, (0, 2**70), (1, 1), False),
        (2**70, (0,), (1,), False),
    ],
)
def test_a_tensor_lies_within_its_storage(
    offset: int, size: tuple[int, ...], stride: tuple[int, ...], fits: bool
) -> None:
    storage = Storage("0", torch.float32, 12)
    assert Place(storage, offset, size, stride).is_within() is fits
    if fits:
        tensor = torch.empty(0).set_(torch.zeros(12).untyped_storage(), offset, size, stride)
        assert tuple(tensor.shape) == size
