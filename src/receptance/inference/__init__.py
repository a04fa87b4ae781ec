"""A loaded model at work: it writes text token by token, and can show that it reads alike in every way."""

from receptance.inference.generate import FinishReason, Piece, generate, read
from receptance.inference.loaded import Loaded, load
from receptance.inference.sampling import Sampling, distribution, fresh_seed, sample, uniform
from receptance.inference.verification import Difference, Verification, verify

__all__ = [
    "Difference",
    "FinishReason",
    "Loaded",
    "Piece",
    "Sampling",
    "Verification",
    "distribution",
    "fresh_seed",
    "generate",
    "load",
    "read",
    "sample",
    "uniform",
    "verify",
]
