"""What the memory does while a text is read: how large it is, and how much of it each token changes.

The memory of a head is its matrix S in RWKV-5, 6 and 7, and the weighted mean of the past, numerator over
denominator, in RWKV-4, which has one for a whole layer. After token t its

    norm      |S_t|                        change    |S_t - S_{t-1}| / |S_t|

with the Frobenius norm, the root of the sum of the squares. A token that makes all of the memory anew changes
it by 1 or more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from receptance.models import AnyModel, HeadsState, RWKV4State, State
from receptance.runtimes import NativeModel

# Tokens that the native runtime reads at once: it keeps the state after each.
_STEPS = 16


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Size and change of the memory after each token, head by head; see the formulas of this module."""

    norms: Float[Tensor, "token layer head"]
    changes: Float[Tensor, "token layer head"]


@torch.inference_mode()
def memory(
    model: AnyModel | NativeModel, tokens: Int[Tensor, " token"], state: State | None = None
) -> Memory:
    """Return what the memory does while the model reads these tokens one by one, from this state on."""
    before = _contents(model.initial_state(1) if state is None else state)
    norms, changes = [], []
    for after in map(_contents, states_along(model, tokens, state)):
        norm, change = after.norm(dim=-1), (after - before).norm(dim=-1)
        norms.append(norm)
        # A memory that is empty, and stays so, does not change.
        changes.append(change / norm.where(norm > 0, 1.0))
        before = after
    return Memory(norms=torch.stack(norms), changes=torch.stack(changes))


@torch.inference_mode()
def states_along(
    model: AnyModel | NativeModel, tokens: Int[Tensor, " token"], state: State | None = None
) -> Iterator[State]:
    """Yield the state after each token."""
    if isinstance(model, NativeModel):
        for span in torch.split(tokens, _STEPS):
            _, states = model.steps(span[None], state)
            yield from states
            state = states[-1]
        return
    for token in tokens:
        _, state = model.features(token.view(1, 1), state)
        yield state


def _contents(state: State) -> Float[Tensor, "layer head value"]:
    """Return what each head of each layer holds, as one vector."""
    if isinstance(state, HeadsState):
        return state.wkv[:, 0].flatten(-2)
    state = cast(RWKV4State, state)  # there is no other kind
    mean = state.numerator / state.denominator.where(state.denominator > 0, 1.0)
    return mean.where(state.denominator > 0, 0.0)[:, :1]
