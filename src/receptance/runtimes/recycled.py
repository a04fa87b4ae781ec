"""Memory of large states, used again once nobody holds the state that was in it.

What is new to a process is cleared page by page when it is first touched. For the state of sixteen texts of
RWKV-7 that takes longer than the network itself, and allocators give so large a block back at once.
"""

from __future__ import annotations

import math
import weakref

import torch
from jaxtyping import Float
from torch import Tensor

_LEAST_BYTES = 1 << 20  # smaller blocks are kept by every allocator
_MOST_KEPT = 2  # of a size: a text that goes on holds one state and is given the next


class RecycledMemory:
    """Hands out tensors, and takes their memory back when the last view of it is gone."""

    def __init__(self) -> None:
        self._free: dict[int, list[Tensor]] = {}

    def take(self, *shape: int) -> Float[Tensor, "..."]:
        """Return a float32 tensor of this shape, with whatever values were left there."""
        size = math.prod(shape)
        if 4 * size < _LEAST_BYTES:
            return torch.empty(shape)
        free = self._free.setdefault(size, [])
        memory = free.pop() if free else torch.empty(size)
        lent = memory.numpy().view()  # its life is that of all tensors which look into it
        weakref.finalize(lent, _put_back, free, memory).atexit = False
        return torch.from_numpy(lent).view(shape)


def _put_back(free: list[Tensor], memory: Tensor) -> None:
    if len(free) < _MOST_KEPT:
        free.append(memory)
