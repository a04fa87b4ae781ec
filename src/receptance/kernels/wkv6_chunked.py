"""WKV-6 in chunks of tokens; symbols as in `wkv6`, axes and the idea as in `matrix_chunked`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from receptance.kernels.matrix_chunked import fading, fading_backward, scores, scores_backward


class _Chunks(NamedTuple):
    fade: Tensor
    within: Tensor  # how much each token takes from the values of each: [to, from]
    kept: Tensor  # of the state over the whole chunk, by key
    states: list[Tensor]  # before each chunk and after the last
    before: Tensor  # the same before each chunk, with the axis chunk


def forward(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return y, and the state before each chunk and after the last."""
    x = _read(r, k, v, w, u, state)
    return x.within @ v + (r * x.fade[..., :-1, 0, :]) @ x.before, x.states


def backward(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    state: Tensor,
    grad_y: Tensor,
    grad_state: Tensor,
) -> dict[str, Tensor]:
    """Return the gradient of each input."""
    x = _read(r, k, v, w, u, state)
    fresh, left = x.fade[..., :-1, 0, :], x.fade[..., -1, 1:, :]  # from the start, and to the end
    ends = [grad_state]
    own = (r * fresh).mT @ grad_y
    for o, d in zip(reversed(own.unbind(1)), reversed(x.kept.unbind(1)), strict=True):
        ends.append(torch.addcmul(o, d.unsqueeze(-1), ends[-1]))
    after = torch.stack(ends[-2::-1], dim=1)

    grad_within = grad_y @ v.mT
    grad_itself = grad_within.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    grad_read, grad_stored = grad_y @ x.before.mT, v @ after.mT
    grad_r, (grad_k,), between = scores_backward(x.fade[..., :-1, 1:, :], r, [k], [grad_within])
    from_start = torch.cat(
        [grad_read * r * fresh, (x.kept * (after * x.before).sum(-1)).unsqueeze(-2)], dim=-2
    )
    to_end = (grad_stored * k * left).unsqueeze(-3)
    bonus = u.unsqueeze(1)
    return {
        "r": grad_r + grad_itself * bonus * k + grad_read * fresh,
        "k": grad_k + grad_itself * bonus * r + grad_stored * left,
        "v": x.within.mT @ grad_y + (k * left) @ after,
        "w": fading_backward(torch.cat([from_start.unsqueeze(-2), torch.cat([between, to_end], -3)], -2)),
        "u": (grad_itself * r * k).sum((0, 1, 3)),
        "state": ends[-1],
    }


def _read(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor) -> _Chunks:
    fade = fading(w)
    itself = (r * u.unsqueeze(1) * k).sum(-1)
    within = scores(fade[..., :-1, 1:, :] * r.unsqueeze(-2), k) + torch.diag_embed(itself)
    added = (k * fade[..., -1, 1:, :]).mT @ v
    kept = fade[..., -1, 0, :]
    states = [state]
    for c, d in zip(added.unbind(1), kept.unbind(1), strict=True):
        states.append(torch.addcmul(c, d.unsqueeze(-1), states[-1]))
    return _Chunks(fade, within, kept, states, torch.stack(states[:-1], dim=1))
