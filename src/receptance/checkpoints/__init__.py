"""Weight files of every format: read without running code, checked before use, written atomically."""

from receptance.checkpoints.convert import Conversion, convert
from receptance.checkpoints.load import Checkpoint, load
from receptance.checkpoints.save import save

__all__ = ["Checkpoint", "Conversion", "convert", "load", "save"]
