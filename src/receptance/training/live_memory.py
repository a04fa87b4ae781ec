"""How much memory tensors take while something is computed, counted operation by operation.

On the meta device nothing is computed and nothing is taken, but every tensor has its size and its end, so
what is counted there is what the same work would take: what autograd keeps, what the way back needs besides,
and when each is freed. That order decides too how far a heap grows in which tensors lie side by side.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from receptance.training.heap import Heap


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch
    """Counts, as a context manager, the bytes of the tensors that are made in it, by what they are made for.

    What an operation takes within itself, and gives back before it ends, is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch
        self._purpose = ""
        self._now: Counter[str] = Counter()
        self._most = 0
        self._at_most: Mapping[str, int] = {}
        self._heap = Heap()
        self._sizes: dict[weakref.ref[torch.UntypedStorage], tuple[str, int, int]] = {}  # and where it lies

    @property
    def peak(self) -> Mapping[str, int]:
        """The bytes of each purpose at the moment when they were the most together."""
        return self._at_most

    @property
    def heap_bytes(self) -> int:
        """How large a heap must be for all of it, the gaps between tensors among it."""
        return self._heap.most

    @contextmanager
    def purpose(self, name: str) -> Iterator[None]:
        """Count what is made in the block as for this."""
        before, self._purpose = self._purpose, name
        try:
            yield
        finally:
            self._purpose = before

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],  # Any: whatever an operator takes and returns
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation, and count what is new of what it returns."""
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        reference = weakref.ref(storage, self._forget)
        if reference in self._sizes:
            return  # of a view, or of what was changed in place
        place = self._heap.allocate(storage.nbytes())
        self._sizes[reference] = self._purpose, storage.nbytes(), place
        self._now[self._purpose] += storage.nbytes()
        if (together := self._now.total()) > self._most:
            self._most, self._at_most = together, dict(self._now)

    def _forget(self, reference: weakref.ref[torch.UntypedStorage]) -> None:
        purpose, size, place = self._sizes.pop(reference)
        self._now[purpose] -= size
        self._heap.free(place)
