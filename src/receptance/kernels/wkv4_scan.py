"""WKV-4 in a few large torch operations, on any device: the recurrence cut into blocks that run side by side.

Symbols as in `wkv4`. A block of tokens maps the sums (a, b, p) before it to those after it, and two such maps
join into one. So the blocks are first summed up on their own, then joined by doubling (1, 2, 4, ... blocks),
and with the sums before every block known, all blocks step through their tokens at the same time. Only
numbers not far above zero are exponentiated: nothing overflows, in float32 or float64, for any k and w.

Axes here: batch, block, step (within the block), channel. The last block is filled up with steps that do
nothing: their k is -inf, and nothing decays; a text shorter than a block is a block of its own length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 16  # tokens; also the distance of the checkpoints
EMPTY = -1e38  # the exponent of sums that hold nothing


@dataclass(frozen=True)
class _Steps:
    """What happens at every token of every block."""

    numerator: Tensor  # the sums before each token, and after the last: one step more than there are tokens
    denominator: Tensor
    exponent: Tensor
    decay: Tensor  # by the token, in the scale of the sums before and after it
    weight: Tensor  # of the token in the sums after it
    y: Tensor
    past: Tensor  # weight of the sums in y, per unit of a or b
    now: Tensor  # weight of the token in y


def forward(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, a: Tensor, b: Tensor, p: Tensor, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return (y, a, b, p, checkpoints), as the operator that `wkv4` registers."""
    time = k.shape[1]
    if time == 1 and not keep:
        return *_one_token(k.to(p.dtype), v, w, u, a, b, p), p.new_empty(0)
    keys, values = _blocks(k, p.dtype, -torch.inf), _blocks(v, p.dtype)
    starts = _sums_before_blocks(keys, values, w, (a, b, p))
    x = _step_through(keys, values, _blocks(w.expand(1, time, -1), p.dtype), u, starts)
    a_end, b_end, p_end = (sums[:, -1, -1].clone() for sums in (x.numerator, x.denominator, x.exponent))
    y = x.y.flatten(1, 2)[:, :time].to(v.dtype).contiguous()
    return y, a_end, b_end, p_end, torch.stack(starts, dim=2) if keep else p.new_empty(0)


