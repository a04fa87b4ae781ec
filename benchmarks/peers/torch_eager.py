"""torch's own kernels: our torch module, whose matrices torch multiplies.

int8 and int4 are torch's `_weight_int8pack_mm` and `_weight_int4pack_mm_for_cpu`, with a scale a row and 32
columns a scale.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import receptance
from benchmarks.peers.engine import Engine, Logits, Request, Tokens
from receptance.inference import read
from receptance.models import AnyModel, State

GROUP = 32


class Int8Linear(nn.Module):
    """A linear layer whose rows are int8 numbers times a scale."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        scales = weight.float().abs().amax(1) / 127
        self.integers = (weight.float() / scales[:, None]).round().to(torch.int8)
        self.scales = scales.bfloat16()
        self.weight = weight.new_empty(0)  # by which a model knows its number format and its device

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        y = torch._weight_int8pack_mm(x.reshape(-1, x.shape[-1]), self.integers, self.scales)
        return y.view(*x.shape[:-1], -1)


class Int4Linear(nn.Module):
    """A linear layer whose groups of columns are int4 numbers times a scale."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.rows = len(weight)
        self.weight = weight.new_empty(0)
        padded = nn.functional.pad(weight.float(), (0, 0, 0, -len(weight) % 32))
        groups = padded.view(len(padded), -1, GROUP)
        scales = (groups.abs().amax(-1) / 7).clamp_min(1e-9).bfloat16()
        integers = ((groups / scales.float()[..., None]).round() + 8).clamp(0, 15).to(torch.int32)
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(integers.view(len(padded), -1), 1)
        self.scales_and_zeros = (
            torch.stack([scales, torch.zeros_like(scales)], -1).transpose(0, 1).contiguous()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.reshape(-1, x.shape[-1]), self.packed, GROUP, self.scales_and_zeros
        )
        return y[:, : self.rows].view(*x.shape[:-1], -1)


INTEGERS: dict[str, Callable[[Tensor], nn.Module]] = {"int8": Int8Linear, "int4": Int4Linear}


class Torch(Engine):
    """A torch module, and what reads a span with it."""

    def __init__(self, model: AnyModel) -> None:
        self.model = model
        self.step: Callable[[Tensor, State | None], tuple[Tensor, State]] = lambda tokens, state: read(
            model, tokens, state
        )
        self.state: State | None = None

    @torch.inference_mode()
    def start(self, batch: int) -> None:
        """Begin with the state of an empty text."""
        self.state = self.model.initial_state(batch)

    @torch.inference_mode()
    def read(self, tokens: Tokens) -> Logits:
        """Read a span."""
        logits, self.state = self.step(torch.from_numpy(tokens), self.state)
        return logits.float().numpy()


def model_of(request: Request) -> AnyModel:
    """Load the file and replace what multiplies."""
    torch.set_num_threads(request.threads)
    replacement = INTEGERS.get(request.matrix_format)
    dtype = torch.bfloat16 if replacement else getattr(torch, request.matrix_format)
    model = receptance.load(request.source, dtype=dtype).model
    if replacement:
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Linear):
                    setattr(module, name, replacement(child.weight.detach()))
    return model


def open_engine(request: Request) -> Engine:
    """Load the file."""
    return Torch(model_of(request))
