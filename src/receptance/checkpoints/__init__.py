"""Weight files of every format: read without running code, checked before use, written atomically."""

from receptance.checkpoints.comparison import Comparison, compare
from receptance.checkpoints.convert import Conversion, convert
from receptance.checkpoints.load import Checkpoint, load, module, open_model
from receptance.checkpoints.quantize import Quantization, quantize, require_quantizable
from receptance.checkpoints.save import save, save_state
from receptance.checkpoints.tuning import Tuning
from receptance.checkpoints.tuning.parts import PartConversion

__all__ = [
    "Checkpoint",
    "Comparison",
    "Conversion",
    "PartConversion",
    "Quantization",
    "Tuning",
    "compare",
    "convert",
    "load",
    "module",
    "open_model",
    "quantize",
    "require_quantizable",
    "save",
    "save_state",
]
