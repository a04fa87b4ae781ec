"""What rounding each matrix does to what a model says, and which of them to spare.

    p what the full model says of the next token   q what the rounded one says
    g gradient of log p(y), y drawn from p

Where a matrix's outputs change by dy at a token, KL(p, q) over the text grows by E[(g . dy)^2] / 2: its
expansion to second order, the gradients' second moments being the Fisher information, without what changes at
two tokens have to do with each other. So one pass forward and back measures every matrix in every format at
once, and what several do together is their sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from receptance.errors import ConfigError
from receptance.models import AnyModel, State
from receptance.quantization.packed import Format, PackedMatrix

Report = Callable[[str, int, int], None]
Divergences = Mapping[str, Mapping[Format, float]]

_TOKENS_AT_ONCE = 1024
BITS: dict[Format, float] = {"int4": 4.5, "int8": 8.5}  # a number, with its share of the scale


def divergences(
    model: AnyModel,
    tokens: Int[Tensor, "window time"],
    *,
    state: State | None = None,
    seed: int = 0,
    report: Report = lambda stage, done, total: None,
) -> dict[str, dict[Format, float]]:
    """Return what int4 and int8 alone do to the model, for each wide matrix by name: KL in nats a token.

    state   what the model remembers before each window, a batch of one; None: nothing
    report  is called with how many windows are done

    The numbers are rounded to the nearest. With 8,192 tokens the estimate is good to a tenth or so.
    """
    linears = {f"{name}.weight": part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    rounded: dict[str, dict[Format, PackedMatrix]] = {
        name: {kind: PackedMatrix.pack(linear.weight, kind) for kind in BITS}
        for name, linear in linears.items()
    }
    sums: dict[str, dict[Format, float]] = {name: dict.fromkeys(BITS, 0.0) for name in linears}

    def watch(name: str, module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> None:
        hook = partial(add, name, arguments[0].detach())
        output.register_hook(hook)  # type: ignore[no-untyped-call]  # torch's own gap

    @torch.no_grad()
    def add(name: str, x: Tensor, gradient: Tensor) -> None:
        for kind, matrix in rounded[name].items():
            change = F.linear(x.float(), matrix.dequantize() - linears[name].weight.float())
            sums[name][kind] += float((gradient.float() * change).sum(2).square().sum()) / 2

    generator = torch.Generator().manual_seed(seed)
    handles = [linear.register_forward_hook(partial(watch, name)) for name, linear in linears.items()]
    # Gradients flow to the embedding's output alone: those of the weights are not needed, nor changed.
    handles.append(model.emb.register_forward_hook(lambda *call: call[-1].detach().requires_grad_()))
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    done = 0
    try:
        for part in torch.split(tokens, max(1, _TOKENS_AT_ONCE // tokens.shape[1])):
            repeat = partial(torch.repeat_interleave, repeats=len(part), dim=1)
            start = None if state is None else state.map(repeat)
            with torch.enable_grad():
                logits, _ = torch.func.functional_call(model, weights, (part, start))
                flat = logits.flatten(0, 1).float()
                drawn = torch.multinomial(flat.detach().softmax(-1), 1, generator=generator)[:, 0]
                torch.autograd.backward(F.cross_entropy(flat, drawn, reduction="sum"))
            done += len(part)
            report("measuring", done, len(tokens))
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: {kind: total / tokens.numel() for kind, total in each.items()} for name, each in sums.items()
    }


def spare(measured: Divergences, sizes: Mapping[str, int], bits: float) -> dict[str, Format]:
    """Return formats for all matrices: int8 where it helps most for its size, int4 elsewhere.

    measured  divergence by matrix and format
    sizes     numbers in each matrix
    bits      that a number may take on average, its share of the scales included: 4.5 to 8.5

    Raises ConfigError where the bits are beyond these bounds.
    """
    if not BITS["int4"] <= bits <= BITS["int8"]:
        raise ConfigError(
            f"bits is {bits:g}, but between int4 and int8 there are {BITS['int4']} to {BITS['int8']}."
        )
    chosen: dict[str, Format] = dict.fromkeys(sizes, "int4")
    left = (bits - BITS["int4"]) * sum(sizes.values())
    gains = {name: (measured[name]["int4"] - measured[name]["int8"]) / size for name, size in sizes.items()}
    for name in sorted(sizes, key=lambda name: -gains[name]):
        cost = (BITS["int8"] - BITS["int4"]) * sizes[name]
        if cost <= left and gains[name] > 0:
            chosen[name] = "int8"
            left -= cost
    return chosen