def backward(
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    checkpoints: Tensor,
    ends: tuple[Tensor, Tensor, Tensor],
    grad_y: Tensor | None,
    grad_ends: tuple[Tensor | None, Tensor | None, Tensor | None],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of k, v, w, u, a, b, p."""
    time, dtype = k.shape[1], w.dtype
    keys, values = _blocks(k, dtype, -torch.inf), _blocks(v, dtype)
    decays = _blocks(w.expand(1, time, -1), dtype)
    a0, b0, p0 = checkpoints.unbind(2)
    x = _step_through(keys, values, decays, u, (a0, b0, p0))
    g = torch.zeros_like(x.y) if grad_y is None else _blocks(grad_y, dtype)
    past, now = g * x.past, g * x.now
    grad_a, grad_b, grad_p = (
        torch.zeros_like(end) if grad is None else grad for end, grad in zip(ends, grad_ends, strict=True)
    )

    # Back over the blocks: what the y of each contribute to the sums before it, and the factor of all that
    # follows. Gradients of a and b belong to a scale: p_next is that of the sums before the next block.
    p_next = torch.cat([p0[:, 1:], x.exponent[:, -1:, -1]], dim=1)
    age = torch.arange(keys.shape[2], dtype=dtype, device=w.device)[:, None]
    reach = past * torch.exp(age * w - (x.exponent[:, :, :-1] - p0[:, :, None]))
    factor = torch.exp(decays.sum(2) - (p_next - p0))
    after_a, grad_a0 = _back_over_blocks(reach.sum(2), factor, grad_a)
    after_b, grad_b0 = _back_over_blocks(-(reach * x.y).sum(2), factor, grad_b)

    # Back through the steps of every block at the same time, from the sums after it.
    rescale = torch.exp(x.exponent[:, :, -1] - p_next)
    through_a = _back_through_steps(past, x.decay, after_a * rescale)
    through_b = _back_through_steps(-past * x.y, x.decay, after_b * rescale)
    by_bonus = now * (values - x.y)
    grad_k = (by_bonus + x.weight * (through_a * values + through_b)).flatten(1, 2)[:, :time]
    grad_v = (now + x.weight * through_a).flatten(1, 2)[:, :time]
    through_sums = through_a * x.numerator[:, :, :-1] + through_b * x.denominator[:, :, :-1]
    grad_w = (x.decay * through_sums).flatten(1, 2)[:, :time].sum((0, 1))
    grad_p0 = grad_a0 * a0[:, 0] + grad_b0 * b0[:, 0]
    if any(grad is not None for grad in grad_ends):
        # At fixed unscaled sums a change of p also changes a and b; what is left belongs to p itself.
        own = grad_p - ends[0] * grad_a - ends[1] * grad_b
        to_k, to_w, to_p = _route_p(k.to(dtype), w, p0[:, 0], own)
        grad_k, grad_w, grad_p0 = grad_k + to_k, grad_w + to_w, grad_p0 + to_p
    grad_k, grad_v = grad_k.to(k.dtype).contiguous(), grad_v.to(v.dtype).contiguous()
    return grad_k, grad_v, grad_w, by_bonus.sum((0, 1, 2)), grad_a0, grad_b0, grad_p0


def _one_token(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, a: Tensor, b: Tensor, p: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (y, a, b, p) in as few operations as there are: the step of generation."""
    key, value = k[:, 0], v[:, 0].to(p.dtype)
    lead = u + (key - p)  # of the token over the past
    past, now = torch.exp(-lead.clamp_min(0.0)), torch.exp(lead.clamp_max(0.0))
    y = (past * a + now * value) / (past * b + now)
    p_after = torch.maximum(p + w, key)
    decay, weight = torch.exp(w - (p_after - p)), torch.exp(key - p_after)
    return y[:, None].to(v.dtype), decay * a + weight * value, torch.addcmul(weight, decay, b), p_after


def _blocks(x: Tensor, dtype: torch.dtype, padding: float = 0.0) -> Tensor:
    """Cut `[batch, time, channel]` into `[batch, block, step, channel]`."""
    time = x.shape[1]
    if time <= BLOCK:
        return x.to(dtype)[:, None]
    padded = F.pad(x.to(dtype), (0, 0, 0, -time % BLOCK), value=padding)
    return padded.view(x.shape[0], -1, BLOCK, x.shape[2])


def _sums_before_blocks(
    keys: Tensor, values: Tensor, w: Tensor, start: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a, b, p before each block, `[batch, block, channel]`."""
    a, b, p = (sums[:, None] for sums in start)
    if keys.shape[1] == 1:
        return a, b, p
    age = torch.arange(BLOCK - 1, -1, -1, dtype=keys.dtype, device=keys.device)[:, None]
    exponents = keys[:, :-1] + age * w
    largest = exponents.amax(2).clamp_min(EMPTY)
    weights = torch.exp(exponents - largest[:, :, None])
    # Entry i holds what stands before block i on its own: the sums given, then each block. Joining it with
    # the entry n before it, for n = 1, 2, 4, ..., makes it hold everything.
    a = torch.cat([a, (weights * values[:, :-1]).sum(2)], dim=1)
    b = torch.cat([b, weights.sum(2)], dim=1)
    p = torch.cat([p, largest], dim=1)
    n = 1
    while n < keys.shape[1]:
        faded = p[:, :-n] + (n * BLOCK) * w
        q = torch.maximum(faded, p[:, n:])
        left, right = torch.exp(faded - q), torch.exp(p[:, n:] - q)
        a = torch.cat([a[:, :n], left * a[:, :-n] + right * a[:, n:]], dim=1)
        b = torch.cat([b[:, :n], left * b[:, :-n] + right * b[:, n:]], dim=1)
        p = torch.cat([p[:, :n], q], dim=1)
        n *= 2
    return a, b, p


def _step_through(
    keys: Tensor, values: Tensor, decays: Tensor, u: Tensor, starts: tuple[Tensor, Tensor, Tensor]
) -> _Steps:
    """Step through all blocks at the same time, from the sums before them; `decays` is w at every step."""
    exponents = [starts[2]]
    for w, key in zip(decays.unbind(2), keys.unbind(2), strict=True):
        exponents.append(torch.maximum(exponents[-1] + w, key))
    exponent = torch.stack(exponents, dim=2)
    p, p_after = exponent[:, :, :-1], exponent[:, :, 1:]
    decay, weight = torch.exp(decays - (p_after - p)), torch.exp(keys - p_after)
    numerators, denominators = [starts[0]], [starts[1]]
    for d, n, m in zip(decay.unbind(2), (weight * values).unbind(2), weight.unbind(2), strict=True):
        numerators.append(torch.addcmul(n, d, numerators[-1]))
        denominators.append(torch.addcmul(m, d, denominators[-1]))
    numerator, denominator = torch.stack(numerators, dim=2), torch.stack(denominators, dim=2)

    lead = u + (keys - p)  # of the token over the past
    past, now = torch.exp(-lead.clamp_min(0.0)), torch.exp(lead.clamp_max(0.0))
    total = past * denominator[:, :, :-1] + now
    y = (past * numerator[:, :, :-1] + now * values) / total
    return _Steps(numerator, denominator, exponent, decay, weight, y, past / total, now / total)


def _back_over_blocks(own: Tensor, factor: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Run `before = own + factor * after` back from `last`; return all `after`, and the first `before`."""
    x = torch.cat([own[:, :-1], own[:, -1:] + factor[:, -1:] * last[:, None]], dim=1)
    n = 1
    while n < own.shape[1]:
        x = torch.cat([x[:, :-n] + factor[:, :-n] * x[:, n:], x[:, -n:]], dim=1)
        factor = torch.cat([factor[:, :-n] * factor[:, n:], factor[:, -n:]], dim=1)
        n *= 2
    return torch.cat([x[:, 1:], last[:, None]], dim=1), x[:, 0].clone()


def _back_through_steps(own: Tensor, decay: Tensor, last: Tensor) -> Tensor:
    """Run `before = own + decay * after` back from `last`; return `after` for every step."""
    after = [last]
    for o, d in zip(reversed(own.unbind(2)[1:]), reversed(decay.unbind(2)[1:]), strict=True):
        after.append(torch.addcmul(o, d, after[-1]))
    return torch.stack(after[::-1], dim=2)


def _route_p(k: Tensor, w: Tensor, p0: Tensor, grad_p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what k, w and the first p get of the gradient of the last p, which one exponent alone set."""
    time = k.shape[1]
    age = torch.arange(time, -1, -1, dtype=k.dtype, device=k.device)
    winner = (torch.cat([p0[:, None], k], dim=1) + age[:, None] * w).argmax(1, keepdim=True)
    to_exponents = k.new_zeros(k.shape[0], time + 1, k.shape[2]).scatter_(1, winner, grad_p[:, None])
    return to_exponents[:, 1:], (grad_p * age[winner[:, 0]]).sum(0), to_exponents[:, 0]
