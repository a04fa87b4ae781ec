"""The training loop: batch, loss, gradients, step, log; now and then validation and a snapshot.

A run is a function of its recipe. Batches follow from the seed and the step, the learning rate from the
progress, so a run that was stopped and resumed gives the same losses as one that was not. For the same reason
a step that the guard refuses is a step like the others, which leaves the weights as they were.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import islice

import torch
from torch import Tensor

from receptance import checkpoints
from receptance.checkpoints.stored_model import empty_model
from receptance.data.description import TRAIN, VALIDATION
from receptance.data.windows import Batch
from receptance.errors import CheckpointError, DivergenceError, TrainingError
from receptance.models import AnyModel
from receptance.training.carried import Carried, without_carried
from receptance.training.config import Config
from receptance.training.context_parallel import Relay
from receptance.training.corpus import Corpus
from receptance.training.cost import flops_per_token
from receptance.training.distributed import ALONE
from receptance.training.guard import Guard, Memory
from receptance.training.metrics import MetricsLog, Record, Sink
from receptance.training.optimizer import MasterAdamW
from receptance.training.progress import Progress, Result, Validation
from receptance.training.reading import Reader, evaluating
from receptance.training.recipe import config_to_tables
from receptance.training.run_folder import RunFolder
from receptance.training.samples import Sample, write_samples
from receptance.training.save_times import SaveTimes
from receptance.training.sharding import forget_reading, gathered, in_step, is_sharded
from receptance.training.snapshot import Position, Snapshot
from receptance.training.timetable import Timetable

logger = logging.getLogger(__name__)


class Trainer:
    """A run at work, in one process or several: model, optimizer, corpus, folder, position and clock."""

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
        memory: Memory | None = None,
        carried: Carried | None = None,
        validation: Validation | None = None,
        sinks: Sequence[Sink] = (),
        relay: Relay,
    ) -> None:
        self.config = config
        self.model = model
        self.optimizer = optimizer
        self.corpus = corpus
        self.folder = folder
        self.position = position
        self.timetable = Timetable(config)
        self.reader = Reader(model, config.training, relay.world, carried)
        self.carried = carried
        self.guard = Guard(config.guard, memory or Memory())
        self.sinks = sinks
        self.relay = relay
        self.world = relay.world
        self.is_sharded = is_sharded(model.head.weight)
        self._tokenizer = corpus.tokenizer() if config.samples.prompts and self.world.is_first else None
        self._flops_per_token = flops_per_token(model)
        self._saved_step = saved_step  # of the newest snapshot in the folder, if there is one
        self._validation = validation  # the last one, of whatever session
        self._start = position
        self._started = time.monotonic()
        self._share_at_start = self._share()
        training = config.training
        self._save_times = SaveTimes(every=training.save_every, share=training.save_share, now=self._started)

    def run(self, report: Callable[[Progress], None], stop: Callable[[], bool]) -> Result:
        """Train to the end, or until `stop` says yes between two steps or batches of a validation; then save.

        `stop` must say the same in every process. Raises DivergenceError where the guard stops the run, and
        TrainingError where the disk refuses; the last snapshot stays as it was.
        """
        every, samples_every = self.config.training.validate_every, self.config.samples.every
        with MetricsLog(self.folder.metrics if self.world.is_first else None, self.sinks) as log:
            interrupted = False
            if self.position.step and self._is_due(every):
                self._validate(log, stop)  # which may be what the session before had no time for
                interrupted = not self._is_measured() and stop()
            while self._share() < 1.0 and not interrupted:
                done = self._step(log)
                validation = self._validate(log, stop) if self._is_due(every) else None
                if done is not None:
                    is_due = self._is_due(samples_every) or self._share() >= 1.0
                    samples = self._write_samples(log) if is_due else ()
                    report(replace(done, validation=validation, samples=samples))
                interrupted = stop()
                can_save = self._save_times.is_due(self.position.step, time.monotonic())
                if not interrupted and self.world.first(can_save):
                    self._save(log)
            if self._share() >= 1.0:
                self._validate(log, stop)
                interrupted = not self._is_measured() and stop()
            if self._saved_step == self.position.step:
                self._write_checkpoint()  # whoever was killed after the snapshot has an older one
            else:
                self._save(log)
        return Result(
            folder=self.folder, **asdict(self.position), interrupted=interrupted, validation=self._validation
        )

    def _step(self, log: MetricsLog) -> Progress | None:
        """Take one optimizer step, and log it; return None where the guard has the run go on without it."""
        training, before = self.config.training, self.position
        began = time.monotonic()
        tokens = self.timetable.tokens_after(before.step + 1)
        after = Position(step=before.step + 1, tokens=tokens, seconds=self._seconds())
        rate = self.timetable.learning_rate(before.step, after.seconds)
        try:
            loss = self._gradients(before.step)
            self.guard.check(loss)
            norm = self.optimizer.step(rate, training.gradient_clip)
        except DivergenceError as error:
            self._go_on_without(after, error, log)
            return None
        self.guard.accept(loss)
        if self.carried is not None:
            self.carried.accept(self.world)
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
            flops=tokens * self._flops_per_token,
            share=self._share(),
            seconds_left=self._seconds_left(),
            validation=None,
        )
        if after.step % training.log_every == 0:
            with self._writing("metrics.jsonl"):
                log.append(done.record())
        return done

    def _gradients(self, step: int) -> float:
        """Collect the gradients of a step, and return its loss: nats per token over all that count.

        Raises DivergenceError where the loss, or the state after a batch, is not finite.
        """
        training, relay, world = self.config.training, self.relay, self.world
        stage = self.timetable.stage(step)
        windows = self.corpus.training[stage.context]
        shares = stage.batches(step, rank=relay.team, world_size=relay.num_teams)
        gradient = training.chunk_gradient if training.chunk else "full"
        batches = [
            relay.chunks(batch, training.chunk, gradient)
            for share in shares
            for batch in windows.samples(*share)
        ]
        # Each token weighs the same, in whichever batch and process it lies.
        learnt = sum(chunk.num_learnt for chunks in batches for chunk in relay.own(chunks))
        total = max(int(world.sum(learnt)[0]), 1)
        batches, losses = self._in_step(batches), []
        with world.together():
            for part, chunks in enumerate(batches):
                place = self.config.run.seed, step, part * relay.num_teams + relay.team
                for loss in relay.backward(self.reader, place, chunks, total, gradient):
                    self.optimizer.collect()
                    losses.append(loss)
            relay.finish()
        if world.size > 1:
            world.add_up(self.optimizer.gradients())
        return world.sum(float(torch.stack(losses).sum()))[0]

    def _in_step(self, batches: list[list[Batch]]) -> list[list[Batch]]:
        """Return batches in chunks; where processes can read a model only together, as many in each."""
        return in_step(batches, self.world) if self.is_sharded else batches

    def _go_on_without(self, after: Position, error: DivergenceError, log: MetricsLog) -> None:
        """Leave out a step that would have spoilt the weights, and log that.

        Raises DivergenceError where the guard does not allow it.
        """
        if self.is_sharded:
            forget_reading(self.model)
        self.optimizer.discard()
        if self.carried is not None:
            self.carried.discard()
        self.position = replace(after, seconds=self._seconds())
        record: Record = {"kind": "skip"}
        if not self.guard.may_skip():
            newest = self.folder.snapshots.newest
            snapshot = self.world.in_turn(newest) if self.config.guard.policy == "rollback" else None
            if snapshot is None or not self.guard.may_roll_back(snapshot.position.step):
                raise DivergenceError(f"{self._place(after.step)}: {error}. {self._way_back()}") from error
            self.optimizer.load_state(without_carried(snapshot.tensors))
            if self.carried is not None:
                self.carried.load(snapshot.tensors)
            record = {"kind": "rollback", "to_step": snapshot.position.step}
        record |= {"step": after.step, "tokens": after.tokens, "reason": str(error)}
        what = f"rolled back to step {record['to_step']}" if "to_step" in record else "skipped"
        logger.warning("%s: %s: %s.", self._place(after.step), what, error)
        with self._writing("metrics.jsonl"):
            log.append(record)

    def _is_measured(self) -> bool:
        """Say whether the loss on the text that was held back, if there is any, is known for this step."""
        known = self._validation is not None and self._validation.step == self.position.step
        return known or self.corpus.validation is None

    def _validate(self, log: MetricsLog, stop: Callable[[], bool]) -> Validation | None:
        """Measure the loss on the text that was held back, and log it.

        Return None where there is no such text, where it is measured already, or where the run was asked to
        stop meanwhile.
        """
        if self.corpus.validation is None or self._is_measured():
            return None
        training, world = self.config.training, self.world
        total, count = 0.0, 0.0
        batches = self.corpus.validation.sequential(training.batch_size, training.validation_tokens)
        while one_each := list(islice(batches, world.size)):
            if stop():
                return None
            own = one_each[world.rank :][:1]  # none where the text ends
            chunks = self._in_step([self.relay.chunks(batch, training.chunk, "full") for batch in own])
            total += sum(self.reader.measure(each) for each in chunks)
            count += sum(batch.num_learnt for batch in own)
        total, count = world.sum(total, count)
        if not count:
            return None
        loss = total / count
        if not math.isfinite(loss):
            raise DivergenceError(
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

    def _write_samples(self, log: MetricsLog) -> tuple[Sample, ...]:
        """Have the model write what the recipe asks for, and log it."""
        if not self.config.samples.prompts:
            return ()
        model = self._whole_model()
        if self._tokenizer is None:
            return ()
        with evaluating(model):
            samples = write_samples(model, self._tokenizer, self.config.samples, self.config.run.seed)
        place = {"kind": "sample", "step": self.position.step, "tokens": self.position.tokens}
        with self._writing("metrics.jsonl"):
            for sample in samples:
                log.append(place | asdict(sample))
        return samples

    def _save(self, log: MetricsLog) -> None:
        """Write the snapshot, remove those that need not stay, and write the checkpoint."""
        began = time.monotonic()
        self.position = replace(self.position, seconds=self._seconds())
        if self.world.is_first or self.is_sharded:
            self._write_snapshot(log)
        self._saved_step = self.position.step
        self._write_checkpoint()
        self._save_times.saved(began, time.monotonic())

    def _write_snapshot(self, log: MetricsLog) -> None:
        """Write the snapshot, and remove those that need not stay."""
        training = self.config.training
        whole, parts = self.optimizer.sharded_state()
        snapshot = Snapshot(
            position=self.position,
            model={"generation": self.model.config.generation, **asdict(self.model.config)},
            data=self.corpus.identity(),
            recipe=config_to_tables(self.config),
            tensors=whole | (self.carried.tensors() if self.carried else {}),
            parts=parts,
            guard=self.guard.memory,
        )
        with self._writing("the snapshot"):
            writers = self.world if self.is_sharded else ALONE
            with writers.together():
                if self.world.is_first:
                    log.sync()
            self.folder.snapshots.save(snapshot, writers)
        if not self.world.is_first:
            return
        with self._writing("the folder of snapshots"):
            self.folder.snapshots.prune(keep_last=training.keep_last, keep_every=training.keep_every)

    def _write_checkpoint(self) -> None:
        """Write the model to generate with, whole or not at all; beside it the one of averaged weights."""
        models = {self.folder.checkpoint: self._whole_model()}
        if self.optimizer.averages:
            models[self.folder.average] = self._whole_model(self.optimizer.averages)
        if not self.world.is_first:
            return
        origin = {"training_step": str(self.position.step), "training_tokens": str(self.position.tokens)}
        tokenizer = self.corpus.description.tokenizer
        for path, written in models.items():
            with self._writing(path.name):
                checkpoints.save(written, path, tokenizer=tokenizer, metadata=origin)

    def _whole_model(self, weights: Mapping[str, Tensor] | None = None) -> AnyModel:
        """Return the model, or one like it with other weights, for the first process to use alone.

        That of a sharded model lies on the CPU. All processes must call this, and the others may not use it.
        """
        if self.is_sharded:
            tensors = self.optimizer.masters if weights is None else weights
            weights = gathered(self.model, tensors, keep=self.world.is_first)
        if weights is None or not self.world.is_first:
            return self.model
        return with_weights(self.model, weights, getattr(torch, self.config.training.dtype))

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

    def _is_due(self, every: int) -> bool:
        return bool(every) and self.position.step % every == 0

    def _seconds(self) -> float:
        """Time spent on the run until now, by the first process's clock."""
        return self.world.first(self._start.seconds + time.monotonic() - self._started)

    def _share(self) -> float:
        """How much of the run is done, from 0 to 1."""
        return self.timetable.progress(steps=self.position.step, seconds=self.position.seconds)

    def _seconds_left(self) -> float:
        """Estimate the time to the end from the pace of this session."""
        gained = self._share() - self._share_at_start
        spent = self.position.seconds - self._start.seconds
        return (1 - self._share()) * spent / gained if gained > 0 else math.inf


def with_weights(model: AnyModel, weights: Mapping[str, Tensor], dtype: torch.dtype) -> AnyModel:
    """Return a model like this one with other weights, its matrices in this number format."""
    other = empty_model(model.config)
    other.load_state_dict({**model.state_dict(), **weights}, assign=True)
    return other.cast_matrices(dtype)
