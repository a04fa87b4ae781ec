"""What a recipe will take, before a step is spent: memory, disk, FLOPs, and the time of a step.

The tensors are counted (see `step_memory`). On a CPU, what lies between them follows from their order, and
what the program itself takes is what this process has already, and what it will load with the first step. All
of it together was within 5 % of what runs took, but 6 to 22 % below with activation checkpointing
(benchmarks/plans.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from receptance import checkpoints
from receptance.data.bare_store import is_bare_store
from receptance.data.description import FILE
from receptance.data.memory import available_bytes
from receptance.errors import ConfigError
from receptance.inference.machine import resident_bytes
from receptance.models import AnyModel
from receptance.models import Config as ModelSizes
from receptance.training.config import Config
from receptance.training.cost import flops_per_token
from receptance.training.optimizer import MasterAdamW
from receptance.training.session import checked_sizes, model_config, on_paper, opened_corpus
from receptance.training.step_memory import Memory, count_memory, is_on_cpu, least_memory, total_bytes
from receptance.training.step_time import measured_seconds, reads_chunks_twice
from receptance.training.timetable import Stage, Timetable

# Of code that is read when it is first used, stacks of threads, and buffers of libraries; measured, see
# benchmarks/plans.py.
_FIRST_USE_BYTES = 85 * 2**20
_PROGRAM_BYTES = 240 * 2**20  # where the system does not say what this process has
_ANY_MACHINE = 2**50  # bytes that none has; far more could not be counted


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
    has_text: bool  # there already, so that it was checked too, as before a run
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

    A text that is there already is checked against the recipe and the model as `train` does, with its errors.

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
    sizes, has_text = _sizes(config)
    model = on_paper(config, sizes)
    optimizer = MasterAdamW(model, config.optimizer, config.groups)
    steps = timetable.num_steps
    stages = []
    for stage in timetable.stages:
        _check_can_count(config, stage, model, teams)
        memory = replace(count_memory(config, stage, model, optimizer, teams), program=program)
        seconds = _seconds(config, stage, model, memory, processes, flops)
        stages.append(StagePlan(stage=stage, memory=memory, seconds_per_step=seconds))
    snapshot = total_bytes(optimizer.state())
    return Plan(
        sizes=sizes,
        has_text=has_text,
        parameters=model.num_parameters,
        flops_per_token=flops_per_token(model),
        steps=steps,
        tokens=None if steps is None else timetable.tokens_after(steps),
        snapshot_bytes=snapshot,
        disk_bytes=snapshot * _snapshots(config, steps) + 2 * total_bytes(model.state_dict()),
        stages=tuple(stages),
    )


def _sizes(config: Config) -> tuple[ModelSizes, bool]:
    """Return the sizes of the model, and whether there is a text, which then fits it."""
    folder, given = config.data.folder, config.model
    if is_bare_store(folder) or (folder / FILE).exists():
        return checked_sizes(given, opened_corpus(config)), True
    if given.initial is not None:
        return checkpoints.open_model(given.initial).config, False
    if not given.vocabulary_size:
        raise ConfigError(
            f"data.folder is {folder}, which holds no text that `receptance prepare` finished, so the size "
            "of the vocabulary is not known. Prepare the text first, or give the size by "
            "--model.vocabulary_size=65536."
        )
    return model_config(given, given.vocabulary_size), False


def _check_can_count(config: Config, stage: Stage, model: AnyModel, teams: int) -> None:
    """Raise ConfigError where a step takes so much that its bytes have no number that torch knows."""
    least = least_memory(config, stage, model, teams).peak
    if least > _ANY_MACHINE:
        raise ConfigError(
            f"training.batch_size is {stage.batch_size:,} and data.context {stage.context:,}, so a step "
            f"takes at least {least / 2**50:,.1f} PiB of memory, which no machine has. Choose smaller ones."
        )


def _program_bytes(config: Config) -> int:
    """Return what a process has beside all that is made for the run."""
    if not is_on_cpu(config):
        return 0
    return (resident_bytes() or _PROGRAM_BYTES) + _FIRST_USE_BYTES


def _seconds(
    config: Config, stage: Stage, model: AnyModel, memory: Memory, processes: int, flops: float | None
) -> float | None:
    """Return how long a step takes, or None where that is not known."""
    if flops is not None:
        reads_twice = config.training.activation_checkpointing or reads_chunks_twice(config, stage)
        passes = 4 / 3 if reads_twice else 1.0
        return stage.tokens_per_step * flops_per_token(model) * passes / (flops * processes)
    is_here = is_on_cpu(config) or torch.cuda.is_available()
    if processes > 1 or not is_here or memory.tensors + memory.gaps > available_bytes():
        return None
    return measured_seconds(config, stage, model.config)


def _snapshots(config: Config, steps: int | None) -> int:
    """Return how many snapshots there are on the disk at the most: those to keep, and one being written."""
    training = config.training
    for_good = (steps or 0) // training.keep_every if training.keep_every else 0
    return training.keep_last + for_good + 1
