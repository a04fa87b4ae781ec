"""Where numbers stop being finite: told in one number, and found tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from receptance.models import AnyModel, State
from receptance.training.distributed import ALONE, World
from receptance.training.sharding import part


def largest(*tensors: Tensor) -> Tensor:
    """Return the largest absolute value in all tensors, `[]`: NaN where there is one."""
    return torch.stack([tensor.detach().abs().amax().float() for tensor in tensors]).amax()


@torch.no_grad()
def first_not_finite(
    model: AnyModel, tokens: Tensor, state: State | None = None, world: World = ALONE
) -> str:
    """Find the first tensor that goes bad when a model reads tokens `[batch, time]`, and say which it is.

    `world` are the processes that have a part of the model each; all of them must call this.
    """
    weights = dict(model.named_parameters())
    are_bad = world.sum(*(not part(weight).isfinite().all() for weight in weights.values()))
    for name, is_bad in zip(weights, are_bad, strict=True):
        if is_bad:
            return f"the weight {name!r} is not finite"
    bad: list[str] = []

    def watch(name: str, module: nn.Module) -> RemovableHandle:
        def look(module: nn.Module, inputs: object, output: object) -> None:
            if not bad and not all(tensor.isfinite().all() for tensor in _tensors(output)):
                bad.append(name)

        return module.register_forward_hook(look)

    handles = [watch(name, module) for name, module in model.named_modules() if name]
    try:
        logits, state = model(tokens, state)
    finally:
        for handle in handles:
            handle.remove()
    if bad:
        return f"the output of {bad[0]!r} is the first tensor that is not finite"
    for name, tensor in {"logits": logits, **state.tensors()}.items():
        if not tensor.isfinite().all():
            return f"{name!r} is the first tensor that is not finite"
    return "the same batch, read again, is finite throughout, which may be a fault of the machine"


def _tensors(output: object) -> Iterator[Tensor]:
    """Yield the floating-point tensors of what a module returned."""
    match output:
        case Tensor() if output.is_floating_point():
            yield output
        case State():
            yield from output.tensors().values()
        case tuple() | list():
            for part in output:
                yield from _tensors(part)
