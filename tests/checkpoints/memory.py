"""How much memory a piece of work takes beyond what its process had before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from receptance.checkpoints import pickled, stored_model
from receptance.checkpoints.contents import Weight
from receptance.inference.fresh_process import call_in_fresh_process
from receptance.models import RWKV7Config

STATUS = Path("/proc/self/status")
needs_memory_figures = pytest.mark.skipif(
    not STATUS.is_file(), reason="only Linux tells what memory is whose"
)

Work = Callable[[Path, Path], None]  # reads a model, and writes into a folder


def memory_taken(work: Work, small: Path, folder: Path) -> tuple[int, int]:
    """Do the work with a small model and then with one of 160 MB, in a process of its own.

    Returns the bytes of the large model, and the most that the process had beyond what it had before it.
    """
    return call_in_fresh_process(partial(_measure, work=work, small=small, folder=folder), lambda *_: None)


def _measure(_: object, work: Work, small: Path, folder: Path) -> tuple[int, int]:
    large = folder / "large.pth"
    _write_large_model(large)
    outputs = [folder / "of small", folder / "of large"]
    for output in outputs:
        output.mkdir()
    work(small, outputs[0])  # what is loaded and made at the first time
    before = largest = _anonymous_bytes()
    finished = threading.Event()

    def watch() -> None:
        nonlocal largest
        while not finished.is_set():
            largest = max(largest, _anonymous_bytes())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    work(large, outputs[1])
    finished.set()
    watcher.join()
    return large.stat().st_size, largest - before


def _write_large_model(path: Path) -> None:
    config = RWKV7Config(vocabulary_size=2000, num_layers=24, hidden_size=512)
    weights = {
        name: Weight(
            tuple(like.shape), torch.bfloat16, partial(torch.full, like.shape, 0.01, dtype=torch.bfloat16)
        )
        for name, like in stored_model.empty_model(config).state_dict().items()
    }
    pickled.write_weights(path, weights)


def _anonymous_bytes() -> int:
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
