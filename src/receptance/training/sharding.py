"""A model in parts: of every matrix, and what the optimizer sums up for it, each process keeps some rows.

That is FSDP2 (docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html): before a block is read, its
matrices are put together in the number format of the run, and afterwards forgotten; on the way back their
gradients are added up, in float32, and each process keeps its rows of the sum. What it keeps of the weights
are the float32 masters. Vectors are small, so each process has them whole.

To read is then something that all processes do together, each its own text.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from receptance.data.windows import NOT_LEARNT, Batch
from receptance.models import AnyModel
from receptance.training.distributed import World


def shard(model: AnyModel, world: World, device: torch.device, dtype: torch.dtype) -> AnyModel:
    """Leave of a float32 model on the CPU what this process keeps, on its device.

    What is kept is float32; when the model is read, its matrices are in `dtype`.
    """
    from torch.distributed.device_mesh import init_device_mesh  # these imports take most of a second
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    vectors = set()
    for name, weight in model.named_parameters():
        if model.is_matrix(name, weight.shape):
            weight.data = weight.data.to(dtype).float()  # begin with what a model that is not sharded has
        else:
            weight.data = weight.data.to(device)
            vectors.add(weight)
    # A state is not cast: it sums over the whole past.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    mesh = init_device_mesh(device.type, (world.size,))
    for module in (model.emb, *model.layers, model):
        # Also what is outside the blocks is forgotten after each reading, which need not be for a step.
        sharded = fully_shard(
            module, mesh=mesh, mp_policy=policy, ignored_params=vectors, reshard_after_forward=True
        )
        sharded.set_gradient_divide_factor(1.0)  # a sum, not a mean
        sharded.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(model, "loss")
    # States are, and nothing here is changed in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    return model


def is_sharded(tensor: Tensor) -> bool:
    """Say whether a weight, or its gradient, is here in part alone."""
    return hasattr(tensor, "to_local")  # a DTensor, whose import takes most of a second


def part(tensor: Tensor) -> Tensor:
    """Return what this process keeps of a weight, or of its gradient, in the same memory."""
    local: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return local


def part_of(whole: Tensor, weight: Tensor) -> Tensor:
    """Return the rows that this process keeps of a tensor which is split as a weight is."""
    if not is_sharded(weight) or whole.shape != weight.shape:
        return whole
    mesh = weight.device_mesh  # type: ignore[attr-defined]
    rows = -(-len(whole) // mesh.size())  # the last ones have fewer, or none
    return whole[rows * mesh.get_local_rank() :][:rows]


def gathered(model: AnyModel, parts: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Return tensors whole, on the CPU, that are split as the weights of their names are.

    All processes must call this; those that need not `keep` anything are given nothing.
    """
    from torch.distributed.tensor import DTensor

    found = {}
    for name, tensor in parts.items():
        weight = model.get_parameter(name)
        if isinstance(weight, DTensor):
            mesh, placements = weight.device_mesh, weight.placements
            split = DTensor.from_local(
                tensor, mesh, placements, shape=weight.shape, stride=weight.stride(), run_check=False
            )
            tensor = split.full_tensor()
        if keep:
            found[name] = tensor.detach().cpu()
    return found


def forget_reading(model: AnyModel) -> None:
    """Have a sharded model forget what it has read and was not led back through."""
    from torch.distributed.fsdp import FSDPModule

    cast(FSDPModule, model).reset_iter_state()


def in_step(batches: Sequence[Sequence[Batch]], world: World) -> list[list[Batch]]:
    """Return batches in chunks, filled up with empty ones so that each process reads as many of each."""
    filled = [list(chunks) for chunks in batches]
    filled += [[nothing(1)] for _ in range(int(world.largest(len(filled))[0]) - len(filled))]
    counts = world.largest(*(len(chunks) for chunks in filled))
    for chunks, count in zip(filled, counts, strict=True):
        chunks += [nothing(len(chunks[0].tokens)) for _ in range(int(count) - len(chunks))]
    return filled


def nothing(num_rows: int) -> Batch:
    """Return rows that hold no token, so that a model which reads them stays as it is."""
    return Batch(
        tokens=np.zeros((num_rows, 1), np.int64),
        targets=np.full((num_rows, 1), NOT_LEARNT),
        lengths=np.zeros(num_rows, np.int64),
    )
