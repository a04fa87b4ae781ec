"""Weight files of every format: read without running code, checked before use, written atomically."""

from receptance.checkpoints.comparison import Comparison, compare
from receptance.checkpoints.convert import Conversion, convert
from receptance.checkpoints.load import Checkpoint, load, open_model
from receptance.checkpoints.save import save

__all__ = ["Checkpoint", "Comparison", "Conversion", "compare", "convert", "load", "open_model", "save"]
