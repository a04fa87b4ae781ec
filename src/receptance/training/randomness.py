"""Random numbers of a batch that follow from the seed and its position, so that resuming needs no state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(device: torch.device, *position: int) -> Iterator[None]:
    """Let torch draw what these integers decide; afterwards its generators go on as if nothing was drawn."""
    digest = hashlib.blake2b(" ".join(map(str, position)).encode(), digest_size=8).digest()
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(int.from_bytes(digest, "little"))
        yield
