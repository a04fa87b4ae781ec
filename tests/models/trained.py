"""The tiny trained models, and what an independent program says that they compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from receptance.models import AnyModel

FIRST_TOKENS = [34, 105, 110]


def weights(shared: Path, name: str) -> dict[str, Tensor]:
    """Return the weights of a tiny model by official name, in float32."""
    loaded = load_file(shared / "data" / "tiny-models" / f"{name}.safetensors")
    return {key: tensor.float() for key, tensor in loaded.items()}


def filled(model: AnyModel, tensors: dict[str, Tensor]) -> AnyModel:
    """Return the model with these weights, whose shapes may have leading axes of one."""
    own = model.state_dict()
    model.load_state_dict({name: tensor.reshape(own[name].shape) for name, tensor in tensors.items()})
    return model


@torch.no_grad()
def assert_reads_as_expected(
    model: AnyModel, shared: Path, name: str, *, logits: str = "logits", first: float | None = 1e-5
) -> None:
    """Compare the logits of a text, the state after it, and upstream's logits after three tokens.

    `first` is the tolerance of the last; None leaves it and the state out.
    """
    folder = shared / "data" / "tiny-models"
    reference = np.load(folder / f"{name}.ref.npz")
    tokens = torch.from_numpy(reference["tokens"]).long()[None]
    actual, state = model(tokens)
    torch.testing.assert_close(actual[0].double(), _double(reference[logits]), rtol=0.0, atol=3e-5)
    step, parts = None, []
    for token in tokens[0]:
        one, step = model(token.view(1, 1), step)
        parts.append(one[0])
    torch.testing.assert_close(torch.cat(parts).double(), _double(reference[logits]), rtol=0.0, atol=3e-5)
    if first is None:
        return
    for key, tensor in (("att_x_prev", state.time_shift), ("ffn_x_prev", state.channel_shift)):
        torch.testing.assert_close(tensor[:, 0].double(), _double(reference[key]), rtol=0.0, atol=1e-5)
    wkv = _double(reference["wkv"])
    largest = float(wkv.abs().max())
    torch.testing.assert_close(state.wkv[:, 0].double(), wkv, rtol=0.0, atol=1e-5 * max(1.0, largest))
    upstream = _double(np.load(folder / f"{name}.expected-logits.npy"))
    after_three = model(torch.tensor([FIRST_TOKENS]))[0][0, -1]
    torch.testing.assert_close(after_three.double(), upstream, rtol=0.0, atol=first)


def _double(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(array)).double()
