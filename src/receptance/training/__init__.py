"""Training: a recipe, a folder of prepared text, and a loop that can stop and go on without a trace."""

from receptance.training.config import (
    Config,
    DataConfig,
    DistributedConfig,
    GroupConfig,
    GuardConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    SamplesConfig,
    StageConfig,
    TrackingConfig,
    TrainingConfig,
)
from receptance.training.cost import flops_per_token, matmul_peak
from receptance.training.distributed import World, joined_world
from receptance.training.plan import Plan, plan
from receptance.training.progress import Progress, Result, Validation
from receptance.training.recipe import load_config, save_config
from receptance.training.samples import Sample
from receptance.training.session import resume_config, train
from receptance.training.signals import stop_on_signals

__all__ = [
    "Config",
    "DataConfig",
    "DistributedConfig",
    "GroupConfig",
    "GuardConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Plan",
    "Progress",
    "Result",
    "RunConfig",
    "Sample",
    "SamplesConfig",
    "StageConfig",
    "TrackingConfig",
    "TrainingConfig",
    "Validation",
    "World",
    "flops_per_token",
    "joined_world",
    "load_config",
    "matmul_peak",
    "plan",
    "resume_config",
    "save_config",
    "stop_on_signals",
    "train",
]
