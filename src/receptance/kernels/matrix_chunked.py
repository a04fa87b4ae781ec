"""WKV-6 and WKV-7 in a few large torch operations, on any device: chunks of tokens, all at the same time.

Within a chunk every token reads every earlier one, with the decays between the two multiplied up in full:
these products are at most 1, so nothing overflows, and nothing is divided. The state then steps from chunk to
chunk. The two operators lie in `wkv6_chunked` and `wkv7_chunked`; here is what they share.

Axes here: batch, chunk, head, step (within the chunk), size. The last chunk is filled up with tokens of which
everything is zero, which change nothing. Between the tokens of a chunk lie its boundaries 0, 1, ..., steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from receptance.kernels.matrix_operator import BLOCK

CHUNK = 16  # tokens

# From the inputs, cut into chunks, and the state: (y, the state before each chunk and after the last).
Forward = Callable[..., tuple[Tensor, list[Tensor]]]
# From these and the gradients of y and of the last state: the gradient of each by its name.
Backward = Callable[..., dict[str, Tensor]]


@dataclass(frozen=True)
class MatrixChunked:
    """The two passes of one operator; the way back does the way there again and needs nothing kept of it."""

    inputs: str  # one letter each, as in MatrixOperator; the state follows
    chunks_forward: Forward
    chunks_backward: Backward

    def forward(self, inputs: tuple[Tensor, ...], keep: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return (y, state, checkpoints), as `Passes` has it."""
        v, state = inputs[self.inputs.index("v")], inputs[-1]
        y, states = self.chunks_forward(**self._chunks(inputs))
        y = _joined(y, like=v)
        if not keep:
            return y, states[-1], state.new_empty(0)
        checkpoints = torch.stack(states[: -1 : BLOCK // CHUNK], dim=2)
        if "u" not in self.inputs:
            checkpoints = checkpoints.transpose(-1, -2)
        return y, states[-1], checkpoints.contiguous()

    def backward(
        self,
        inputs: tuple[Tensor, ...],
        checkpoints: Tensor,
        grad_y: Tensor | None,
        grad_state: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Return the gradient of each input."""
        v, state = inputs[self.inputs.index("v")], inputs[-1]
        gradients = self.chunks_backward(
            **self._chunks(inputs),
            grad_y=_chunks(torch.zeros_like(v) if grad_y is None else grad_y, state.dtype),
            grad_state=torch.zeros_like(state) if grad_state is None else grad_state,
        )
        named = zip((*self.inputs, "state"), inputs, strict=True)
        return tuple(
            gradients[name] if name in {"u", "state"} else _joined(gradients[name], like=tensor)
            for name, tensor in named
        )

    def _chunks(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        *tensors, state = inputs
        named = zip(self.inputs, tensors, strict=True)
        chunks = {name: x if name == "u" else _chunks(x, state.dtype) for name, x in named}
        return {**chunks, "state": state}


def _chunks(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Cut `[batch, time, head, size]` into `[batch, chunk, head, step, size]`."""
    steps = min(x.shape[1], CHUNK)
    padded = F.pad(x.to(dtype), (0, 0, 0, 0, 0, -x.shape[1] % steps))
    return padded.view(x.shape[0], -1, steps, *x.shape[2:]).transpose(2, 3)


def _joined(x: Tensor, like: Tensor) -> Tensor:
    """Undo `_chunks`, into the shape and dtype that there was."""
    return x.transpose(2, 3).flatten(1, 2)[:, : like.shape[1]].to(like.dtype).contiguous()


def fading(w: Tensor) -> Tensor:
    """Return what is left at each boundary of what stood at each earlier one: `[..., to, from, size]`.

    The logarithms between the two are added up one by one: a difference of two sums from the start would lose
    a small decay beside a large one.
    """
    steps = w.shape[-2]
    step = torch.arange(steps, device=w.device)
    boundary = torch.arange(steps + 1, device=w.device)
    between = torch.where((step[:, None] >= boundary)[..., None], w.unsqueeze(-2), 0.0).cumsum(-3)
    between = F.pad(between, (0, 0, 0, 0, 1, 0))
    earlier = (boundary[:, None] >= boundary)[..., None]
    return torch.exp(torch.where(earlier, between, -torch.inf))


def fading_backward(grad_logarithm: Tensor) -> Tensor:
    """Return the gradient of w from that of the logarithm of what `fading` returns.

    It may be anything where that is zero. A decay has its share in all that goes from before to after it.
    """
    from_before = grad_logarithm.cumsum(-2)[..., 1:, :-1, :]
    step = torch.arange(from_before.shape[-2], device=grad_logarithm.device)
    return torch.where((step[:, None] >= step)[..., None], from_before, 0.0).sum(-3)


def scores(seen_by: Tensor, keys: Tensor) -> Tensor:
    """Return how much each token takes from each, of `[..., to, from, size]` and `[..., from, size]`."""
    return (seen_by * keys.unsqueeze(-3)).sum(-1)


def scores_backward(
    fade: Tensor, readers: Tensor, keys: Sequence[Tensor], gradients: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Return the gradients of the readers, of each of their keys and of the logarithm of the fading.

    `gradients` are those of `scores(fade * readers.unsqueeze(-2), key)` for each key.
    """
    seen_by = fade * readers.unsqueeze(-2)
    grad_seen_by = torch.zeros_like(fade)
    for gradient, key in zip(gradients, keys, strict=True):
        grad_seen_by.addcmul_(gradient.unsqueeze(-1), key.unsqueeze(-3))
    grad_keys = [(gradient.unsqueeze(-1) * seen_by).sum(-3) for gradient in gradients]
    return (grad_seen_by * fade).sum(-2), grad_keys, grad_seen_by.mul_(seen_by)
