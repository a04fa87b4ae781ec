"""`.pth` files: only tensors come out, whatever the pickle says."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import weakref
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from receptance.checkpoints import pickled
from receptance.checkpoints.contents import Weight, weights
from receptance.checkpoints.stored_model import from_module
from receptance.errors import CheckpointError
from tests.checkpoints.files import official, random_model, rewrite_archive

# What a program must not do while it reads weights.
FORBIDDEN_EVENTS = (
    "os.system",
    "subprocess.Popen",
    "os.posix_spawn",
    "os.exec",
    "socket.connect",
    "os.remove",
)
_watched: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    writes = event == "open" and isinstance(arguments[1], str) and arguments[1][:1] in "wax"
    if _watched is not None and (event in FORBIDDEN_EVENTS or writes):
        _watched.append(f"{event} {arguments}")


sys.addaudithook(_watch)


@pytest.fixture
def watched() -> Iterator[list[str]]:
    """What was done that reading must not do."""
    global _watched
    _watched = []
    yield _watched
    _watched = None


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.fixture
def good(tmp_path: Path) -> Path:
    torch.save(official(random_model()), tmp_path / "good.pth")
    return tmp_path / "good.pth"


def test_tensors_come_back_mapped_and_equal(good: Path) -> None:
    contents = pickled.read(good)
    for name, tensor in official(random_model()).items():
        assert torch.equal(contents.weights[name].read(), tensor)
    before = good.read_bytes()
    contents.weights["emb.weight"].read().zero_()
    assert good.read_bytes() == before


@pytest.mark.parametrize("prefix", ["_forward_module.", "module.", "_forward_module.module.", "_orig_mod."])
def test_what_a_trainer_put_before_the_names_is_taken_off(tmp_path: Path, prefix: str) -> None:
    tensors = official(random_model())
    torch.save({prefix + name: tensor for name, tensor in tensors.items()}, tmp_path / "a.pth")
    contents = pickled.read(tmp_path / "a.pth")
    assert contents.weights.keys() == tensors.keys()
    assert contents.name_in_file("emb.weight") == f"{prefix}emb.weight"


@pytest.mark.parametrize("mapping", [dict, OrderedDict])
@pytest.mark.parametrize("wrap", [torch.Tensor.clone, nn.Parameter])
def test_any_flat_dictionary_of_tensors_is_read(tmp_path: Path, mapping: type, wrap: Any) -> None:
    tensors = official(random_model())
    torch.save(mapping({name: wrap(tensor) for name, tensor in tensors.items()}), tmp_path / "a.pth")
    ours = pickled.read_tensors(tmp_path / "a.pth")
    assert all(torch.equal(ours[name], tensor) for name, tensor in tensors.items())
    assert not any(tensor.requires_grad for tensor in ours.values())


def test_a_transposed_tensor_keeps_its_values(tmp_path: Path) -> None:
    matrix = torch.randn(3, 5)
    torch.save({"a": matrix.t()}, tmp_path / "a.pth")
    assert torch.equal(pickled.read_tensors(tmp_path / "a.pth")["a"], matrix.t())


def test_two_views_of_one_buffer_are_read(tmp_path: Path) -> None:
    buffer = torch.randn(30)
    torch.save({"a": buffer[:10].view(2, 5), "b": buffer[10:]}, tmp_path / "a.pth")
    tensors = pickled.read_tensors(tmp_path / "a.pth")
    assert torch.equal(tensors["a"].flatten(), buffer[:10])
    assert torch.equal(tensors["b"], buffer[10:])


@pytest.mark.parametrize(
    "attack",
    [
        lambda canary: Call(os.system, f"touch {canary}"),
        lambda canary: Call(eval, f"open({str(canary)!r}, 'w')"),
        lambda canary: Call(exec, f"open({str(canary)!r}, 'w')"),
        lambda canary: Call(open, str(canary), "w"),
        lambda canary: Call(Path.touch, canary),
        lambda canary: Call(torch.load, str(canary)),
        lambda canary: Call(torch.hub.load, str(canary), "model"),
        lambda canary: Call(torch.from_file, str(canary), True, 10),
        lambda canary: Call(__import__, "antigravity"),
    ],
    ids=["system", "eval", "exec", "open", "touch", "load", "hub", "from_file", "import"],
)
@pytest.mark.parametrize("place", ["value", "root", "key"])
def test_a_pickle_that_calls_something_calls_nothing(
    tmp_path: Path, watched: list[str], attack: Any, place: str
) -> None:
    canary = tmp_path / "canary"
    call = attack(canary)
    state = {"value": {"emb.weight": call}, "root": call, "key": {call: torch.zeros(3)}}[place]
    torch.save(state, tmp_path / "evil.pth")
    watched.clear()
    with pytest.raises(CheckpointError, match="nothing in it was executed"):
        pickled.read(tmp_path / "evil.pth")
    assert watched == []
    assert not canary.exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(random_model(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="wants more than tensors"):
        pickled.read(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([torch.zeros(3)], "holds a list"),
        (torch.zeros(3), "holds a Tensor"),
        ({"state_dict": {"emb.weight": torch.zeros(3)}}, "'state_dict' is a dict"),
        ({"emb.weight": torch.zeros(3), "epoch": 3}, "'epoch' is a int"),
        ({3: torch.zeros(3)}, "key 3,"),
        ({"a": torch.zeros(3).to_sparse()}, "would import 'torch._utils._rebuild_sparse_tensor'"),
        ({"a": torch.zeros(3, device="meta")}, "would import 'torch._utils._rebuild_meta_tensor_no_storage'"),
        ({"a": torch.zeros(1).expand(1_000_000_000)}, "'a' is .*repeats its numbers"),
    ],
)
def test_only_a_flat_dictionary_of_plain_tensors_is_read(tmp_path: Path, state: Any, message: str) -> None:
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message):
        pickled.read(tmp_path / "a.pth")


def test_tensors_that_share_their_memory_too_often_are_refused(tmp_path: Path) -> None:
    once = torch.zeros(1000)
    torch.save({f"{i}": once for i in range(3)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="share memory"):
        pickled.read(tmp_path / "a.pth")


def test_a_file_that_the_pip_package_converted_is_refused_with_the_reason(tmp_path: Path) -> None:
    tensors = official(random_model())
    extra = {"_strategy": "cpu fp32", "_rescale_layer": 0, "_version": "0.7"}
    torch.save(tensors | extra, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"'cpu fp32'.*transposed.*first layer norm is gone"):
        pickled.read(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "claimed", [b"M\x40\x1f", b"K\x08", b"J\xff\xff\xff\x7f"], ids=["8000", "8", "2^31-1"]
)
def test_a_size_that_is_not_that_of_the_record_is_refused(tmp_path: Path, claimed: bytes) -> None:
    torch.save({"a": torch.arange(1000.0).view(10, 100), "b": torch.ones(9000)}, tmp_path / "good.pth")
    honest = b"M\xe8\x03"  # 1000

    def claim(name: str, content: bytes) -> bytes:
        return content.replace(honest, claimed) if name == "data.pkl" else content

    with pytest.raises(CheckpointError):
        pickled.read(rewrite_archive(tmp_path / "good.pth", tmp_path / "bad.pth", claim))


def test_a_compressed_archive_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(25_000_000)}, tmp_path / "good.pth")
    bomb = rewrite_archive(tmp_path / "good.pth", tmp_path / "bomb.pth", compression=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 200_000
    started = time.process_time()
    with pytest.raises(CheckpointError, match="is compressed"):
        pickled.read(bomb)
    assert time.process_time() - started < 10


@pytest.mark.parametrize("record", ["data.pkl", "data/0"])
def test_an_archive_without_one_of_its_records_is_refused(tmp_path: Path, good: Path, record: str) -> None:
    with zipfile.ZipFile(good) as archive, zipfile.ZipFile(tmp_path / "bad.pth", "w") as copy:
        for name in archive.namelist():
            if not name.endswith(record):
                copy.writestr(name, archive.read(name))
    with pytest.raises(CheckpointError):
        pickled.read(tmp_path / "bad.pth")


def test_a_program_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth", "a") as archive:
        archive.writestr("a/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript"):
        pickled.read(tmp_path / "a.pth")


def test_an_archive_with_two_pickles_is_refused(tmp_path: Path, good: Path) -> None:
    with zipfile.ZipFile(good, "a") as archive:
        archive.writestr("other/data.pkl", b"")
    with pytest.raises(CheckpointError, match=r"no single 'data\.pkl'"):
        pickled.read(good)


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, good: Path) -> None:
    content = good.read_bytes()
    for length in [*range(0, len(content), 997), len(content) - 1]:
        (tmp_path / "cut.pth").write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            pickled.read(tmp_path / "cut.pth")


def test_damage_anywhere_outside_the_numbers_is_a_checkpoint_error_or_harmless(
    tmp_path: Path, good: Path, watched: list[str]
) -> None:
    content = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as archive:
        start = archive.start_dir
        end_of_pickle = archive.getinfo("good/.format_version").header_offset
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        place = int(torch.randint(end_of_pickle + len(content) - start, (1,), generator=generator))
        place = place if place < end_of_pickle else place - end_of_pickle + start
        damaged = content.copy()
        damaged[place] ^= 1 << int(torch.randint(8, (1,), generator=generator))
        (tmp_path / "damaged.pth").write_bytes(damaged)
        watched.clear()
        with contextlib.suppress(CheckpointError):
            pickled.read(tmp_path / "damaged.pth")
        assert watched == []


def test_a_written_file_is_what_torch_and_blinkdl_read(tmp_path: Path) -> None:
    model = random_model()
    pickled.write(tmp_path / "a.pth", from_module(model))
    for mapped in (False, True):
        theirs = torch.load(tmp_path / "a.pth", weights_only=True, mmap=mapped)
        assert list(theirs) == list(official(model))
        for name, tensor in official(model).items():
            assert torch.equal(theirs[name], tensor)
            assert theirs[name].shape == tensor.shape


def test_a_written_file_is_a_sound_zip_archive(tmp_path: Path) -> None:
    pickled.write(tmp_path / "a.pth", from_module(random_model()))
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        assert archive.testzip() is None


def test_a_written_file_is_that_of_torch_save_but_for_the_numbers_of_the_archive(tmp_path: Path) -> None:
    pickled.write(tmp_path / "a.pth", from_module(random_model()))
    with (tmp_path / "b.pth").open("wb") as file:
        torch.save(official(random_model()), file)
    with zipfile.ZipFile(tmp_path / "a.pth") as ours, zipfile.ZipFile(tmp_path / "b.pth") as theirs:
        names = [name for name in theirs.namelist() if "serialization_id" not in name]
        assert [name for name in ours.namelist() if "serialization_id" not in name] == names
        for name in names:
            assert ours.read(name) == theirs.read(name), name


def test_the_same_model_gives_the_same_bytes_under_any_name(tmp_path: Path) -> None:
    for name in ("one.pth", "two.pth"):
        pickled.write(tmp_path / name, from_module(random_model()))
    assert (tmp_path / "one.pth").read_bytes() == (tmp_path / "two.pth").read_bytes()


def test_vectors_take_the_dtype_of_the_matrices_only_where_that_loses_nothing(tmp_path: Path) -> None:
    model = random_model().cast_matrices(torch.bfloat16)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().to(parameter.dtype)
    pickled.write(tmp_path / "a.pth", from_module(model))
    assert {t.dtype for t in torch.load(tmp_path / "a.pth", weights_only=True).values()} == {torch.bfloat16}
    model.ln_out.weight.data[0] = 0.1
    pickled.write(tmp_path / "a.pth", from_module(model))
    written = torch.load(tmp_path / "a.pth", weights_only=True)
    assert torch.equal(written["ln_out.weight"], model.ln_out.weight)
    assert written["head.weight"].dtype == torch.bfloat16


def test_a_view_does_not_take_the_whole_buffer_into_the_file(tmp_path: Path) -> None:
    buffer = torch.randn(1_000_000)
    pickled.write_weights(tmp_path / "a.pth", weights({"a": buffer[:100].view(10, 10)}))
    assert (tmp_path / "a.pth").stat().st_size < 10_000


def test_weights_are_read_one_at_a_time(tmp_path: Path) -> None:
    alive = 0

    def read() -> torch.Tensor:
        nonlocal alive
        alive += 1
        tensor = torch.zeros(1000)
        weakref.finalize(tensor, forget)
        assert alive == 1
        return tensor

    def forget() -> None:
        nonlocal alive
        alive -= 1

    pickled.write_weights(
        tmp_path / "a.pth", {f"{i}": Weight((1000,), torch.float32, read) for i in range(4)}
    )
