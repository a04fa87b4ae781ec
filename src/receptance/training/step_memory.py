"""What a step takes of memory: counted, or at least, at once.

To count it, a model on the meta device reads a batch, there and back, while the tensors are counted. So the
memory is that of the very operations that the run will do, and follows from no formula. What a step takes at
least does follow from one: the numbers of the model and its optimizer, the inputs of the layers, the logits.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from receptance import kernels
from receptance.data.windows import Batch
from receptance.models import AnyModel, State
from receptance.training.chunks import backward
from receptance.training.config import Config
from receptance.training.distributed import ALONE
from receptance.training.live_memory import LiveMemory
from receptance.training.optimizer import MasterAdamW
from receptance.training.timetable import Stage

_BATCHES = 2  # that are read: the gradients of the first are there when the second is
_CHUNKS = 3  # of a context that are read: a first, a last, and one between
_TOKEN_BYTES = 16  # its number and that of the one after it, of all samples of a step


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
    tokens: int  # of all samples of the step; 0 on another device than the CPU, like all that follows
    gaps: int = 0  # that the C library keeps between tensors
    program: int = 0  # Python, torch and what else is in this process

    @property
    def tensors(self) -> int:
        """All tensors together."""
        return self.peak - self.gaps - self.program

    @property
    def peak(self) -> int:
        """All of it together: on a CPU about the most that the process will have of the machine's memory."""
        return sum(vars(self).values())


def is_on_cpu(config: Config) -> bool:
    """Say whether a run is on the CPU. Raises ConfigError where its device is none."""
    return ALONE.device(config.run.device).type == "cpu"


def least_memory(config: Config, stage: Stage, model: AnyModel, teams: int, shards: int = 1) -> Memory:
    """Return what a step takes at the least, whatever the model does between its layers.

    The model is one on paper (see `session.on_paper`), `teams` the processes, or groups of them, that share
    the samples, and `shards` those of which each keeps a part of all matrices.
    """
    itemsize = getattr(torch, config.training.dtype).itemsize
    numbers, gradients = Counter[str](), 0
    for name, weight in model.named_parameters():
        is_split = model.is_matrix(name, weight.shape)
        count = -(-weight.numel() // shards) if is_split else weight.numel()
        # What is in parts is the masters themselves, and its gradients are float32.
        size = 4 if shards > 1 else weight.itemsize
        numbers["weights"] += count * size
        gradients += count * size
        numbers["masters"] += count * 4 * (size != 4)
        numbers["moments"] += count * 8
        numbers["average"] += count * 4 * bool(config.optimizer.ema_decay)
    samples = stage.samples_per_step // teams
    context = -(-stage.context // config.distributed.context)
    at_a_time = min(stage.batch_size, samples) * min(context, config.training.chunk or context)
    sizes = model.config
    kept = {
        "activations": at_a_time * sizes.num_layers * sizes.hidden_size * itemsize,
        "logits": at_a_time * sizes.vocabulary_size * itemsize,
    }
    # The gradients are all there when what was kept is not needed any more.
    numbers.update(kept if sum(kept.values()) > gradients else {"gradients": gradients})
    none = dict.fromkeys((field.name for field in fields(Memory)), 0)
    return Memory(**none | numbers | {"tokens": _tokens(config, stage, teams)})


def count_memory(config: Config, stage: Stage, model: AnyModel, optimizer: MasterAdamW, teams: int) -> Memory:
    """Count what a process holds while it takes a step, all but the program; model and optimizer on paper."""
    live = LiveMemory()
    batches = stage.batches(stage.first_step, rank=0, world_size=teams)
    is_here = is_on_cpu(config)
    is_native = is_here and "native" in kernels.available("norm_mix")
    with live, kernels.use(norm_mix="native" if is_native else "reference"):
        for _, size in itertools.islice(batches, _BATCHES):
            _read(config, stage, model, optimizer, size, live)
    optimizer.discard()
    state: Counter[str] = Counter()
    for name, tensor in optimizer.state().items():
        state[name.partition(".")[0]] += tensor.nbytes
    own = sum(weight.nbytes for weight in model.parameters() if weight.dtype == torch.float32)
    return Memory(
        weights=total_bytes(model.state_dict()),
        masters=state["master"] - own,
        moments=state["exp_avg"] + state["exp_avg_sq"],
        average=state["average"],
        gradients=live.peak.get("gradients", 0),
        activations=live.peak.get("activations", 0),
        logits=live.peak.get("logits", 0),
        tokens=_tokens(config, stage, teams),
        gaps=live.heap_bytes - sum(live.peak.values()) if is_here else 0,
    )


def total_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes of all these tensors."""
    return sum(tensor.nbytes for tensor in tensors.values())


def _tokens(config: Config, stage: Stage, teams: int) -> int:
    """Return the bytes of the numbers of all tokens that one process reads in a step."""
    return stage.samples_per_step // teams * stage.context * _TOKEN_BYTES if is_on_cpu(config) else 0


class _Blank(Batch):
    """Tokens that take no memory, all of them to be learnt."""

    @property
    def num_learnt(self) -> int:
        return self.tokens.size


def _blank_chunks(size: int, context: int, chunk: int) -> list[Batch]:
    """Return a batch of so many samples in chunks, as `Batch.chunks` would."""
    times = (min(chunk or context, context - begin) for begin in range(0, context, chunk or context))
    zeros = (np.broadcast_to(np.int64(0), (size, time)) for time in times)
    return [_Blank(tokens=each, targets=each) for each in zeros]


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

    chunks = _blank_chunks(size, context, size_of_chunk)
    with live.purpose("activations"):
        starts = [
            model.initial_state(size).clone() for _ in range(left_out)
        ]  # of the chunks that are left out
    if training.chunk_gradient == "truncated":
        starts.clear()
    with live.purpose("gradients"):
        for _ in backward(read, chunks, size * context, training.chunk_gradient):
            optimizer.collect()
