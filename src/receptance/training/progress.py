"""What a run tells of itself: after each step, after each validation, and at its end."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from receptance.training.metrics import Record
from receptance.training.run_folder import RunFolder
from receptance.training.samples import Sample

# What a step tells its watcher and not the log.
PASSING = ("share", "seconds_left", "validation", "samples")


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The loss on the text that was held back."""

    step: int
    loss: float  # nats per token
    bits_per_byte: float


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What one step did, for whoever watches."""

    step: int  # steps done
    tokens: int  # read, over the whole run
    seconds: float  # spent, over all sessions of the run
    loss: float  # nats per token, without the max-logit penalty
    bits_per_byte: float
    learning_rate: float
    gradient_norm: float  # before clipping
    tokens_per_second: float  # of this step alone
    flops: int  # spent, over the whole run; see cost.flops_per_token
    share: float  # of the whole run, from 0 to 1
    seconds_left: float
    validation: Validation | None  # where one followed this step
    samples: tuple[Sample, ...] = ()  # what the model wrote after it

    def record(self) -> Record:
        """Return what the log of the run keeps of it."""
        values = {name: value for name, value in asdict(self).items() if name not in PASSING}
        clock = {name: round(values[name], 3) for name in ("seconds", "tokens_per_second")}
        return {"kind": "training", **values, **clock}


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a session of a run ended."""

    folder: RunFolder
    step: int
    tokens: int
    seconds: float  # over all sessions of the run
    interrupted: bool  # asked to stop before the end; `train(..., resume=True)` goes on
    validation: Validation | None  # the last one
