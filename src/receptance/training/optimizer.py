"""AdamW for weights of any number format: what is summed over the run stays in float32.

    g gradient   m exp_avg, its mean   v exp_avg_sq, the mean of its square   master the float32 weight

A bfloat16 weight has 8 bits of mantissa, and a step is often smaller than the last of them: summed there, it
would be lost. So each such weight is a rounded copy of its float32 master, made anew after each step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from receptance.errors import ConfigError, DivergenceError, TrainingError
from receptance.training.config import PUBLISHED_GROUPS, GroupConfig, OptimizerConfig

# What torch's AdamW keeps of each parameter; "step" is a scalar, the others are as large as the parameter.
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
AVERAGE = "average."  # before the name of a parameter whose moving average is meant


class MasterAdamW:
    """AdamW over float32 masters, with the parameter groups of the RWKV recipes.

    Weight decay holds for `.weight` matrices alone: the embedding, the head and the projections. A group may
    say otherwise, and gives its parameters another learning rate.
    With `ema_decay` it also keeps an exponential moving average of the masters.
    After each backward pass call `collect`, after the last one of a step `step`.

    Raises ConfigError where a group of one's own fits no parameter of the model.
    """

    def __init__(
        self, model: nn.Module, config: OptimizerConfig, groups: Sequence[GroupConfig] = PUBLISHED_GROUPS
    ) -> None:
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._masters = {name: _master(weight) for name, weight in self._weights.items()}
        self._rounded = [name for name in self._weights if self._masters[name] is not self._weights[name]]
        self._multipliers: list[float] = []
        self._ema_decay = config.ema_decay
        self._averages = {
            name: master.detach().clone() for name, master in self._masters.items() if config.ema_decay
        }
        self._optimizer = torch.optim.AdamW(
            self._groups(config, groups), betas=config.betas, eps=config.epsilon, lr=0.0, fused=True
        )
        for master in self._masters.values():  # torch would wait for the first step
            self._optimizer.state[master] = {
                "step": torch.zeros((), device=master.device),
                "exp_avg": torch.zeros_like(master),
                "exp_avg_sq": torch.zeros_like(master),
            }

    def _groups(self, config: OptimizerConfig, groups: Sequence[GroupConfig]) -> list[dict[str, Any]]:
        """Put parameters that share weight decay and multiplier into one group each."""
        if groups != PUBLISHED_GROUPS:  # which are for all generations
            _check_patterns(groups, self._masters)
        members: dict[tuple[float, float], list[Tensor]] = {}
        for name, master in self._masters.items():
            is_projection = master.ndim >= 2 and name.endswith(".weight")
            decay, multiplier = config.weight_decay if is_projection else 0.0, 1.0
            group = next((group for group in groups if fnmatchcase(name, group.parameters)), None)
            if group is not None:
                multiplier = group.multiplier
                decay = decay if group.weight_decay is None else group.weight_decay
            members.setdefault((decay, multiplier), []).append(master)
        self._multipliers = [multiplier for _, multiplier in members]
        return [{"params": masters, "weight_decay": decay} for (decay, _), masters in members.items()]

    @torch.no_grad()
    def collect(self) -> None:
        """Add the gradients of a backward pass to those of the step, in float32, and free the former."""
        for name in self._rounded:
            weight, master = self._weights[name], self._masters[name]
            if weight.grad is None:
                continue
            if master.grad is None:
                master.grad = weight.grad.float()
            else:
                master.grad.add_(weight.grad)
            weight.grad = None

    def gradients(self) -> list[Tensor]:
        """Return the collected gradients, in the order of the parameters; to change them changes the step."""
        return [master.grad for master in self._masters.values() if master.grad is not None]

    @torch.no_grad()
    def step(self, learning_rate: float, max_norm: float = 0.0) -> float:
        """Change the weights by the collected gradients, forget these, and return their norm.

        The norm is that of all gradients together, before they are shortened to `max_norm` (0: never).

        Raises DivergenceError, with every weight as it was, where a gradient is not finite; the text names
        the first parameter on the way back, from the head to the embedding, with such a gradient.
        """
        gradients = {name: master.grad for name, master in self._masters.items() if master.grad is not None}
        norm = float(torch.nn.utils.get_total_norm(list(gradients.values())))
        if not math.isfinite(norm):
            backward = reversed(gradients.items())
            bad = (name for name, one in backward if not torch.linalg.vector_norm(one).isfinite())
            raise DivergenceError(f"the gradient of {next(bad, 'all parameters together')!r} is not finite")
        if 0.0 < max_norm < norm:
            for gradient in gradients.values():
                gradient.mul_(max_norm / norm)
        for group, multiplier in zip(self._optimizer.param_groups, self._multipliers, strict=True):
            group["lr"] = learning_rate * multiplier
        self._optimizer.step()
        self.discard()
        self._round()
        self._average()
        return norm

    def discard(self) -> None:
        """Forget the collected gradients, and those of a backward pass that was not collected."""
        self._optimizer.zero_grad()
        for name in self._rounded:
            self._weights[name].grad = None

    def _round(self) -> None:
        """Make the weights anew from their masters."""
        for name in self._rounded:
            self._weights[name].copy_(self._masters[name])

    def _average(self) -> None:
        """Move the averages towards the masters, early in the run by more, so that they forget the start."""
        if not self._averages:
            return
        done = float(self._optimizer.state[next(iter(self._masters.values()))]["step"])
        kept = min(self._ema_decay, done / (done + 9))
        torch._foreach_lerp_(list(self._averages.values()), list(self._masters.values()), 1 - kept)

    @property
    def averages(self) -> Mapping[str, Tensor]:
        """The moving averages of the parameters, in float32; empty where none are kept."""
        return self._averages

    def state(self) -> dict[str, Tensor]:
        """Return all that the optimizer remembers, by names such as `exp_avg.head.weight`, without copying.

        The masters are among it, so weights and optimizer can be put together again from this alone.
        """
        tensors = {f"master.{name}": master.detach() for name, master in self._masters.items()}
        for name, master in self._masters.items():
            tensors |= {f"{key}.{name}": value for key, value in self._optimizer.state[master].items()}
        return tensors | {f"{AVERAGE}{name}": average for name, average in self._averages.items()}

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state as `state` returns it, and the weights with it.

        Averages begin at the weights where the state has none.

        Raises TrainingError, with nothing changed, where a tensor is missing, left over or of another shape.
        """
        averages = {name: value for name, value in tensors.items() if name.startswith(AVERAGE)}
        tensors = {name: value for name, value in tensors.items() if name not in averages}
        wanted = {f"{key}.{name}" for name in self._masters for key in ("master", *MOMENTS)}
        for name, master in self._masters.items():
            for key in ("master", *MOMENTS):
                found = tensors.get(f"{key}.{name}")
                shape = () if key == "step" else tuple(master.shape)
                if found is None or tuple(found.shape) != shape:
                    came = "missing" if found is None else f"{tuple(found.shape)}"
                    raise TrainingError(f"'{key}.{name}' is {came}, but the model needs {shape}.")
        if left_over := sorted(tensors.keys() - wanted):
            raise TrainingError(f"{left_over[0]!r} is there, but the model has no such parameter.")
        for name, master in self._masters.items():
            master.copy_(tensors[f"master.{name}"])
            for key, value in self._optimizer.state[master].items():
                value.copy_(tensors[f"{key}.{name}"])
            if name in self._averages:
                self._averages[name].copy_(averages.get(f"{AVERAGE}{name}", master))
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
    return weight if weight.dtype == torch.float32 else weight.detach().float().requires_grad_()
