from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.image import imread

from receptance.errors import ConfigError
from receptance.training.metrics import Record
from receptance.training.plot import Scale, _moving_mean, plot_loss


def records(steps: int, validate_every: int) -> list[Record]:
    found: list[Record] = []
    for step in range(1, steps + 1):
        loss = 2 + 4 / step
        both = {"step": step, "tokens": 512 * step, "loss": loss, "bits_per_byte": loss / 3}
        both |= {"seconds": 9.0 * step}
        found.append({"kind": "training", "flops": 10**9 * step, **both})
        if validate_every and step % validate_every == 0:
            found.append({"kind": "validation", **both})
    return found


@pytest.mark.parametrize(("steps", "validate_every"), [(200, 50), (1, 0), (1, 1), (0, 0)])
def test_the_picture_is_a_png_that_is_not_empty(tmp_path: Path, steps: int, validate_every: int) -> None:
    path = tmp_path / "loss.png"
    plot_loss({"run": records(steps, validate_every)}, path, title="a run")
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    height, width, _ = imread(path).shape
    assert (width, height) == (960, 600)


def test_training_and_validation_are_drawn_in_their_colours(tmp_path: Path) -> None:
    def colours(name: str, found: list[Record]) -> set[tuple[int, ...]]:
        plot_loss({"run": found}, tmp_path / name, title="a run")
        pixels = (imread(tmp_path / name)[..., :3] * 255).round().astype(int).reshape(-1, 3)
        return {tuple(map(int, pixel)) for pixel in np.unique(pixels, axis=0)}

    blue, orange = (31, 119, 180), (255, 127, 14)
    assert {blue, orange} <= colours("both.png", records(200, 50))
    only_training = colours("training.png", records(200, 0))
    assert blue in only_training
    assert orange not in only_training


@pytest.mark.parametrize(
    ("against", "label", "last"),
    [("tokens", "tokens", 102_400), ("time", "hours", 0.5), ("flops", "FLOPs", 2e11)],
)
def test_an_svg_says_what_the_loss_is_drawn_over_and_names_the_runs(
    tmp_path: Path, against: Scale, label: str, last: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[float] = []
    draw = Axes.plot

    def recording(self: Axes, x: Sequence[float], *arguments: object, **options: object) -> object:
        ends.append(max(x))
        return draw(self, x, *arguments, **options)

    monkeypatch.setattr(Axes, "plot", recording)
    runs = {"first": records(200, 50), "second": records(100, 0)}
    with rc_context({"svg.fonttype": "none"}):
        plot_loss(runs, tmp_path / "loss.svg", against=against, logarithmic=against == "flops")
    text = (tmp_path / "loss.svg").read_text(encoding="utf-8")
    assert all(word in text for word in (label, "first", "second", "validation (last 0.673)"))
    assert "nats per token" not in text  # they may have two vocabularies
    assert ends == pytest.approx([last, last, last, last / 2, last / 2])


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"loss\.bmp: a picture is one of png, svg, pdf"):
        plot_loss({"run": records(3, 0)}, tmp_path / "loss.bmp")
    old = [{name: value for name, value in record.items() if name != "flops"} for record in records(3, 0)]
    with pytest.raises(ConfigError, match="run: its log does not say flops"):
        plot_loss({"run": old}, tmp_path / "loss.png", against="flops")


def test_the_smooth_curve_keeps_straight_lines_and_tames_noise() -> None:
    line = np.arange(500.0)
    assert np.allclose(_moving_mean(line)[:-10], line[:-10])
    noise = np.random.default_rng(0).standard_normal(500)
    assert _moving_mean(noise)[50:].std() < 0.4 * noise.std()
