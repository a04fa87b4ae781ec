"""The training loop: batch, loss, gradients, step, log; now and then validation and a snapshot.

A run is a function of its recipe. Batches follow from the seed and the step, the learning rate from the
progress, so a run that was stopped and resumed gives the same losses as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from receptance import checkpoints, kernels
from receptance.data.description import TRAIN, VALIDATION
from receptance.data.windows import Batch
from receptance.errors import CheckpointError, TrainingError
from receptance.models import AnyModel
from receptance.training.config import Config
from receptance.training.corpus import Corpus
from receptance.training.metrics import MetricsLog, Record
from receptance.training.optimizer import MasterAdamW
from receptance.training.recipe import config_to_tables
from receptance.training.run_folder import RunFolder
from receptance.training.snapshot import Position, Snapshot
from receptance.training.timetable import Timetable

# What a step tells its watcher and not the log.
PASSING = ("share", "seconds_left", "validation")

# tokens, targets, lengths, weight of the max-logit penalty -> loss to differentiate, nats per token
Loss = Callable[[Tensor, Tensor, Tensor | None, float], tuple[Tensor, Tensor]]


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
    share: float  # of the whole run, from 0 to 1
    seconds_left: float
    validation: Validation | None  # where one followed this step

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


class Trainer:
    """A run at work: model, optimizer, corpus, folder, position and clock."""

    def __init__(
        self,
        config: Config,
        *,
        model: AnyModel,
        optimizer: MasterAdamW,
        corpus: Corpus,
        folder: RunFolder,
        position: Position,
        saved_step: int | None = None,
        validation: Validation | None = None,
    ) -> None:
        self.config = config
        self.model = model
        self.optimizer = optimizer
        self.corpus = corpus
        self.folder = folder
        self.position = position
        self.timetable = Timetable(config)
        self._saved_step = saved_step  # of the snapshot in the folder, if there is one
        self._validation = validation  # the last one, of whatever session
        self._start = position
        self._started = time.monotonic()
        self._share_at_start = self._share()

        def loss(
            tokens: Tensor, targets: Tensor, lengths: Tensor | None, max_logit_weight: float
        ) -> tuple[Tensor, Tensor]:
            hidden, _ = model.features(tokens, lengths=lengths)
            return kernels.linear_cross_entropy(hidden, model.head.weight, targets, max_logit_weight)

        self._eager_loss: Loss = loss
        self._loss: Loss = torch.compile(loss, dynamic=False) if config.training.compile else loss

    def run(self, report: Callable[[Progress], None], stop: Callable[[], bool]) -> Result:
        """Train to the end, or until `stop` says yes between two steps; then save.

        Raises TrainingError where the loss or a gradient is not finite, or the disk refuses; the last
        snapshot stays as it was.
        """
        training = self.config.training
        interrupted = False
        with MetricsLog(self.folder.metrics) as log:
            while self._share() < 1.0 and not interrupted:
                done = self._step(log)
                if self._is_due(training.validate_every):
                    done = replace(done, validation=self._validate(log))
                report(done)
                interrupted = stop()
                if self._is_due(training.save_every) and not interrupted:
                    self._save(log)
            interrupted = interrupted and self._share() < 1.0
            if not interrupted and (self._validation is None or self._validation.step < self.position.step):
                self._validate(log)
            if self._saved_step != self.position.step:
                self._save(log)
        return Result(
            folder=self.folder, **asdict(self.position), interrupted=interrupted, validation=self._validation
        )

    def _step(self, log: MetricsLog) -> Progress:
        """Take one optimizer step, and log it."""
        training, before = self.config.training, self.position
        began = time.monotonic()
        loss = self._gradients(before.step)
        tokens = self.timetable.tokens_after(before.step + 1)
        after = Position(step=before.step + 1, tokens=tokens, seconds=self._seconds())
        rate = self.timetable.learning_rate(before.step, after.seconds)
        try:
            norm = self.optimizer.step(rate, training.gradient_clip)
        except TrainingError as error:
            raise TrainingError(f"{self._place(after.step)}: {error}. {self._way_back()}") from error
        self.position = replace(after, seconds=self._seconds())
        done = Progress(
            step=after.step,
            tokens=after.tokens,
            seconds=self.position.seconds,
            loss=loss,
            bits_per_byte=self.corpus.bits_per_byte(loss, TRAIN),
            learning_rate=rate,
            gradient_norm=norm,
            tokens_per_second=(tokens - before.tokens) / max(time.monotonic() - began, 1e-9),
            share=self._share(),
            seconds_left=self._seconds_left(),
            validation=None,
        )
        if after.step % training.log_every == 0:
            with self._writing("metrics.jsonl"):
                log.append(done.record())
        return done

    def _gradients(self, step: int) -> float:
        """Collect the gradients of a step, and return its loss: nats per token over all that count."""
        stage = self.timetable.stage(step)
        windows = self.corpus.training[stage.context]
        batches = [
            batch
            for part in range(stage.accumulation)
            for batch in windows.samples(stage.sample(step, part), stage.batch_size)
        ]
        # Each token weighs the same, in whichever batch it lies.
        total = max(sum(batch.num_learnt for batch in batches), 1)
        losses = []
        for batch in batches:
            weight = batch.num_learnt / total
            loss, nats = self._loss(*self._on_device(batch), self.config.training.max_logit_weight)
            (loss * weight).backward()  # type: ignore[no-untyped-call]
            self.optimizer.collect()
            losses.append(nats.double() * weight)
        mean = float(torch.stack(losses).sum())
        if not math.isfinite(mean):
            raise TrainingError(f"{self._place(step + 1)}: the loss is {mean}. {self._way_back()}")
        return mean

    @torch.no_grad()
    def _validate(self, log: MetricsLog) -> Validation | None:
        """Measure the loss on the text that was held back, if there is any, and log it."""
        if self.corpus.validation is None:
            return None
        training = self.config.training
        total, count = 0.0, 0
        for batch in self.corpus.validation.sequential(training.batch_size, training.validation_tokens):
            _, nats = self._eager_loss(*self._on_device(batch), 0.0)
            total += float(nats) * batch.num_learnt
            count += batch.num_learnt
        if not count:
            return None
        loss = total / count
        if not math.isfinite(loss):
            raise TrainingError(
                f"{self._place(self.position.step)}: the validation loss is {loss}. {self._way_back()}"
            )
        found = Validation(
            step=self.position.step, loss=loss, bits_per_byte=self.corpus.bits_per_byte(loss, VALIDATION)
        )
        self.position = replace(self.position, seconds=self._seconds())
        with self._writing("metrics.jsonl"):
            log.append(
                {"kind": "validation", **asdict(found), "tokens": self.position.tokens}
                | {"seconds": round(self.position.seconds, 3)}
            )
        self._validation = found
        return found

    def _save(self, log: MetricsLog) -> None:
        """Write the checkpoint and the snapshot, each whole or not at all."""
        self.position = replace(self.position, seconds=self._seconds())
        snapshot = Snapshot(
            position=self.position,
            model={"generation": self.model.config.generation, **asdict(self.model.config)},
            data=self.corpus.identity(),
            recipe=config_to_tables(self.config),
            tensors=self.optimizer.state(),
        )
        origin = {"training_step": str(self.position.step), "training_tokens": str(self.position.tokens)}
        tokenizer = self.corpus.description.tokenizer
        with self._writing("the snapshot"):
            log.sync()
            # The checkpoint goes first because it refuses weights that are not finite.
            checkpoints.save(self.model, self.folder.checkpoint, tokenizer=tokenizer, metadata=origin)
            snapshot.save(self.folder.snapshot)
        self._saved_step = self.position.step

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Turn the disk's refusal, or that of bad weights, into an error that says what is still there."""
        try:
            yield
        except (OSError, CheckpointError) as error:
            raise TrainingError(
                f"{self._place(self.position.step)}: {what} could not be written: {error}. {self._way_back()}"
            ) from error

    def _place(self, step: int) -> str:
        return f"{self.folder.path}: step {step}"

    def _way_back(self) -> str:
        """Say how to go on after an error."""
        if self._saved_step is None:
            return "No snapshot was written yet, so the run must start again."
        return (
            f"The snapshot of step {self._saved_step} is whole. Go on from it by "
            f"`receptance train --resume {self.folder.path}`, with overrides such as "
            "--optimizer.learning_rate=… where they help."
        )

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        tokens, targets = (
            torch.from_numpy(part).to(self.model.device) for part in (batch.tokens, batch.targets)
        )
        return tokens, targets, None if batch.lengths is None else torch.from_numpy(batch.lengths)

    def _is_due(self, every: int) -> bool:
        return bool(every) and self.position.step % every == 0

    def _seconds(self) -> float:
        """Time spent on the run until now."""
        return self._start.seconds + time.monotonic() - self._started

    def _share(self) -> float:
        """How much of the run is done, from 0 to 1."""
        return self.timetable.progress(steps=self.position.step, seconds=self._seconds())

    def _seconds_left(self) -> float:
        """Estimate the time to the end from the pace of this session."""
        gained = self._share() - self._share_at_start
        return (
            (1 - self._share()) * (self._seconds() - self._start.seconds) / gained if gained > 0 else math.inf
        )
