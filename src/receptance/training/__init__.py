"""Training: a recipe, a folder of prepared text, and a loop that can stop and go on without a trace."""

from receptance.training.config import (
    Config,
    DataConfig,
    GroupConfig,
    GuardConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    StageConfig,
    TrainingConfig,
)
from receptance.training.recipe import load_config, save_config
from receptance.training.session import resume_config, train
from receptance.training.signals import stop_on_signals
from receptance.training.trainer import Progress, Result, Validation

__all__ = [
    "Config",
    "DataConfig",
    "GroupConfig",
    "GuardConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Progress",
    "Result",
    "RunConfig",
    "StageConfig",
    "TrainingConfig",
    "Validation",
    "load_config",
    "resume_config",
    "save_config",
    "stop_on_signals",
    "train",
]
