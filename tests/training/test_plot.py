from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from receptance.training.metrics import Record
from receptance.training.plot import _moving_mean, plot_loss


def records(steps: int, validate_every: int) -> list[Record]:
    found: list[Record] = []
    for step in range(1, steps + 1):
        loss = 2 + 4 / step
        both = {"step": step, "tokens": 512 * step, "loss": loss, "bits_per_byte": loss / 3}
        found.append({"kind": "training", **both})
        if validate_every and step % validate_every == 0:
            found.append({"kind": "validation", **both})
    return found


@pytest.mark.parametrize(("steps", "validate_every"), [(200, 50), (1, 0), (1, 1), (0, 0)])
def test_the_picture_is_a_png_that_is_not_empty(tmp_path: Path, steps: int, validate_every: int) -> None:
    path = tmp_path / "loss.png"
    plot_loss(records(steps, validate_every), path, title="a run")
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    height, width, _ = imread(path).shape
    assert (width, height) == (960, 600)


def test_training_and_validation_are_drawn_in_their_colours(tmp_path: Path) -> None:
    def colours(name: str, found: list[Record]) -> set[tuple[int, ...]]:
        plot_loss(found, tmp_path / name, title="a run")
        pixels = (imread(tmp_path / name)[..., :3] * 255).round().astype(int).reshape(-1, 3)
        return {tuple(map(int, pixel)) for pixel in np.unique(pixels, axis=0)}

    blue, orange = (31, 119, 180), (255, 127, 14)
    assert {blue, orange} <= colours("both.png", records(200, 50))
    only_training = colours("training.png", records(200, 0))
    assert blue in only_training
    assert orange not in only_training


def test_the_smooth_curve_keeps_straight_lines_and_tames_noise() -> None:
    line = np.arange(500.0)
    assert np.allclose(_moving_mean(line)[:-10], line[:-10])
    noise = np.random.default_rng(0).standard_normal(500)
    assert _moving_mean(noise)[50:].std() < 0.4 * noise.std()
