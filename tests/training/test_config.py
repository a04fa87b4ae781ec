from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from receptance.training import Config, DataConfig, ModelConfig, OptimizerConfig, RunConfig, TrainingConfig


@pytest.mark.parametrize(
    ("section", "keys", "message"),
    [
        (TrainingConfig, {"batch_size": 0, "max_steps": 1}, "batch_size"),
        (TrainingConfig, {"batch_size": 1, "max_steps": 1, "gradient_clip": -1.0}, "gradient_clip"),
        (ModelConfig, {"num_layers": 2}, "num_layers and hidden_size are needed"),
        (
            ModelConfig,
            {"initial": Path("m"), "vocabulary_size": 9},
            "vocabulary_size cannot be set beside it",
        ),
        (ModelConfig, {"num_layers": 2, "hidden_size": 2, "generation": "3"}, "generation"),
        (DataConfig, {"folder": Path("d"), "context": 0}, "context"),
        (OptimizerConfig, {"learning_rate": 1.0, "final_learning_rate": 0.1, "plateau": 1.5}, "plateau"),
        (OptimizerConfig, {"learning_rate": 1.0, "final_learning_rate": 0.1, "epsilon": 0.0}, "epsilon"),
        (
            OptimizerConfig,
            {"learning_rate": 1.0, "final_learning_rate": 0.1, "warm_up_steps": 1, "warm_up_tokens": 1},
            "choose one",
        ),
        (RunConfig, {"folder": Path("r"), "seed": -1}, "seed"),
        (RunConfig, {"folder": Path("r"), "sead": 1}, "sead"),
    ],
)
def test_a_section_made_in_python_is_checked_too(section: Any, keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        section(**keys)


def test_a_chunk_whose_dropout_cannot_be_repeated_is_refused() -> None:
    sections: dict[str, Any] = {
        "run": RunConfig(folder=Path("runs/x")),
        "data": DataConfig(folder=Path("data"), context=8),
        "optimizer": OptimizerConfig(learning_rate=1e-3, final_learning_rate=0.0),
    }
    training = TrainingConfig(batch_size=1, max_steps=1, chunk=4, compile=True)
    model = ModelConfig(num_layers=1, hidden_size=8, dropout=0.1)
    with pytest.raises(ValueError, match="chunk_gradient"):
        Config(**sections, model=model, training=training)
    Config(**sections, model=model, training=replace(training, chunk_gradient="truncated"))
    Config(**sections, model=replace(model, dropout=0.0), training=training)


def test_sections_can_be_put_together_in_python() -> None:
    config = Config(
        run=RunConfig(folder=Path("runs/x")),
        model=ModelConfig(initial=Path("model.pth")),
        data=DataConfig(folder=Path("data"), context=8),
        training=TrainingConfig(batch_size=1, max_minutes=0.5),
        optimizer=OptimizerConfig(learning_rate=1e-3, final_learning_rate=0.0),
    )
    assert config.model.num_layers == 0
    assert config.training.dtype == "bfloat16"
