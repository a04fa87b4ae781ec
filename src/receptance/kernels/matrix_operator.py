"""What WKV-6 and WKV-7 share: a matrix of memory a head, handed over as torch operators.

Each is a function of a few tensors, the last of them the state, that returns y and the state after the span.
It becomes two torch operators, `receptance::NAME` and `receptance::NAME_backward`, so that `torch.compile`
sees one node and an implementation may bring its own way back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from receptance.errors import ConfigError, KernelError
from receptance.kernels.dispatch import Implementation, Operator, Refuses
from receptance.kernels.lengths import check_lengths, is_padding

BLOCK = 32  # tokens from one kept state to the next; the same as MATRIX_BLOCK in native/table.h


class Passes(Protocol):
    """The two passes of an implementation; what one keeps for the way back, any other can read.

    `checkpoints` holds the state before every block of 32 tokens, `[batch, head, block, key, value]` in both
    generations; without `keep` it is empty. A gradient that is None is zero.
    """

    def forward(self, inputs: tuple[Tensor, ...], keep: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return (y, state, checkpoints)."""
        ...

    def backward(
        self,
        inputs: tuple[Tensor, ...],
        checkpoints: Tensor,
        grad_y: Tensor | None,
        grad_state: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Return the gradient of each input."""
        ...


class MatrixOperator:
    """An operator of RWKV-5, 6 or 7: checked, dispatched, differentiable, fit for torch.compile."""

    def __init__(
        self,
        name: str,
        inputs: str,
        changing: str,
        passes: Mapping[str, Passes],
        availability: Mapping[str, tuple[Refuses, Refuses]],
        reference: Callable[..., tuple[Tensor, Tensor]],
    ) -> None:
        """Register the operator.

        `inputs` names the tensors in their order, each by one letter: r, k, v and those of the state's dtype;
        the state follows them. A token of which those in `changing` are zero leaves the state as it is.
        `availability` gives what an implementation refuses, and why it is missing.
        """
        self.name, self.inputs, self.changing, self._passes_by_name = name, inputs, changing, passes
        fast = (Implementation(key, partial(self._run, key), *availability.get(key, ())) for key in passes)
        self._operator: Operator[Callable[..., tuple[Tensor, Tensor]]] = Operator(
            name, (*fast, Implementation("reference", reference))
        )
        self._register()

    def __call__(self, *inputs: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return y and the state after the span, or after the first tokens of each row."""
        self._check(inputs)
        if lengths is not None:
            inputs = self._without_padding(inputs, lengths)
        if torch.compiler.is_compiling():
            y, state, _ = self._torch_operator()(*inputs, None, _is_differentiated(inputs))
            return y, state
        return self._operator.choose(*inputs).function(*inputs)

    def _check(self, inputs: tuple[Tensor, ...]) -> None:
        *tensors, state = inputs
        by_name = dict(zip(self.inputs, tensors, strict=True))
        r, v = by_name["r"], by_name["v"]
        if r.dim() != 4 or v.dim() != 4 or r.shape[:3] != v.shape[:3] or r.shape[1] == 0:
            raise ConfigError(
                f"{self.name}: r and v need shapes [batch, time, head, size] that differ in the size alone, "
                f"with at least one token; got {tuple(r.shape)} and {tuple(v.shape)}"
            )
        batch, _, head, key = r.shape
        value_first = "u" not in by_name
        needed = {name: tuple(r.shape) for name in self.inputs}
        needed |= {"v": tuple(v.shape), "u": (head, key)}
        sizes = (v.shape[3], key) if value_first else (key, v.shape[3])
        needed["state"] = (batch, head, *sizes)
        for name, tensor in (*by_name.items(), ("state", state)):
            if tuple(tensor.shape) != needed[name]:
                raise ConfigError(
                    f"{self.name}: for r of shape {tuple(r.shape)} and v of shape {tuple(v.shape)}, "
                    f"{name} needs {needed[name]}; got {tuple(tensor.shape)}"
                )
        exact = [tensor for name, tensor in by_name.items() if name not in "rkv"]
        if state.dtype not in (torch.float32, torch.float64) or any(x.dtype != state.dtype for x in exact):
            names = ", ".join(name for name in self.inputs if name not in "rkv")
            got = ", ".join(str(x.dtype) for x in (*exact, state))
            raise ConfigError(
                f"{self.name}: {names} and the state need one dtype, float32 or float64; got {got}"
            )

    def _without_padding(self, inputs: tuple[Tensor, ...], lengths: Tensor) -> tuple[Tensor, ...]:
        batch, time = inputs[0].shape[:2]
        check_lengths(lengths, batch, time)
        padding = is_padding(lengths, time)[..., None, None]
        *tensors, state = inputs
        named = zip(self.inputs, tensors, strict=True)
        return *(x.masked_fill(padding, 0.0) if name in self.changing else x for name, x in named), state

    def _torch_operator(self, suffix: str = "") -> Any:  # Any: torch makes these operators at run time
        return getattr(torch.ops.receptance, self.name + suffix)

    def _run(self, key: str, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        keep = _is_differentiated(inputs)
        if keep or type(inputs[0]) is not Tensor:
            y, state, _ = self._torch_operator()(*inputs, key, keep)
        else:
            # For a single token, the way through torch's dispatcher would cost more than the token.
            y, state, _ = self._passes_by_name[key].forward(inputs, keep=False)
        return y, state

    # The torch operators. `implementation` names the passes to run; a compiled graph leaves it open, so that
    # `use` counts where the graph runs and not where it was compiled.

    def _passes(self, name: str | None, inputs: tuple[Tensor, ...]) -> Passes:
        if name is None:
            name = self._operator.choose(*inputs).name
        if name not in self._passes_by_name:
            choice = ", ".join(self._passes_by_name)
            raise KernelError(
                f"{self.name}: {name!r} cannot run inside a compiled graph; ask for one of {choice}"
            )
        return self._passes_by_name[name]

    def _forward(self, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:  # Any: as torch calls it
        *inputs, implementation, keep = arguments
        return self._passes(implementation, tuple(inputs)).forward(tuple(inputs), keep)

    def _forward_shapes(self, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:  # Any: as torch calls it
        *inputs, state, _, keep = arguments
        r, v = inputs[self.inputs.index("r")], inputs[self.inputs.index("v")]
        batch, time, head, key = r.shape
        blocks = (time + BLOCK - 1) // BLOCK
        kept = state.new_empty((batch, head, blocks, key, v.shape[3]) if keep else 0)
        return v.new_empty(v.shape), state.new_empty(state.shape), kept

    def _backward(self, *arguments: Any) -> tuple[Tensor, ...]:  # Any: as torch calls it
        *inputs, checkpoints, grad_y, grad_state, implementation = arguments
        passes = self._passes(implementation, tuple(inputs))
        return passes.backward(tuple(inputs), checkpoints, grad_y, grad_state)

    def _backward_shapes(self, *arguments: Any) -> tuple[Tensor, ...]:  # Any: as torch calls it
        return tuple(x.new_empty(x.shape) for x in arguments[:-4])

    def _save(self, ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # Any: as above
        *tensors, ctx.implementation, ctx.keep = inputs
        ctx.save_for_backward(*tensors, output[2])
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)

    def _differentiate(self, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # Any: as above
        if not ctx.keep:
            raise KernelError(
                f"receptance::{self.name} was called with keep=False, so it cannot be differentiated"
            )
        given = self._torch_operator("_backward")(*ctx.saved_tensors, *grads[:2], ctx.implementation)
        return *given, None, None

    def _differentiate_twice(self, *_: object) -> None:
        raise KernelError(f"{self.name}: only the implementation 'reference' has second derivatives")

    def _register(self) -> None:
        forward, backward = f"receptance::{self.name}", f"receptance::{self.name}_backward"
        inputs = ", ".join(f"Tensor {name}" for name in (*self.inputs, "state"))
        gradients = ", ".join("Tensor" for _ in (*self.inputs, "state"))
        tag = torch.Tag.pt2_compliant_tag
        torch.library.define(
            forward,
            f"({inputs}, str? implementation, bool keep) -> (Tensor y, Tensor state_end, Tensor checkpoints)",
            tags=tag,
        )
        torch.library.impl(forward, "default", self._forward)
        torch.library.register_fake(forward, self._forward_shapes)
        torch.library.register_autograd(forward, self._differentiate, setup_context=self._save)
        torch.library.define(
            backward,
            f"({inputs}, Tensor checkpoints, Tensor? grad_y, Tensor? grad_state, str? implementation)"
            f" -> ({gradients})",
            tags=tag,
        )
        torch.library.impl(backward, "default", self._backward)
        torch.library.register_fake(backward, self._backward_shapes)
        torch.library.register_autograd(backward, self._differentiate_twice)


def _is_differentiated(inputs: tuple[Tensor, ...]) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
