"""Texts start from a tuned state, wherever it is stored, and a state of another model is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from receptance import checkpoints
from receptance.checkpoints import Tuning
from receptance.checkpoints.contents import Contents
from receptance.checkpoints.tuning import parts, tuned_state
from receptance.errors import CheckpointError, ConfigError
from receptance.models import AnyModel, HeadsState, RWKV6Config, RWKV7Config
from tests.checkpoints.files import random_model, random_tokens
from tests.models.examples import example

GENERATIONS = ("5.0", "5.1", "5.2", "6", "7")


def random_state(model: AnyModel, seed: int = 3) -> HeadsState:
    zero: HeadsState = model.initial_state(1)
    return replace(zero, wkv=torch.randn(zero.wkv.shape, generator=torch.Generator().manual_seed(seed)))


def stored(model: AnyModel, state: HeadsState) -> dict[str, Tensor]:
    """The tensors of a file, by the definition `[head, value, key]`."""
    turn = "hij -> hij" if model.config.generation == "7" else "hij -> hji"
    return {
        f"blocks.{layer}.att.time_state": torch.einsum(turn, state.wkv[layer, 0]).contiguous()
        for layer in range(model.config.num_layers)
    }


@torch.no_grad()
def logits(model: AnyModel, tokens: Tensor, state: HeadsState | None) -> Tensor:
    found: Tensor = model(tokens, state)[0]
    return found


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_a_model_file_may_carry_its_state(tmp_path: Path, generation: str, name: str) -> None:
    model = example(generation, torch.float32)
    state = random_state(model)
    checkpoints.save(
        model, tmp_path / name, format="pth" if name.endswith("pth") else "receptance", state=state
    )
    loaded = checkpoints.load(tmp_path / name)
    assert loaded.initial_state is not None
    torch.testing.assert_close(loaded.initial_state.tensors(), state.tensors(), rtol=0, atol=0)
    tokens = random_tokens(model, 7)
    assert torch.equal(logits(loaded.model, tokens, loaded.initial_state), logits(model, tokens, state))
    assert checkpoints.load(tmp_path / name, tuning=Tuning(state="zero")).initial_state is None


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("writer", ["torch", "safetensors", "ours.pth", "ours.safetensors"])
def test_a_file_of_its_own_is_turned_as_the_generation_remembers(
    tmp_path: Path, generation: str, writer: str
) -> None:
    model = example(generation, torch.float32)
    state, path = random_state(model), tmp_path / writer
    if writer == "torch":
        torch.save(stored(model, state), path)
    elif writer == "safetensors":
        save_file(stored(model, state), path)
    else:
        checkpoints.save_state(state, model.config, path)
        written = parts.read(path)
        assert written is not None
        found = tuned_state.of_file(written, model.config)
        for name, tensor in stored(model, state).items():
            assert torch.equal(found[name].read(), tensor)
    checkpoints.save(model, tmp_path / "model.safetensors")
    loaded = checkpoints.load(tmp_path / "model", tuning=Tuning(state=path))
    assert loaded.initial_state is not None
    assert torch.equal(loaded.initial_state.wkv, state.wkv)
    assert not loaded.initial_state.time_shift.any()
    assert loaded.initial_state.wkv.is_contiguous()


@given(
    generation=st.sampled_from(["6", "7"]),
    layers=st.integers(1, 3),
    heads=st.integers(1, 3),
    size=st.integers(1, 5),
)
def test_to_a_file_and_back_keeps_every_bit(generation: str, layers: int, heads: int, size: int) -> None:
    kind = RWKV6Config if generation == "6" else RWKV7Config
    sizes = {"num_layers": layers, "hidden_size": heads * size, "head_size": size, "feed_forward_size": 4}
    config = kind(vocabulary_size=5, **sizes)
    shift = torch.zeros(layers, 1, heads * size)
    state = HeadsState(time_shift=shift, channel_shift=shift, wkv=torch.randn(layers, 1, heads, size, size))
    weights = tuned_state.of_state(state, config)
    contents = Contents(path=Path("state"), format="pth", weights=weights, files=())
    read = [weight.read() for weight in tuned_state.of_file(contents, config).values()]
    turned = torch.stack(read).unsqueeze(1)
    assert torch.equal(turned if generation == "7" else turned.mT, state.wkv)


def test_a_half_precision_state_starts_in_float32(tmp_path: Path) -> None:
    model = example("7", torch.float32).cast_matrices(torch.bfloat16)
    tensors = {name: tensor.bfloat16() for name, tensor in stored(model, random_state(model)).items()}
    torch.save(tensors, tmp_path / "state.pth")
    checkpoints.save(model, tmp_path / "model.safetensors")
    state = checkpoints.load(tmp_path / "model", tuning=Tuning(state=tmp_path / "state.pth")).initial_state
    assert state is not None
    assert state.wkv.dtype == torch.float32
    assert torch.equal(state.wkv[2, 0], tensors["blocks.2.att.time_state"].float())


Damage = Callable[[dict[str, Tensor]], object]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda t: t.pop("blocks.1.att.time_state"), r"'blocks\.1\.att\.time_state' is missing"),
        (
            lambda t: t.update({"blocks.0.ffn.time_state": t["blocks.0.att.time_state"]}),
            r"'blocks\.0\.ffn\.time_state' is no tensor of",
        ),
        (
            lambda t: t.update({"blocks.0.att.time_state": torch.zeros(2, 8, 8)}),
            r"'blocks\.0\.att\.time_state' is \(2, 8, 8\), but RWKV7Config\(.*\) needs \(4, 4, 4\)",
        ),
        (
            lambda t: t.update({"blocks.0.att.time_state": torch.zeros(4, 4, 4, dtype=torch.int64)}),
            r"'blocks\.0\.att\.time_state' is of torch\.int64",
        ),
        (
            lambda t: t["blocks.2.att.time_state"][1, 2].fill_(torch.nan),
            r"'blocks\.2\.att\.time_state' holds nan at \[1, 2, 0\]",
        ),
    ],
)
@pytest.mark.parametrize("place", ["beside", "in"])
def test_a_state_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, damage: Damage, says: str, place: str
) -> None:
    model = example("7", torch.float32)
    tensors = stored(model, random_state(model))
    damage(tensors)
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    torch.save(weights | tensors if place == "in" else weights, tmp_path / "model.pth")
    torch.save(tensors, tmp_path / "state.pth")
    tuning = Tuning() if place == "in" else Tuning(state=tmp_path / "state.pth")
    with pytest.raises(CheckpointError, match=says):
        checkpoints.load(tmp_path / "model.pth", tuning=tuning)


def test_a_state_of_another_generation_is_refused(tmp_path: Path) -> None:
    six, seven = example("6", torch.float32), example("7", torch.float32)
    checkpoints.save_state(random_state(six), six.config, tmp_path / "six.safetensors")
    checkpoints.save(seven, tmp_path / "seven.safetensors")
    checkpoints.save(random_model(), tmp_path / "four.safetensors")
    tuning = Tuning(state=tmp_path / "six.safetensors")
    with pytest.raises(CheckpointError, match=r"six.*RWKV-7 cannot start.*the file is of RWKV-6"):
        checkpoints.load(tmp_path / "seven", tuning=tuning)
    with pytest.raises(CheckpointError, match=r"six.*RWKV-4 cannot start.*remembers no matrices"):
        checkpoints.load(tmp_path / "four", tuning=tuning)
    with pytest.raises(CheckpointError, match=r"'emb\.weight' is no tensor of a tuned state"):
        checkpoints.load(tmp_path / "seven", tuning=Tuning(state=tmp_path / "seven"))


def test_a_state_alone_is_no_model(tmp_path: Path) -> None:
    model = example("6", torch.float32)
    torch.save(stored(model, random_state(model)), tmp_path / "state.pth")
    with pytest.raises(CheckpointError, match=r"tuned initial state, not a model.*--state"):
        checkpoints.load(tmp_path / "state.pth")


def test_what_is_no_tuned_state_is_not_written(tmp_path: Path) -> None:
    model = example("6", torch.float32)
    state, path = random_state(model), tmp_path / "state.pth"
    _, after = model(random_tokens(model, 3))
    infinite = replace(state, wkv=state.wkv / 0)
    for wrong, says in (
        (after, "has read a text"),
        (state.map(lambda tensor: tensor.repeat_interleave(2, dim=1)), r"is \(3, 2, 4, 4, 4\), but"),
        (infinite, "not finite"),
        (random_model().initial_state(1), "RWKV4State"),
    ):
        with pytest.raises(ConfigError, match=says):
            checkpoints.save_state(wrong, model.config, path)
    with pytest.raises(ConfigError, match=r"\.pth or \.safetensors"):
        checkpoints.save_state(state, model.config, tmp_path / "state.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format_name", ["transformers", "rwkv.cpp"])
def test_a_format_without_a_place_for_it_refuses(tmp_path: Path, format_name: str) -> None:
    model = example("6", torch.float32)
    checkpoints.save(model, tmp_path / "model.pth", format="pth", state=random_state(model))
    with pytest.raises(ConfigError, match="cannot hold the tuned state"):
        checkpoints.convert(tmp_path / "model.pth", tmp_path / "out", format=format_name)  # type: ignore[arg-type] # any


def test_web_rwkv_turns_its_states_and_says_so_by_its_suffix(tmp_path: Path) -> None:
    model = example("6", torch.float32)
    state = random_state(model)
    turned = {name: tensor.mT.contiguous() for name, tensor in stored(model, state).items()}
    save_file(turned, tmp_path / "state.st")
    checkpoints.save(model, tmp_path / "model.safetensors")
    loaded = checkpoints.load(tmp_path / "model", tuning=Tuning(state=tmp_path / "state.st"))
    assert loaded.initial_state is not None
    assert torch.equal(loaded.initial_state.wkv, state.wkv)
