"""WKV-6 and WKV-7 in a few large torch operations, on any device: chunks of tokens, all at the same time.

Within a chunk every token reads every earlier one, with the decays between the two multiplied up in full:
these products are at most 1, so nothing overflows, and nothing is divided. The state then steps from chunk to
chunk.

Axes here: batch, chunk, head, step (within the chunk), size. The last chunk is filled up with tokens of which
everything is zero, which change nothing. Between the tokens of a chunk lie its boundaries 0, 1, ..., steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from receptance.kernels.matrix_operator import BLOCK

CHUNK = 16  # tokens

# (y, the state before each chunk and after the last), both with the axes above.
Function = Callable[..., tuple[Tensor, list[Tensor]]]


@dataclass(frozen=True)
class MatrixChunked:
    """The two passes of one operator; the way back is autograd's, over the forward pass done again."""

    inputs: str  # one letter each, as in MatrixOperator; the state follows
    function: Function

    def forward(self, inputs: tuple[Tensor, ...], keep: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return (y, state, checkpoints), as `Passes` has it."""
        y, states = self._run(*inputs)
        state = inputs[-1]
        if not keep:
            return y, states[-1].clone(), state.new_empty(0)
        checkpoints = torch.stack(states[: -1 : BLOCK // CHUNK], dim=2)
        if "u" not in self.inputs:
            checkpoints = checkpoints.transpose(-1, -2)
        return y, states[-1].clone(), checkpoints.contiguous()

    def backward(
        self,
        inputs: tuple[Tensor, ...],
        checkpoints: Tensor,
        grad_y: Tensor | None,
        grad_state: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Return the gradient of each input; of what was kept, it needs nothing."""
        with torch.enable_grad(), _seen_by_autograd():
            leaves = [x.detach().requires_grad_() for x in inputs]
            y, states = self._run(*leaves)
            ends = [(y, grad_y), (states[-1], grad_state)]
            wanted = [(end, grad) for end, grad in ends if grad is not None]
            gradients = torch.autograd.grad(
                [end for end, _ in wanted],
                leaves,
                [grad for _, grad in wanted],
                materialize_grads=True,
            )
        return tuple(gradient.contiguous() for gradient in gradients)

    def _run(self, *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        *tensors, state = inputs
        by_name = dict(zip(self.inputs, tensors, strict=True))
        chunks = {name: _chunks(x, state.dtype) for name, x in by_name.items() if name != "u"}
        if "u" in by_name:
            chunks["u"] = by_name["u"].unsqueeze(1)
        y, states = self.function(**chunks, state=state)
        v = by_name["v"]
        return y.transpose(2, 3).flatten(1, 2)[:, : v.shape[1]].to(v.dtype).contiguous(), states


@contextmanager
def _seen_by_autograd() -> Iterator[None]:
    """Let autograd record inside an operator, below which torch switches it off.

    Torch has no public way to ask for it: `torch.func.vjp` records there, but not under opcheck's modes.
    """
    off = torch._C._dispatch_tls_local_exclude_set()
    for key in ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor", "ADInplaceOrView"):
        off = off.remove(getattr(torch._C.DispatchKey, key))
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), off):
        yield


def _chunks(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Cut `[batch, time, head, size]` into `[batch, chunk, head, step, size]`."""
    steps = min(x.shape[1], CHUNK)
    padded = F.pad(x.to(dtype), (0, 0, 0, 0, 0, -x.shape[1] % steps))
    return padded.view(x.shape[0], -1, steps, *x.shape[2:]).transpose(2, 3)


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


def scores(seen_by: Tensor, keys: Tensor) -> Tensor:
    """Return how much each token takes from each, of `[..., to, from, size]` and `[..., from, size]`."""
    return (seen_by * keys.unsqueeze(-3)).sum(-1)


def wkv6(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Compute WKV-6; symbols as in `receptance.kernels.wkv6`."""
    fade = fading(w)
    seen_by = fade[..., :-1, :, :] * r.unsqueeze(-2)
    earlier = scores(seen_by[..., 1:, :], k)
    itself = (r * u * k).sum(-1)
    y = earlier @ v + itself.unsqueeze(-1) * v
    added = (k * fade[..., -1, 1:, :]).transpose(-1, -2) @ v
    kept = fade[..., -1, 0, :].unsqueeze(-1)
    states = [state]
    for a, c in zip(kept.unbind(1), added.unbind(1), strict=True):
        states.append(torch.addcmul(c, a, states[-1]))
    return y + seen_by[..., 0, :] @ torch.stack(states[:-1], dim=1), states


def wkv7(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Compute WKV-7; symbols as in `receptance.kernels.wkv7`.

    What the memory holds at a before each token, s, depends on the s of the earlier tokens of the chunk: a
    triangular system. It is solved once for what the chunk itself brings, and once for each key of the state
    before the chunk, in which s is linear.
    """
    fade = fading(w)
    removed_by = fade[..., :-1, :, :] * a.unsqueeze(-2)
    seen_by = fade[..., 1:, :, :] * r.unsqueeze(-2)
    system = torch.eye(a.shape[-2], dtype=a.dtype, device=a.device) - scores(removed_by[..., 1:, :], b)
    known = torch.cat([scores(removed_by[..., 1:, :], k) @ v, removed_by[..., 0, :]], dim=-1)
    solved = torch.linalg.solve_triangular(system, known, upper=False, unitriangular=True)
    s, by_state = solved.split([v.shape[-1], a.shape[-1]], dim=-1)

    left = fade[..., -1, 1:, :]
    added = v.transpose(-1, -2) @ (k * left) + s.transpose(-1, -2) @ (b * left)
    moved = by_state.transpose(-1, -2) @ (b * left)
    kept = fade[..., -1, 0, :].unsqueeze(-2)
    states = [state]
    for c, m, d in zip(added.unbind(1), moved.unbind(1), kept.unbind(1), strict=True):
        states.append(c + states[-1] @ m + states[-1] * d)
    before = torch.stack(states[:-1], dim=1).transpose(-1, -2)
    s = s + by_state @ before
    y = seen_by[..., 0, :] @ before + scores(seen_by[..., 1:, :], k) @ v + scores(seen_by[..., 1:, :], b) @ s
    return y, states
