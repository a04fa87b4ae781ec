"""Refusing a run that cannot fit into the memory that is free, before it takes any of it.

Where that is not certain the run is let through: where the system does not say what is free, or the count is
close to it. Counting takes a second or more, so a run that fits by far, as most do, is not counted.
"""

from __future__ import annotations

import torch

from receptance.data.memory import free_bytes
from receptance.errors import ConfigError
from receptance.models import AnyModel
from receptance.training.config import Config
from receptance.training.context_parallel import Relay
from receptance.training.distributed import World
from receptance.training.optimizer import MasterAdamW
from receptance.training.step_memory import Memory, count_memory, least_memory
from receptance.training.timetable import Stage, Timetable

_KEPT = 64  # times the input of a layer; of contexts read whole, the generations keep up to 50 of it
_SURE = 0.9  # of what is counted is taken for certain; it was within a tenth of what torch allocates


def check_fits(config: Config, model: AnyModel, relay: Relay) -> None:
    """Raise ConfigError where a step of a run takes more memory than is free here for this process.

    The model is the run's, on paper. On a CPU the processes of this machine are taken to be alike, and none
    of them to have taken any yet.
    """
    world = relay.world
    free = _free(config, world)
    if free is None:
        return
    is_split = world.size > 1 and config.distributed.strategy == "fsdp"
    for stage in Timetable(config).stages:
        found = least_memory(config, stage, model, relay.num_teams, world.size if is_split else 1)
        can_count = not is_split and not config.training.compile  # which keeps less
        if found.peak <= free < found.peak + _KEPT * found.activations and can_count:
            optimizer = MasterAdamW(model, config.optimizer, config.groups)
            found = count_memory(config, stage, model, optimizer, relay.num_teams)
        if _SURE * found.tensors > free:
            raise ConfigError(_refusal(config, stage, model, found, free, world))


def _free(config: Config, world: World) -> int | None:
    """Return how many bytes are free for each process like this one; None where that is not known."""
    device = world.device(config.run.device)
    if device.type == "cpu":
        free = free_bytes(with_swap=True)
        return None if free is None else free // world.local_size
    if device.type == "cuda" and (device.index or 0) < torch.cuda.device_count():
        return torch.cuda.mem_get_info(device)[0]
    return None


def _refusal(config: Config, stage: Stage, model: AnyModel, found: Memory, free: int, world: World) -> str:
    """Say what takes more than there is, and what takes less."""
    sizes, samples = model.config, stage.samples_per_step
    for_good = found.weights + found.masters + found.moments + found.average
    there = f"but {_in_words(free)} are free" + (
        f" for each of the {world.local_size} processes" if world.local_size > 1 else ""
    )
    if for_good > free:
        return (
            f"[model] has {sizes.num_layers:,} layers of {sizes.hidden_size:,}, which take "
            f"{_in_words(for_good)} of memory with the optimizer, {there}. Choose smaller "
            "model.num_layers or model.hidden_size, or share it among several machines by "
            'distributed.strategy = "fsdp".'
        )
    if found.tokens > free:
        return (
            f"training.batch_size {stage.batch_size:,} × training.accumulation {stage.accumulation:,} are "
            f"{samples:,} samples of {stage.context:,} tokens a step, whose numbers alone take "
            f"{_in_words(found.tokens)} of memory, {there}. Choose fewer."
        )
    return (
        f"training.batch_size is {stage.batch_size:,}, and with so many samples of {stage.context:,} tokens "
        f"at a time a step takes at least {_in_words(found.tensors)} of memory, {_in_words(for_good)} of "
        f"it for the model and its optimizer, {there}. Choose a smaller one, with more training.accumulation "
        "instead; or set training.activation_checkpointing = true, or training.chunk to fewer tokens than "
        "the context. `receptance plan` says what is taken then."
    )


def _in_words(count: int) -> str:
    """Return a number of bytes to be read."""
    return f"{count / 1e9:,.1f} GB" if count >= 10**9 else f"{count / 1e6:,.1f} MB"
