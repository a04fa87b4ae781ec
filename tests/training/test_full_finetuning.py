"""A full fine-tune goes on from what the published weights know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from receptance import checkpoints
from receptance.data import prepare
from receptance.training import train
from receptance.training.metrics import read_metrics
from tests.training.conftest import MakeConfig

END_OF_TEXT = 0

# The tiny models, and which logits of the reference are by the epsilon that official code gives the norms.
MODELS = {
    "rwkv-4.0-660K": "logits",
    "rwkv-5.1-730K": "logits_gn64e5",
    "rwkv-5.2-730K": "logits_gn64e5",
    "rwkv-6.0-3m-dequantQ5_1": "logits",
    "rwkv-7.0-834K": "logits",
}


@pytest.mark.parametrize("name", MODELS)
def test_it_begins_with_the_loss_of_an_independent_program_and_learns_from_there(
    shared: Path, tmp_path: Path, make_config: MakeConfig, name: str
) -> None:
    folder = shared / "data" / "tiny-models"
    published = tmp_path / "published.pth"
    checkpoints.convert(folder / f"{name}.safetensors", published)
    reference = np.load(folder / f"{name}.ref.npz")  # of numpy in float64
    text = bytes(reference["tokens"].tolist())
    (tmp_path / "text.txt").write_bytes(text + b"\n" + text)  # one half to train on, the other held back
    prepare(tmp_path / "text.txt", tmp_path / "prepared", tokenizer="bytes", validation_fraction=0.49)
    targets = torch.tensor([*text[1:], END_OF_TEXT])
    expected = F.cross_entropy(torch.from_numpy(reference[MODELS[name]]).double(), targets).item()

    config = make_config(context=len(text), max_steps=6, validate_every=1, learning_rate=3e-4)
    config = replace(
        config,
        model=replace(config.model, initial=published, num_layers=0, hidden_size=0),
        data=replace(config.data, folder=tmp_path / "prepared"),
        optimizer=replace(config.optimizer, warm_up_steps=1, warm_up_start=0.0),  # the first step is none
    )
    train(config)
    log = read_metrics(config.run.folder / "metrics.jsonl")
    losses = [record["loss"] for record in log if record["kind"] == "validation"]
    assert losses[0] == pytest.approx(expected, abs=3e-5)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < expected - 0.1
