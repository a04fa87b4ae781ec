from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.training.durability.forks import Forks, reason_against

RECIPE = """
[run]
folder = "{folder}"
tune_allocator = false
[model]
generation = "{generation}"
num_layers = 2
hidden_size = 16
{sizes}
[data]
folder = "{data}"
context = 24
[training]
batch_size = 3
accumulation = 2
max_steps = 12
save_every = {save_every}
save_share = 0.0
keep_last = {keep_last}
validate_every = 5
validation_tokens = 200
dtype = "{dtype}"
[optimizer]
learning_rate = 5e-3
final_learning_rate = 1e-3
weight_decay = 0.1
"""

SIZES = {
    "4": "",
    "5": "head_size = 8",
    "6": "head_size = 8\nmix_rank = 3\ndecay_rank = 5",
    "7": "head_size = 8\ndecay_rank = 3\nin_context_rank = 4\nvalue_rank = 5\ngate_rank = 6",
}

WriteRecipe = Callable[..., Path]


MEMORY = Path("/dev/shm")  # a file system in which fsync takes no time


@pytest.fixture(scope="session")
def watched() -> Iterator[Path]:
    """The folder whose calls are counted; runs live in it."""
    place = MEMORY if os.access(MEMORY, os.W_OK) else None
    with TemporaryDirectory(dir=place, prefix="receptance-") as folder:
        yield Path(folder).resolve()


@pytest.fixture(scope="session")
def forks(watched: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    if reason := reason_against():
        pytest.skip(reason)
    with Forks(watched, tmp_path_factory.mktemp("scratch")) as forks:
        yield forks


@pytest.fixture
def write_recipe(data: Path, tmp_path: Path) -> WriteRecipe:
    """A function that writes the recipe of a tiny run into a folder, and returns its path."""

    def write(
        folder: Path, generation: str = "4", dtype: str = "float32", save_every: int = 3, keep_last: int = 2
    ) -> Path:
        path = tmp_path / f"{folder.name}.toml"
        text = RECIPE.format(
            folder=folder,
            generation=generation,
            sizes=SIZES[generation],
            data=data,
            dtype=dtype,
            save_every=save_every,
            keep_last=keep_last,
        )
        path.write_text(text, encoding="utf-8")
        return path

    return write
