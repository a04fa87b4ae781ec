"""What a run does at which step: its stages, each with a context, a batch size and a learning rate."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, replace

from receptance.errors import ConfigError
from receptance.training.config import Config, OptimizerConfig, StageConfig, TrainingConfig
from receptance.training.schedule import learning_rate, progress


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a run in which every step reads as much as the others."""

    first_step: int
    tokens_before: int  # read in the stages before
    samples_before: int  # read in those of the same context
    num_steps: int | None  # None: to the end of the run, wherever that is
    context: int
    batch_size: int
    accumulation: int
    schedule: OptimizerConfig | None  # None: the run's

    @property
    def samples_per_step(self) -> int:
        """Samples that one step reads, in all its batches."""
        return self.batch_size * self.accumulation

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one step reads."""
        return self.samples_per_step * self.context

    def tokens_after(self, steps: int) -> int:
        """Return the tokens that the run has read after so many of its steps, the last of them in here."""
        return self.tokens_before + (steps - self.first_step) * self.tokens_per_step

    def sample(self, step: int) -> int:
        """Return the first sample of a step: of this context, counted from 0 over the run."""
        return self.samples_before + (step - self.first_step) * self.samples_per_step

    def batches(self, step: int, *, rank: int, world_size: int) -> Iterator[tuple[int, int]]:
        """Yield the batches of a step that one of several processes reads: first sample, number of samples.

        One after the other, the processes read the samples of the step, each as many as another or one more.
        """
        begin, end = (self.samples_per_step * share // world_size for share in (rank, rank + 1))
        for first in range(begin, end, self.batch_size):
            yield self.sample(step) + first, min(self.batch_size, end - first)


class Timetable:
    """The stages of a run and its learning rate, all as functions of the step; made of a recipe alone."""

    def __init__(self, config: Config) -> None:
        self.stages = tuple(_stages(config))
        self._starts = [stage.first_step for stage in self.stages]
        self._optimizer = config.optimizer
        self._bounds = self._with_stages(config.training)
        self._warm_up_steps = config.optimizer.warm_up_steps or self._steps_for(
            config.optimizer.warm_up_tokens
        )
        self._warm_up_tokens = self.tokens_after(self._warm_up_steps)

    @property
    def num_steps(self) -> int | None:
        """The steps of the whole run; None where the clock alone ends it."""
        bounds = self._bounds
        ends = [bounds.max_steps, self._steps_for(bounds.max_tokens) if bounds.max_tokens else 0]
        return min((end for end in ends if end), default=None)

    def stage(self, step: int) -> Stage:
        """Return the stage of a step, which is counted from 0; after the last one's end that is the last."""
        return self.stages[bisect.bisect_right(self._starts, step) - 1]

    def tokens_after(self, steps: int) -> int:
        """Return the tokens read in the first steps of the run."""
        return self.stage(max(steps - 1, 0)).tokens_after(steps)

    def progress(self, *, steps: int, seconds: float) -> float:
        """Return how much of the run so many steps are, from 0 to 1; seconds count where it is so bounded."""
        return progress(self._bounds, steps=steps, tokens=self.tokens_after(steps), seconds=seconds)

    def check_shares(self, num_shares: int) -> None:
        """Raise ConfigError where a step has fewer samples than it is to be parted into shares."""
        for stage in self.stages:
            if stage.samples_per_step < num_shares:
                raise ConfigError(
                    f"training.batch_size {stage.batch_size} × training.accumulation {stage.accumulation} is "
                    f"{stage.samples_per_step} samples a step, but {num_shares} processes share them, and "
                    "each needs one. Raise accumulation, start fewer processes, or have them share each "
                    "sample too by distributed.context."
                )

    def read_alike(self, other: Timetable, steps: int) -> bool:
        """Say whether the first steps of two runs read samples of the same context in the same batches."""
        begun = {step for step in (*self._starts, *other._starts) if step < steps}
        return all(_batches(self.stage(step)) == _batches(other.stage(step)) for step in begun)

    def learning_rate(self, step: int, seconds: float) -> float:
        """Return the learning rate of a step, counted from 0, for which the clock shows so many seconds."""
        stage, warm_up = self.stage(step), 1.0
        if step < self._warm_up_steps:
            warm_up = step / self._warm_up_steps
        # RWKV-LM reads its cosine where a step begins, and its exponential fall where it ends.
        place = step if self._optimizer.schedule == "cosine" else step + 1
        if stage.schedule is None or stage.num_steps is None:
            config, share = self._optimizer, self.progress(steps=place, seconds=seconds)
            rising = self.progress(steps=self._warm_up_steps, seconds=0.0)
        else:
            config, share = stage.schedule, (place - stage.first_step) / stage.num_steps
            rising = max(self._warm_up_steps - stage.first_step, 0) / stage.num_steps
        if rising > config.plateau:
            config = replace(config, plateau=min(rising, 1.0))
        return learning_rate(config, progress=share, warm_up=warm_up)

    def _steps_for(self, tokens: int) -> int:
        """Return how many steps it takes to read so many tokens."""
        for stage in self.stages:
            steps = stage.first_step + -(-(tokens - stage.tokens_before) // stage.tokens_per_step)
            if stage.num_steps is None or steps <= stage.first_step + stage.num_steps:
                break
        return steps

    def _with_stages(self, bounds: TrainingConfig) -> TrainingConfig:
        """Return the bounds of the run, the end of its last stage among them."""
        last = self.stages[-1]
        if last.num_steps is None:
            return bounds
        tokens = last.tokens_after(last.first_step + last.num_steps)
        return replace(bounds, max_tokens=min(tokens, bounds.max_tokens or tokens))


def _batches(stage: Stage) -> tuple[int, int, int]:
    return stage.context, stage.batch_size, stage.accumulation


def _stages(config: Config) -> Iterator[Stage]:
    """Yield the stages of a recipe with everything filled in: one without an end where it has none."""
    steps = tokens = 0
    samples: dict[int, int] = {}  # read of each context
    whole = Stage(
        first_step=0,
        tokens_before=0,
        samples_before=0,
        num_steps=None,
        context=config.data.context,
        batch_size=config.training.batch_size,
        accumulation=config.training.accumulation,
        schedule=None,
    )
    if not config.stages:
        yield whole
    for part in config.stages:
        context = part.context or whole.context
        stage = replace(
            whole,
            first_step=steps,
            tokens_before=tokens,
            samples_before=samples.get(context, 0),
            context=context,
            batch_size=part.batch_size or whole.batch_size,
            accumulation=part.accumulation or whole.accumulation,
            schedule=_own_schedule(part, config.optimizer),
        )
        num_steps = part.max_steps or -(-part.max_tokens // stage.tokens_per_step)
        steps += num_steps
        tokens, samples[context] = stage.tokens_after(steps), stage.sample(steps)
        yield replace(stage, num_steps=num_steps)


def _own_schedule(part: StageConfig, optimizer: OptimizerConfig) -> OptimizerConfig | None:
    """Return the schedule of a stage, if it has one of its own."""
    keys = ("learning_rate", "final_learning_rate", "plateau")
    own = {key: getattr(part, key) for key in keys if getattr(part, key) is not None}
    return replace(optimizer, **own) if own else None
