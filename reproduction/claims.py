"""The claims in the order of the report, and those that are still to be written.

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
)

UNWRITTEN = {
    "scaling_law": "loss falls as a power of the compute (section 4.2, figure 4), beside a GPT of equal size",
    "generations": "RWKV-4, 5, 6 and 7 on an equal budget",
    "context_length": "loss falls with the position, and further as the context is extended (figure 6)",
    "small_embedding": "a small embedding with a norm learns faster (figure 9)",
    "initialisation": "starting matrices of zeros and orthogonal ones learn faster (appendix E)",
    "gradient_bounds": "gradients are bounded whatever the length (appendix H)",
    "prompt_order": "a question is better asked before the data than after (appendix L)",
    "long_range": "long-range tasks, beside a transformer and an LSTM (table 4)",
    "characters": "character modelling in bits a byte (table 5)",
}


def claim(name: str) -> Claim:
    """Return the claim of a name. Importing it is what takes time: torch comes with it."""
    found: Claim = import_module(f"reproduction.{name}").CLAIM
    return found
