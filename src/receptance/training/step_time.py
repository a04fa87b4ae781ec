"""How long a step will take on this machine, estimated from a model of one layer and one of two.

What the second layer adds is what every further one does, so a model of any depth is put together from the
two. Of a batch that would take long, a part is read, and counts for all of it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from receptance import kernels
from receptance.checkpoints.stored_model import empty_model
from receptance.models import Config as ModelSizes
from receptance.training.config import Config
from receptance.training.cost import flops_per_token, matmul_peak
from receptance.training.distributed import ALONE
from receptance.training.optimizer import MasterAdamW
from receptance.training.session import placed
from receptance.training.timetable import Stage

_SECONDS = 2.0  # that one reading of a batch may take here
_TURNS = 4  # that are counted at the least; more where they are short


def measured_seconds(config: Config, stage: Stage, sizes: ModelSizes) -> float:
    """Return the seconds that a step of this stage will take; the memory of both models is needed for it.

    The two take steps by turns, and the median over the turns counts, so that a machine which is slower for
    a while is so for both.
    """
    one, two = (replace(sizes, num_layers=layers) for layers in (1, 2))
    batch, context = _part(config, stage, two)
    steps = [_step(config, model, batch, context, stage.accumulation > 1) for model in (one, two)]
    parts = stage.accumulation * stage.batch_size * stage.context / (batch * context)
    if reads_chunks_twice(config, stage):
        parts *= 4 / 3  # the way back takes as long as two readings
    for step in steps:
        step()  # warms up
    began, found = time.perf_counter(), list[float]()
    while len(found) < _TURNS or time.perf_counter() - began < _SECONDS:
        (reading, update), (longer_reading, longer_update) = (step() for step in steps)
        reading += (longer_reading - reading) * (sizes.num_layers - 1)
        update += (longer_update - update) * (sizes.num_layers - 1)
        found.append(parts * reading + update)
    return statistics.median(found)


def reads_chunks_twice(config: Config, stage: Stage) -> bool:
    """Say whether a context is read once for the states between its chunks, and then again."""
    training = config.training
    return 0 < training.chunk < stage.context and training.chunk_gradient == "full"


def _part(config: Config, stage: Stage, sizes: ModelSizes) -> tuple[int, int]:
    """Return (samples, tokens of each) that a model reads here in _SECONDS at the most."""
    peak = matmul_peak(getattr(torch, config.training.dtype), config.run.device)
    room = int(_SECONDS * peak / flops_per_token(empty_model(sizes)))
    context = max(min(stage.context, config.training.chunk or stage.context, room), 1)
    return max(min(stage.batch_size, room // context), 1), context


def _step(
    config: Config, sizes: ModelSizes, batch: int, context: int, accumulates: bool
) -> Callable[[], tuple[float, float]]:
    """Return a call that reads a batch, there and back, updates the model, and says how long each took."""
    model = placed(empty_model(sizes).to_empty(device="cpu"), config, ALONE)
    with torch.no_grad():
        for weight in model.parameters():
            weight.uniform_(-0.01, 0.01)
    optimizer = MasterAdamW(model, config.optimizer, config.groups)
    tokens = torch.zeros(batch, context, dtype=torch.int64, device=model.device)
    penalties = config.training.max_logit_weight, config.training.z_loss_weight

    def read() -> None:
        hidden, _ = model.features(tokens)
        loss, _ = kernels.linear_cross_entropy(hidden, model.head.weight, tokens, *penalties)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.collect()

    def step() -> tuple[float, float]:
        if accumulates:
            read()
        reading = _seconds(read, model.device)
        return reading, _seconds(lambda: optimizer.step(0.0, config.training.gradient_clip), model.device)

    return step


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
