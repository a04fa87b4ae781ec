"""What was trained on top of a model, in files of its own: tuned initial states and adapters."""

from receptance.checkpoints.tuning.files import NONE, Tuning

__all__ = ["NONE", "Tuning"]
