"""How an operator can be computed on this machine: by an implementation, a compiled one at some level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from receptance import kernels, native


@dataclass(frozen=True)
class Way:
    """One way to compute an operator on this machine."""

    operator: str
    implementation: str
    dtype: torch.dtype = torch.float32  # of the inputs that may be narrow
    level: str | None = None

    def __str__(self) -> str:
        parts = (self.operator, self.implementation, self.level, str(self.dtype).removeprefix("torch."))
        return "-".join(filter(None, parts))

    @contextmanager
    def use(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(kernels.use(**{self.operator: self.implementation}))
            if self.level:
                stack.enter_context(native.use_level(self.level))
            yield


def native_ways(operator: str, dtypes: Sequence[torch.dtype] = (torch.float32,)) -> list[Way]:
    """Return the compiled implementation at every level that this machine runs."""
    return [Way(operator, "native", dtype, level) for level in native.levels() for dtype in dtypes]
