"""Tuned initial states: what a model remembers before the first token, trained in place of its weights.

    blocks.0.att.time_state, ...     one matrix a head, [head, value, key], for each layer

Files lay them out alike for every generation, while RWKV-5 and 6 remember `[key, value]`. They stand in a
file of their own or beside the weights of the model. What the last token left, the shifts, is no part of
them: a text begins without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from receptance.checkpoints.contents import Contents, Weight
from receptance.checkpoints.names import tuned_state_shapes
from receptance.errors import CheckpointError, ConfigError
from receptance.models import Config, HeadsState, State

GENERATION = "generation"  # key of the metadata; the tensors do not tell


def is_tuned_state(contents: Contents) -> bool:
    """Say whether a file holds a tuned state and nothing else."""
    return bool(contents.weights) and all(name.endswith(".att.time_state") for name in contents.weights)


def of_file(contents: Contents, config: Config) -> dict[str, Weight]:
    """Return the tuned state in a file of its own, to be checked when it is read.

    Raises CheckpointError, naming the file and the tensor, when it is of another model.
    """
    shapes = tuned_state_shapes(config)
    claimed = contents.metadata.get(GENERATION, config.generation)
    if not shapes or claimed != config.generation:
        reason = f"the file is of RWKV-{claimed}" if shapes else "which remembers no matrices"
        raise CheckpointError(
            f"{contents.path}: RWKV-{config.generation} cannot start from this tuned state: {reason}."
        )
    return contents.take(shapes, "a tuned state", config)


def as_state(tuned: Mapping[str, Weight], config: Config, zero: HeadsState) -> HeadsState:
    """Return what a batch of texts starts from, the empty state being given, on whose device it is."""
    layers = _turned(torch.stack([weight.read() for weight in tuned.values()]), config)
    return replace(zero, wkv=layers.to(zero.wkv).unsqueeze(1).repeat(1, zero.wkv.shape[1], 1, 1, 1))


def of_state(state: State, config: Config) -> dict[str, Weight]:
    """Return a state, a batch of one, as the tensors of a file.

    Raises ConfigError when it is not of this config, has read tokens or is not finite.
    """
    shapes = tuned_state_shapes(config)
    if not shapes or not isinstance(state, HeadsState):
        raise ConfigError(f"An RWKV-{config.generation} and a {type(state).__name__} make no tuned state.")
    (shape, *_) = shapes.values()
    expected = (len(shapes), 1, *shape)
    if tuple(state.wkv.shape) != expected:
        raise ConfigError(f"The state is {tuple(state.wkv.shape)}, but {config} needs {expected}.")
    if any(bool(shift.any()) for shift in (state.time_shift, state.channel_shift)):
        raise ConfigError(
            "The state has read a text, and its shifts hold the last token, for which a tuned state has no "
            "place. Set them to zero if they may be lost."
        )
    if not bool(torch.isfinite(state.wkv).all()):
        raise ConfigError("The state holds values that are not finite.")
    layers = _turned(state.wkv.detach()[:, 0], config).unbind()
    return {name: Weight.of(layer) for name, layer in zip(shapes, layers, strict=True)}


def _turned(memory: Tensor, config: Config) -> Tensor:
    """Turn `[value, key]` of the files into what the generation remembers, or back."""
    return memory if config.generation == "7" else memory.mT
