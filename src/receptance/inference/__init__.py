"""A loaded model at work: it writes text token by token, and can show that it reads alike in every way."""

from receptance.inference.generate import FinishReason, Piece, generate, go_on
from receptance.inference.history import History, Point
from receptance.inference.loaded import Loaded, load
from receptance.inference.penalties import Counts, reference_uncounted
from receptance.inference.reading import Runtime, read
from receptance.inference.sampling import (
    Sampling,
    SamplingSettings,
    distribution,
    fresh_seed,
    log_probabilities,
    sample,
    uniform,
)
from receptance.inference.speculation import Speculation
from receptance.inference.verification import Difference, Verification, verify

__all__ = [
    "Counts",
    "Difference",
    "FinishReason",
    "History",
    "Loaded",
    "Piece",
    "Point",
    "Runtime",
    "Sampling",
    "SamplingSettings",
    "Speculation",
    "Verification",
    "distribution",
    "fresh_seed",
    "generate",
    "go_on",
    "load",
    "log_probabilities",
    "read",
    "reference_uncounted",
    "sample",
    "uniform",
    "verify",
]
