"""What a claim is here: what the paper says, how it is measured at each scale, and when it holds.

Measuring gives data that JSON can hold. Judging and drawing are functions of that data alone, so report and
pictures can be made anew without measuring.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reproduction.notebook import Notebook, Settings

MEASURED = ("tiny", "cpu", "gpu")
SCALES = {
    "tiny": "all claims in 20 minutes on two cores",
    "cpu": "a night",
    "gpu": "one GPU for an hour",
    "paper": "what the paper did, as a plan with its cost",
}

Data = dict[str, Any]  # Any: what JSON holds


class NotAtHandError(Exception):
    """What a claim is measured with is not on this machine; the text says what."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that a claim says, and what was found."""

    states: str  # with the bound that decides: "no logit differs by more than 1e-5"
    paper: str  # the paper's figure; empty where it gives none
    ours: str
    holds: bool


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of the paper. The module of its name holds it as `CLAIM`."""

    name: str
    says: str
    where: str  # in the paper
    settings: Mapping[str, Settings]  # by scale
    measure: Callable[[Notebook, Settings], Data]
    judge: Callable[[Data], Sequence[Check]]
    draw: Callable[[Figure, Data], None]
    plan: Callable[[], str]  # the paper's scale, with what it costs
    notes: str = ""  # what to know when reading the figures
    is_timed: bool = False  # it measures time or memory of the machine, so nothing may run beside it
