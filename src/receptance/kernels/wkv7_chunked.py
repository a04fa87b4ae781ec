"""WKV-7 in chunks of tokens; symbols as in `wkv7`, axes and the idea as in `matrix_chunked`.

What the memory holds at a before each token, s, depends on the s of the earlier tokens of the chunk: a
triangular system. It is solved once for what the chunk itself brings, and once for each key of the state
before the chunk, in which s is linear.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from receptance.kernels.matrix_chunked import fading, fading_backward, scores, scores_backward


class _Chunks(NamedTuple):
    fade: Tensor
    a_of_k: Tensor  # how much a finds of each value, [to, from]
    r_of_k: Tensor  # the same for r
    r_of_b: Tensor  # how much r finds of each s
    system: Tensor  # one minus how much a finds of each s
    s: Tensor
    by_state: Tensor  # the part of s that the state before the chunk has, by its key
    moved: Tensor  # of that state by the chunk, from key to key
    kept: Tensor  # of that state by the chunk, by key
    states: list[Tensor]  # before each chunk and after the last, [value, key]
    before: Tensor  # the same before each chunk, with the axis chunk, [key, value]


def forward(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return y, and the state before each chunk and after the last."""
    x = _read(r, w, k, v, a, b, state)
    return (r * x.fade[..., 1:, 0, :]) @ x.before + x.r_of_k @ v + x.r_of_b @ x.s, x.states


def backward(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    grad_y: Tensor,
    grad_state: Tensor,
) -> dict[str, Tensor]:
    """Return the gradient of each input."""
    x = _read(r, w, k, v, a, b, state)
    fresh, left = x.fade[..., 0, :], x.fade[..., -1, 1:, :]  # from the start, and to the end
    grad_s = x.r_of_b.mT @ grad_y
    own = x.by_state.mT @ grad_s + (r * fresh[..., 1:, :]).mT @ grad_y
    ends = [grad_state.mT]
    for o, m, d in zip(*(reversed(part.unbind(1)) for part in (own, x.moved, x.kept)), strict=True):
        ends.append(o + m @ ends[-1] + d.unsqueeze(-1) * ends[-1])
    after = torch.stack(ends[-2::-1], dim=1)

    grad_s = grad_s + (b * left) @ after
    grad_known = torch.linalg.solve_triangular(x.system.mT, grad_s, upper=True, unitriangular=True)
    grad_a, (k_by_a, b_by_a), between_a = scores_backward(
        x.fade[..., :-1, 1:, :], a, [k, b], [grad_known @ v.mT, grad_known @ x.s.mT]
    )
    grad_r, (k_by_r, b_by_r), between_r = scores_backward(
        x.fade[..., 1:, 1:, :], r, [k, b], [grad_y @ v.mT, grad_y @ x.s.mT]
    )
    found_by_a, found_by_r = grad_known @ x.before.mT, grad_y @ x.before.mT
    k_stored, b_stored = v @ after.mT, x.s @ after.mT

    grad_fade = torch.zeros_like(x.fade)
    grad_fade[..., :-1, 1:, :] += between_a
    grad_fade[..., 1:, 1:, :] += between_r
    grad_fade[..., :-1, 0, :] += found_by_a * a * fresh[..., :-1, :]
    grad_fade[..., 1:, 0, :] += found_by_r * r * fresh[..., 1:, :]
    grad_fade[..., -1, 1:, :] += (k_stored * k + b_stored * b) * left
    grad_fade[..., -1, 0, :] += x.kept * (after * x.before).sum(-1)
    return {
        "r": grad_r + found_by_r * fresh[..., 1:, :],
        "w": fading_backward(grad_fade),
        "k": k_by_a + k_by_r + k_stored * left,
        "v": x.a_of_k.mT @ grad_known + x.r_of_k.mT @ grad_y + (k * left) @ after,
        "a": grad_a + found_by_a * fresh[..., :-1, :],
        "b": b_by_a + b_by_r + b_stored * left,
        "state": ends[-1].mT.contiguous(),
    }


def _read(r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor) -> _Chunks:
    fade = fading(w)
    found_by = fade[..., :-1, :, :] * a.unsqueeze(-2)
    seen_by = fade[..., 1:, 1:, :] * r.unsqueeze(-2)
    system = torch.eye(a.shape[-2], dtype=a.dtype, device=a.device) - scores(found_by[..., 1:, :], b)
    a_of_k = scores(found_by[..., 1:, :], k)
    known = torch.cat([a_of_k @ v, found_by[..., 0, :]], dim=-1)
    solved = torch.linalg.solve_triangular(system, known, upper=False, unitriangular=True)
    s, by_state = solved.split([v.shape[-1], a.shape[-1]], dim=-1)

    left, kept = fade[..., -1, 1:, :], fade[..., -1, 0, :]
    added = v.mT @ (k * left) + s.mT @ (b * left)
    moved = by_state.mT @ (b * left)
    states = [state]
    for c, m, d in zip(added.unbind(1), moved.unbind(1), kept.unbind(1), strict=True):
        states.append(c + states[-1] @ m + states[-1] * d.unsqueeze(-2))
    before = torch.stack(states[:-1], dim=1).mT
    return _Chunks(
        fade=fade,
        a_of_k=a_of_k,
        r_of_k=scores(seen_by, k),
        r_of_b=scores(seen_by, b),
        system=system,
        s=s + by_state @ before,
        by_state=by_state,
        moved=moved,
        kept=kept,
        states=states,
        before=before,
    )
