"""AdamW for weights of any number format: what is summed over the run stays in float32.

    g gradient   m exp_avg, its mean   v exp_avg_sq, the mean of its square   master the float32 weight

A bfloat16 weight has 8 bits of mantissa, and a step is often smaller than the last of them: summed there, it
would be lost. So each such weight is a rounded copy of its float32 master, made anew after each step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from receptance import kernels
from receptance.errors import ConfigError, DivergenceError, TrainingError
from receptance.kernels.adamw_arguments import Parameter, Rates
from receptance.training.config import PUBLISHED_GROUPS, GroupConfig, OptimizerConfig
from receptance.training.distributed import ALONE, World
from receptance.training.sharding import is_sharded, part, part_of

# What AdamW keeps of each parameter; "step" is a scalar, the others are as large as the parameter.
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
AVERAGE = "average."  # before the name of a parameter whose moving average is meant


class MasterAdamW:
    """AdamW over float32 masters, with the parameter groups of the RWKV recipes.

    Weight decay holds for `.weight` matrices alone: the embedding, the head and the projections. A group may
    say otherwise, and gives its parameters another learning rate.
    With `ema_decay` it also keeps an exponential moving average of the masters.
    After each backward pass call `collect`, after the last one of a step `step`.

    Of a sharded model it keeps what belongs to this process's rows, and `step` is to be called by all.

    Raises ConfigError where a group of one's own fits no parameter of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        config: OptimizerConfig,
        groups: Sequence[GroupConfig] = PUBLISHED_GROUPS,
        world: World = ALONE,
    ) -> None:
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._masters = {name: _master(weight) for name, weight in self._weights.items()}
        self._sharded = frozenset(name for name, weight in self._weights.items() if is_sharded(weight))
        self._together = world if self._sharded else ALONE
        self._apart = [name for name in self._weights if self._masters[name] is not self._weights[name]]
        self._rounded = [name for name in self._apart if name not in self._sharded]
        self._sums: dict[str, Tensor] = {}  # the gradients of weights that are not their masters
        self._ema_decay = config.ema_decay
        self._averages = {
            name: master.detach().clone() for name, master in self._masters.items() if config.ema_decay
        }
        self._rates = Rates(learning_rate=0.0, weight_decay=0.0, betas=config.betas, epsilon=config.epsilon)
        self._groups = self._grouped(config, groups)
        self._moments = {
            name: {
                "step": torch.zeros((), device=master.device),
                "exp_avg": torch.zeros_like(master),
                "exp_avg_sq": torch.zeros_like(master),
            }
            for name, master in self._masters.items()
        }

    def _grouped(
        self, config: OptimizerConfig, groups: Sequence[GroupConfig]
    ) -> dict[tuple[float, float], list[str]]:
        """Put together the names of parameters that share weight decay and multiplier."""
        if groups != PUBLISHED_GROUPS:  # which are for all generations
            _check_patterns(groups, self._masters)
        members: dict[tuple[float, float], list[str]] = {}
        for name, master in self._masters.items():
            is_projection = master.ndim >= 2 and name.endswith(".weight")
            decay, multiplier = config.weight_decay if is_projection else 0.0, 1.0
            group = next((group for group in groups if fnmatchcase(name, group.parameters)), None)
            if group is not None:
                multiplier = group.multiplier
                decay = decay if group.weight_decay is None else group.weight_decay
            members.setdefault((decay, multiplier), []).append(name)
        return members

    @torch.no_grad()
    def collect(self) -> None:
        """Add the gradients of a backward pass to those of the step, in float32, and free the former."""
        for name in self._apart:
            gradient, self._weights[name].grad = self._weights[name].grad, None
            if gradient is not None:
                # The first one stays as it is: it has no more bits than its own format.
                before, gradient = self._sums.get(name), part(gradient)
                self._sums[name] = gradient if before is None else before.float().add_(gradient)

    def gradients(self) -> list[Tensor]:
        """Return the collected gradients, but those of sharded weights, in the order of the parameters.

        They are in float32. To change them changes the step.
        """
        self._sums = {name: gradient.float() for name, gradient in self._sums.items()}
        return [gradient for name, gradient in self._gradients().items() if name not in self._sharded]

    def _gradients(self) -> dict[str, Tensor]:
        """Return the collected gradients by name, each in the format that it is in."""
        found = {
            name: self._sums.get(name) if master is not self._weights[name] else master.grad
            for name, master in self._masters.items()
        }
        return {name: gradient for name, gradient in found.items() if gradient is not None}

    @torch.no_grad()
    def step(self, learning_rate: float, max_norm: float = 0.0) -> float:
        """Change the weights by the collected gradients, forget these, and return their norm.

        The norm is that of all gradients together, before they are shortened to `max_norm` (0: never).

        Raises DivergenceError, with every weight as it was, where a gradient is not finite; the text names
        the first parameter on the way back, from the head to the embedding, with such a gradient.
        """
        gradients = self._gradients()
        norm = self._norm(gradients)
        if not math.isfinite(norm):
            norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients.values()])
            are_bad = self._together.sum(*(~norms.isfinite()).tolist())
            bad = (name for name, is_bad in reversed([*zip(gradients, are_bad, strict=True)]) if is_bad)
            raise DivergenceError(f"the gradient of {next(bad, 'all parameters together')!r} is not finite")
        scale = max_norm / norm if 0.0 < max_norm < norm else 1.0
        for (decay, multiplier), names in self._groups.items():
            rates = replace(
                self._rates,
                learning_rate=learning_rate * multiplier,
                weight_decay=decay,
                gradient_scale=scale,
            )
            kernels.adamw(
                [
                    Parameter(
                        self._masters[name] if name in self._sharded else self._weights[name],
                        self._masters[name],
                        gradients[name],
                        **self._moments[name],
                    )
                    for name in names
                    if name in gradients
                ],
                rates,
            )
        self.discard()
        self._average()
        return norm

    def _norm(self, gradients: Mapping[str, Tensor]) -> float:
        """Return the norm of all gradients together, over all processes."""
        if not self._sharded:
            return kernels.norm(list(gradients.values()))
        here, in_all = (
            kernels.norm([one for name, one in gradients.items() if (name in self._sharded) == is_part])
            for is_part in (True, False)
        )
        return math.hypot(math.sqrt(self._together.sum(here**2)[0]), in_all)

    def discard(self) -> None:
        """Forget the collected gradients, and those of a backward pass that was not collected."""
        self._sums = {}
        for weight in self._weights.values():
            weight.grad = None

    def _round(self) -> None:
        """Make the weights anew from their masters."""
        for name in self._rounded:
            self._weights[name].copy_(self._masters[name])

    def _average(self) -> None:
        """Move the averages towards the masters, early in the run by more, so that they forget the start."""
        if not self._averages:
            return
        done = float(next(iter(self._moments.values()))["step"])
        kept = min(self._ema_decay, done / (done + 9))
        torch._foreach_lerp_(list(self._averages.values()), list(self._masters.values()), 1 - kept)

    @property
    def masters(self) -> Mapping[str, Tensor]:
        """The parameters in float32."""
        return self._masters

    @property
    def averages(self) -> Mapping[str, Tensor]:
        """The moving averages of the parameters, in float32; empty where none are kept."""
        return self._averages

    def sharded_state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return what `state` does in two: what is here whole, and that of which this process has rows."""
        whole: dict[str, Tensor] = {}
        parts: dict[str, Tensor] = {}
        for name, tensor in self.state().items():
            kind, _, parameter = name.partition(".")
            (parts if parameter in self._sharded and kind != "step" else whole)[name] = tensor
        return whole, parts

    def state(self) -> dict[str, Tensor]:
        """Return all that the optimizer remembers, by names such as `exp_avg.head.weight`, without copying.

        The masters are among it, so weights and optimizer can be put together again from this alone.
        """
        tensors = {f"master.{name}": master.detach() for name, master in self._masters.items()}
        for name, moments in self._moments.items():
            tensors |= {f"{key}.{name}": value for key, value in moments.items()}
        return tensors | {f"{AVERAGE}{name}": average for name, average in self._averages.items()}

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state as `state` returns it where nothing is sharded, and the weights with it.

        Averages begin at the weights where the state has none.

        Raises TrainingError, with nothing changed, where a tensor is missing, left over or of another shape.
        """
        averages = {name: value for name, value in tensors.items() if name.startswith(AVERAGE)}
        tensors = {name: value for name, value in tensors.items() if name not in averages}
        wanted = {f"{key}.{name}" for name in self._masters for key in ("master", *MOMENTS)}
        for name, weight in self._weights.items():
            for key in ("master", *MOMENTS):
                found = tensors.get(f"{key}.{name}")
                shape = () if key == "step" else tuple(weight.shape)
                if found is None or tuple(found.shape) != shape:
                    came = "missing" if found is None else f"{tuple(found.shape)}"
                    raise TrainingError(f"'{key}.{name}' is {came}, but the model needs {shape}.")
        if left_over := sorted(tensors.keys() - wanted):
            raise TrainingError(f"{left_over[0]!r} is there, but the model has no such parameter.")
        for name, master in self._masters.items():
            weight = self._weights[name]
            master.copy_(part_of(tensors[f"master.{name}"], weight))
            for key, value in self._moments[name].items():
                value.copy_(part_of(tensors[f"{key}.{name}"], weight))
            if name in self._averages:
                average = averages.get(f"{AVERAGE}{name}")
                self._averages[name].copy_(master if average is None else part_of(average, weight))
        self._round()


def _check_patterns(groups: Sequence[GroupConfig], names: Iterable[str]) -> None:
    """Raise ConfigError for a group that fits no parameter."""
    names = list(names)
    for group in groups:
        if not any(fnmatchcase(name, group.parameters) for name in names):
            raise ConfigError(
                f"[[groups]]: parameters is {group.parameters!r}, but that fits no parameter of the model. "
                f"They have names such as {names[len(names) // 2]!r}; * stands for any part of one."
            )


def _master(weight: Tensor) -> Tensor:
    """Return the float32 tensor that a weight is a copy of: itself, where it is float32 already."""
    if is_sharded(weight):
        return part(weight.detach())  # of the same memory
    return weight if weight.dtype == torch.float32 else weight.detach().float()
