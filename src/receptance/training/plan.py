"""What a recipe will take, before a step is spent: memory, disk, FLOPs, and the time of a step.

A model on the meta device reads a batch, there and back, while the tensors are counted. So the memory is
that of the very operations that the run will do, and follows from no formula. On a CPU, what lies between
the tensors follows from their order, and what the program itself takes is what this process has already, and
what it will load with the first step. All of it together was within 5 % of what runs took, but 6 to 22 %
below with activation checkpointing (benchmarks/plans.py).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from receptance import checkpoints, kernels
from receptance.checkpoints.stored_model import empty_model
from receptance.data.memory import available_bytes
from receptance.data.windows import Batch
from receptance.errors import ConfigError, DataError
from receptance.inference.machine import resident_bytes
from receptance.models import AnyModel, State
from receptance.models import Config as ModelSizes
from receptance.training.chunks import backward
from receptance.training.config import Config
from receptance.training.corpus import open_corpus
from receptance.training.cost import flops_per_token
from receptance.training.distributed import ALONE
from receptance.training.live_memory import LiveMemory
from receptance.training.optimizer import MasterAdamW
from receptance.training.session import model_config, placed
from receptance.training.step_time import measured_seconds, reads_chunks_twice
from receptance.training.timetable import Stage, Timetable

_BATCHES = 2  # that are read: the gradients of the first are there when the second is
_CHUNKS = 3  # of a context that are read: a first, a last, and one between
# Of code that is read when it is first used, stacks of threads, and buffers of libraries; measured, see
# benchmarks/plans.py.
_FIRST_USE_BYTES = 85 * 2**20
_PROGRAM_BYTES = 240 * 2**20  # where the system does not say what this process has


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that one process holds at the moment of a step when it holds the most, by what they are."""

    weights: int
    masters: int  # float32, of the weights that are not
    moments: int
    average: int
    gradients: int  # of the weights; and, on the way back, of what lies between
    activations: int  # kept for the way back
    logits: int  # which become their own gradient
    gaps: int  # that the C library keeps between tensors; 0 where it does not allocate them
    program: int  # Python, torch and what else is in this process; 0 on another device than the CPU

    @property
    def tensors(self) -> int:
        """All tensors together."""
        return self.peak - self.gaps - self.program

    @property
    def peak(self) -> int:
        """All of it together: on a CPU about the most that the process will have of the machine's memory."""
        return sum(vars(self).values())


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """What one stage of a run takes."""

    stage: Stage
    memory: Memory
    seconds_per_step: float | None  # None: not known


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run takes."""

    sizes: ModelSizes
    parameters: int
    flops_per_token: int
    steps: int | None  # of the whole run; None where the clock alone ends it
    tokens: int | None
    snapshot_bytes: int  # on the disk, of one
    disk_bytes: int  # of all that are kept, one that is being written, and the checkpoint
    stages: tuple[StagePlan, ...]

    @property
    def flops(self) -> int | None:
        """Of the whole run."""
        return None if self.tokens is None else self.tokens * self.flops_per_token

    @property
    def seconds(self) -> float | None:
        """Of all steps of the run, or None where that is not known."""
        if self.steps is None or any(part.seconds_per_step is None for part in self.stages):
            return None
        ends = [part.stage.first_step for part in self.stages[1:]] + [self.steps]
        counts = [end - part.stage.first_step for part, end in zip(self.stages, ends, strict=True)]
        return sum(
            (part.seconds_per_step or 0.0) * count for part, count in zip(self.stages, counts, strict=True)
        )


def plan(config: Config, *, processes: int = 1, flops: float | None = None) -> Plan:
    """Return what a recipe takes in each of so many processes, which share the samples of a step.

    The time of a step is that of its matrix products at `flops` a second in each process, the least that it
    can be. Without `flops` it is estimated from what one and two of the model's layers take here, which takes
    some seconds; it is not known for several processes, another kind of device, or more memory than is free.

    Raises ConfigError where neither the recipe nor a text says how large the vocabulary is, or where the
    recipe does not fit together, or asks for what cannot be planned: FSDP in several processes.
    """
    timetable = Timetable(config)
    teams, left_over = divmod(processes, config.distributed.context)
    if left_over or not teams:
        raise ConfigError(
            f"distributed.context is {config.distributed.context}, but {processes} processes, which "
            "are no multiple of that, are to share the work. Start as many, or leave it out."
        )
    if processes > 1 and config.distributed.strategy == "fsdp":
        raise ConfigError(
            'distributed.strategy is "fsdp", and what each process then takes cannot be planned. Set it to '
            '"ddp", by --distributed.strategy=ddp, for what a process takes with the whole model: more.'
        )
    timetable.check_shares(teams)
    program = _program_bytes(config)
    model = _planned(config)
    optimizer = MasterAdamW(model, config.optimizer, config.groups)
    steps = timetable.num_steps
    stages = []
    for stage in timetable.stages:
        memory = _memory(config, stage, model, optimizer, teams, program)
        seconds = _seconds(config, stage, model, memory, processes, flops)
        stages.append(StagePlan(stage=stage, memory=memory, seconds_per_step=seconds))
    snapshot = _size(optimizer.state())
    return Plan(
        sizes=model.config,
        parameters=model.num_parameters,
        flops_per_token=flops_per_token(model),
        steps=steps,
        tokens=None if steps is None else timetable.tokens_after(steps),
        snapshot_bytes=snapshot,
        disk_bytes=snapshot * _snapshots(config, steps) + 2 * _size(model.state_dict()),
        stages=tuple(stages),
    )


def _planned(config: Config) -> AnyModel:
    """Return the model of a recipe on the meta device, as it will be trained."""
    initial, vocabulary = config.model.initial, config.model.vocabulary_size
    if initial is not None:
        sizes = checkpoints.open_model(initial).config
    else:
        sizes = model_config(config.model, vocabulary or _vocabulary_of_text(config))
    on_paper = replace(config, run=replace(config.run, device="meta"))
    return placed(empty_model(sizes), on_paper, ALONE)


def _vocabulary_of_text(config: Config) -> int:
    """Return the size of the vocabulary with which the text of a run was prepared."""
    try:
        return open_corpus(config.data, config.run.seed).description.vocabulary_size
    except DataError as error:
        raise ConfigError(
            f"{error} The size of the vocabulary is read there: prepare the text first, or give the size by "
            "--model.vocabulary_size=65536."
        ) from error


def _is_on_cpu(config: Config) -> bool:
    try:
        return torch.device(config.run.device).type == "cpu"
    except RuntimeError as error:
        raise ConfigError(f"run.device is {config.run.device!r}, which is no device: {error}") from error


def _program_bytes(config: Config) -> int:
    """Return what a process has beside all that is made for the run."""
    if not _is_on_cpu(config):
        return 0
    return (resident_bytes() or _PROGRAM_BYTES) + _FIRST_USE_BYTES


def _memory(
    config: Config, stage: Stage, model: AnyModel, optimizer: MasterAdamW, teams: int, program: int
) -> Memory:
    """Count what a process holds while it takes a step."""
    live = LiveMemory()
    batches = stage.batches(stage.first_step, rank=0, world_size=teams)
    is_on_cpu = _is_on_cpu(config)
    is_native = is_on_cpu and "native" in kernels.available("norm_mix")
    with live, kernels.use(norm_mix="native" if is_native else "reference"):
        for _, size in itertools.islice(batches, _BATCHES):
            _read(config, stage, model, optimizer, size, live)
    optimizer.discard()
    state: Counter[str] = Counter()
    for name, tensor in optimizer.state().items():
        state[name.partition(".")[0]] += tensor.nbytes
    own = sum(weight.nbytes for weight in model.parameters() if weight.dtype == torch.float32)
    return Memory(
        weights=_size(model.state_dict()),
        masters=state["master"] - own,
        moments=state["exp_avg"] + state["exp_avg_sq"],
        average=state["average"],
        gradients=live.peak.get("gradients", 0),
        activations=live.peak.get("activations", 0),
        logits=live.peak.get("logits", 0),
        gaps=live.heap_bytes - sum(live.peak.values()) if is_on_cpu else 0,
        program=program,
    )


def _read(
    config: Config, stage: Stage, model: AnyModel, optimizer: MasterAdamW, size: int, live: LiveMemory
) -> None:
    """Have a model on the meta device read a batch, there and back, as the trainer does."""
    training = config.training
    size_of_chunk, context = training.chunk, -(-stage.context // config.distributed.context)
    left_out = 0  # chunks that are like those that are read
    if size_of_chunk:
        left_out = max(-(-context // size_of_chunk) - _CHUNKS, 0)
        context -= left_out * size_of_chunk
    penalties = training.max_logit_weight, training.z_loss_weight

    def read(
        number: int, chunk: Batch, state: State | None, *, needs_loss: bool = True
    ) -> tuple[Tensor, Tensor, State]:
        tokens = torch.empty(chunk.tokens.shape, dtype=torch.int64, device=model.device)
        with live.purpose("activations"):
            hidden, end = model.features(tokens, state)
        loss = nats = hidden.new_zeros(())
        with live.purpose("logits"):
            if needs_loss:
                loss, nats = kernels.linear_cross_entropy(hidden, model.head.weight, tokens, *penalties)
        return loss, nats, end

    numbers = np.zeros((size, context), np.int64)
    batch = Batch(tokens=numbers, targets=numbers)
    with live.purpose("activations"):
        starts = [
            model.initial_state(size).clone() for _ in range(left_out)
        ]  # of the chunks that are left out
    if training.chunk_gradient == "truncated":
        starts.clear()
    with live.purpose("gradients"):
        for _ in backward(read, batch.chunks(size_of_chunk), batch.num_learnt, training.chunk_gradient):
            optimizer.collect()


def _seconds(
    config: Config, stage: Stage, model: AnyModel, memory: Memory, processes: int, flops: float | None
) -> float | None:
    """Return how long a step takes, or None where that is not known."""
    if flops is not None:
        reads_twice = config.training.activation_checkpointing or reads_chunks_twice(config, stage)
        passes = 4 / 3 if reads_twice else 1.0
        return stage.tokens_per_step * flops_per_token(model) * passes / (flops * processes)
    is_here = _is_on_cpu(config) or torch.cuda.is_available()
    if processes > 1 or not is_here or memory.tensors + memory.gaps > available_bytes():
        return None
    return measured_seconds(config, stage, model.config)


def _snapshots(config: Config, steps: int | None) -> int:
    """Return how many snapshots there are on the disk at the most: those to keep, and one being written."""
    training = config.training
    for_good = (steps or 0) // training.keep_every if training.keep_every else 0
    return training.keep_last + for_good + 1


def _size(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
