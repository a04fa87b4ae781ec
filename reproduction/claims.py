"""The claims in the order of the report.

A claim is a module of its name here with a `CLAIM`; it joins the others by its line in `NAMES`.
"""

from __future__ import annotations

from importlib import import_module

from reproduction.claim import Claim

NAMES = (
    "parallel_recurrent",
    "parameters_flops",
    "generation_cost",
    "complexity",
    "gradient_bounds",
    "scaling_law",
    "generations",
    "context_length",
    "small_embedding",
    "initialisation",
    "prompt_order",
    "long_range",
    "characters",
    "decay_spectra",
    "causal_tracing",
    "zero_shot",
)


def claim(name: str) -> Claim:
    """Return the claim of a name. Importing it is what takes time: torch comes with it."""
    found: Claim = import_module(f"reproduction.{name}").CLAIM
    return found
