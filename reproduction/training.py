"""The one loop that trains every model here, ours and the baselines: the same tokens, schedule and optimizer.

`receptance train` is for models that it can save; this loop asks a model for `features` and a `head` alone,
and takes optimizer, schedule and loss from `receptance`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from receptance import kernels
from receptance.data.windows import Batch, Windows
from receptance.training import OptimizerConfig
from receptance.training.optimizer import MasterAdamW
from receptance.training.schedule import learning_rate
from reproduction.baselines import GPT, LSTM
from reproduction.models import CONFIGS, MODELS

Batches = Callable[
    [int], tuple[Tensor, Tensor]
]  # of a step: tokens and targets, [batch, time], -100: not learnt


class Model(Protocol):
    """What the loop asks of a model; it is an `nn.Module` too."""

    head: nn.Linear

    def features(self, tokens: Tensor) -> tuple[Tensor, Any]:  # Any: a state that nobody looks at
        """Return what the head reads, `[batch, time, channel]`."""


@dataclass(frozen=True)
class Budget:
    """How long is trained, and how fast is learnt: a short rise, then a cosine to a tenth."""

    steps: int
    batch: int
    context: int
    learning_rate: float = 3e-3
    warm_up_steps: int = 10

    @property
    def tokens(self) -> int:
        """That all steps read."""
        return self.steps * self.batch * self.context


def fresh(
    kind: str,
    *,
    layers: int,
    channels: int,
    vocabulary: int,
    context: int,
    device: str = "cpu",
    seed: int = 0,
) -> Any:  # Any: both a Model and an nn.Module
    """Return an untrained model of a kind: RWKV-4 to RWKV-7, GPT or LSTM, of about equal size."""
    torch.manual_seed(seed)
    if kind == "GPT":
        return GPT(layers=layers, channels=channels, vocabulary=vocabulary, context=context).to(device)
    if kind == "LSTM":
        return LSTM(layers=layers, channels=channels, vocabulary=vocabulary).to(device)
    generation = kind.removeprefix("RWKV-")
    sizes: dict[str, int] = {"vocabulary_size": vocabulary, "num_layers": layers, "hidden_size": channels}
    if generation != "4" and channels % 64:
        sizes["head_size"] = 16
    return MODELS[generation](CONFIGS[generation](**sizes)).to(device)


def num_parameters(model: nn.Module) -> int:
    """Return the number of trained values."""
    return sum(parameter.numel() for parameter in model.parameters())


def from_windows(windows: Windows, budget: Budget, device: str = "cpu") -> Batches:
    """Return the batches of a text: the same for every model that reads them."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        (found,) = windows.batch(step, budget.batch)
        return _tensors(found, device)

    return batch


def train(
    model: Any, batches: Batches, budget: Budget
) -> dict[str, Any]:  # Any: see `fresh`; what JSON holds
    """Train the model in place; return the loss of every step, in nats a token, and the seconds taken."""
    config = OptimizerConfig(
        learning_rate=budget.learning_rate,
        final_learning_rate=0.1 * budget.learning_rate,
        schedule="cosine",
        warm_up_steps=budget.warm_up_steps,
    )
    optimizer = MasterAdamW(model, config)
    model.train()
    losses, began = [], time.perf_counter()
    for step in range(budget.steps):
        tokens, targets = batches(step)
        loss, nats = kernels.linear_cross_entropy(model.features(tokens)[0], model.head.weight, targets)
        loss.backward()
        optimizer.collect()
        rate = learning_rate(
            config,
            progress=(step + 1) / budget.steps,
            warm_up=step / max(budget.warm_up_steps, 1),
        )
        optimizer.step(rate, 1.0)
        losses.append(round(float(nats), 4))
    model.eval()
    return {"losses": losses, "seconds": round(time.perf_counter() - began, 2)}


@torch.inference_mode()
def nats_by_position(
    model: Any, windows: Windows, tokens: int, batch: int, device: str = "cpu"
) -> list[float]:
    """Return the mean loss of each position of the windows, over the first `tokens` of the text.

    A last window that is not whole is left out.
    """
    total, rows = torch.zeros(windows.context, device=device, dtype=torch.float64), 0
    for read, targets in _whole_rows(windows, tokens, batch, device):
        logits = model.head(model.features(read)[0]).float()
        total += nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none").sum(0)
        rows += len(read)
    return [round(value, 5) for value in (total / rows).tolist()]


def validation_nats(model: Any, windows: Windows, tokens: int, batch: int, device: str = "cpu") -> float:
    """Return the mean loss over the first `tokens` of the text, in nats a token."""
    by_position = nats_by_position(model, windows, tokens, batch, device)
    return round(sum(by_position) / len(by_position), 5)


def _whole_rows(windows: Windows, tokens: int, batch: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    for found in windows.sequential(batch, tokens):
        if found.tokens.shape[1] == windows.context:
            yield _tensors(found, device)


def _tensors(batch: Batch, device: str) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(batch.tokens).to(device), torch.from_numpy(batch.targets).to(device)
