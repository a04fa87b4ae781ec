"""Starting a run, or going on with one: everything is checked and put together before a step is spent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch

from receptance import checkpoints
from receptance.checkpoints.generations import GENERATIONS
from receptance.checkpoints.stored_model import empty_model
from receptance.errors import ConfigError, TrainingError
from receptance.models import AnyModel
from receptance.models import Config as ModelSizes
from receptance.training.activation_checkpointing import forget_activations
from receptance.training.carried import carried_of, without_carried
from receptance.training.config import NO_SIZES, Config, ModelConfig
from receptance.training.context_parallel import Relay, joined_relay
from receptance.training.corpus import Corpus, open_corpus
from receptance.training.distributed import ALONE, World
from receptance.training.fit import check_fits
from receptance.training.metrics import Record, Sink, last_step, read_metrics, rewind_metrics
from receptance.training.optimizer import MasterAdamW
from receptance.training.plot import plot_loss
from receptance.training.progress import Progress, Result, Validation
from receptance.training.recipe import config_from_tables, config_to_tables, load_config, save_config
from receptance.training.run_folder import RunFolder
from receptance.training.sharding import shard
from receptance.training.sinks import open_sinks
from receptance.training.snapshot import Position, Snapshot
from receptance.training.timetable import Timetable
from receptance.training.trainer import Trainer

logger = logging.getLogger(__name__)

# What decides which numbers a run has computed so far; it goes on with the same, or not at all.
FIXED = (
    "run.seed",
    *(f"model.{field.name}" for field in fields(ModelConfig)),
    "data.order",
    "data.reset_at_borders",
    "training.dtype",
)


def train(
    config: Config,
    *,
    resume: bool = False,
    world: World = ALONE,
    report: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train a model as the config says, and leave checkpoint, metrics and picture in the run's folder.

    `report` is called after every step that changed the weights. `stop` is asked after every step and while
    the validation loss is measured; when it says yes, the run is saved and can be resumed: with `resume` it
    goes on from its newest whole snapshot as if it had never stopped, also where it was killed (see
    `resume_config`). `signals.stop_on_signals` makes a `stop` that Ctrl-C sets.

    Several processes train together where each calls this with the same config and the `world` that
    `joined_world` gives it. They share the samples of a step, and the folder, in which the first alone
    writes. An error is raised in all of them, and one that is told to stop stops all.

    Raises ConfigError or DataError before the first step where recipe, model and text do not fit together,
    CheckpointError where a file is damaged, and TrainingError where the run cannot go on.
    """
    with ExitStack() as claims, joined_relay(world, config.distributed.context) as relay:
        trainer = world.in_turn(lambda: _ready(config, resume, relay, claims))
        return _trained(trainer, report, lambda: world.any(stop()))


def resume_config(folder: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Return the config of the run in a folder, to go on by `train(resume_config(folder), resume=True)`.

    Overrides may change what has no part in the past, such as `--training.max_steps=…`. Raises ConfigError as
    `load_config` does.
    """
    path = RunFolder(Path(folder)).config
    if not path.is_file():
        raise ConfigError(
            f"{folder} holds no run: there is no {path.name}. Start one by `receptance train RECIPE`."
        )
    return load_config(path, [*overrides, f"--run.folder={folder}"])


def _ready(config: Config, resume: bool, relay: Relay, claims: ExitStack) -> Trainer:
    """Return a run before its next step; the first process claims its folder as long as `claims` lasts."""
    folder, world = RunFolder(config.run.folder), relay.world
    resume = resume or (world.is_restarted and folder.config.is_file())
    if resume and not folder.config.is_file():
        raise TrainingError(f"{folder.path}: holds no run, so there is nothing to go on from.")
    if not resume and world.is_first:
        folder.refuse_if_used()
    Timetable(config).check_shares(relay.num_teams)
    corpus = opened_corpus(config)
    if resume:
        if world.is_first:
            claims.enter_context(folder.claimed())
        return _resumed(config, folder, corpus, relay)
    trainer = _started(config, folder, corpus, relay)
    if world.is_first:
        claims.enter_context(folder.claimed())
    return trainer


def _trained(trainer: Trainer, report: Callable[[Progress], None], stop: Callable[[], bool]) -> Result:
    """Train to the end, and draw what came of it."""
    folder = trainer.folder
    result = trainer.run(report, stop)
    if not trainer.world.is_first:
        return result
    runs = {folder.path.name: read_metrics(folder.metrics)}
    plot_loss(runs, folder.plot, title=_title(folder, trainer.model))
    return result


def _started(config: Config, folder: RunFolder, corpus: Corpus, relay: Relay, *, logged: int = 0) -> Trainer:
    """Return a run before its first step; the first process makes its folder.

    `logged` is the last step of which an earlier try has told.
    """
    sizes = checked_sizes(config.model, corpus)
    _check_fits(config, sizes, relay)
    if config.model.initial is None:
        model = _fresh_model(config, sizes)
    else:
        initial = checkpoints.load(config.model.initial, dtype=torch.float32)
        if initial.initial_state is not None:
            logger.warning(
                "%s carries a tuned state, which is left out: the run trains weights, and its texts "
                "start from nothing.",
                initial.path,
            )
        model = initial.model
    model = placed(model, config, relay.world)
    optimizer = MasterAdamW(model, config.optimizer, config.groups, relay.world)
    return Trainer(
        config,
        model=model,
        optimizer=optimizer,
        corpus=corpus,
        folder=folder,
        position=Position(),
        carried=carried_of(config, model),
        sinks=_founded(config, folder, corpus, logged) if relay.world.is_first else (),
        relay=relay,
    )


def _founded(config: Config, folder: RunFolder, corpus: Corpus, logged: int) -> tuple[Sink, ...]:
    """Make the folder of a run, with config and tokenizer in it, and return where its log goes besides."""
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        sinks = open_sinks(config, step=0, logged=logged)
        save_config(config, folder.config)
        corpus.copy_tokenizer(folder.path)
    except OSError as error:
        raise ConfigError(f"run.folder is {folder.path}, which cannot be written: {error}.") from error
    return sinks


def _resumed(config: Config, folder: RunFolder, corpus: Corpus, relay: Relay) -> Trainer:
    """Return a run as it was when its newest whole snapshot was taken, and forget what it did afterwards."""
    snapshot = folder.snapshots.newest()
    if snapshot is None:
        return _started_again(config, folder, corpus, relay)
    _check_same_run(config, corpus, snapshot, folder)
    named = dict(snapshot.model)
    sizes: ModelSizes = GENERATIONS[named.pop("generation")].config(**named)
    corpus.check_vocabulary(sizes.vocabulary_size)
    _check_fits(config, sizes, relay)
    model = placed(_without_numbers(sizes), config, relay.world)
    optimizer = MasterAdamW(model, config.optimizer, config.groups, relay.world)
    carried = carried_of(config, model)
    try:
        optimizer.load_state(without_carried(snapshot.tensors))
        if carried is not None:
            carried.load(snapshot.tensors)
    except TrainingError as error:
        raise TrainingError(f"{folder.snapshots.path(snapshot.position.step)}: {error}") from error
    step, logged = snapshot.position.step, last_step(folder.metrics)
    if relay.world.is_first:
        rewind_metrics(folder.metrics, step)
        save_config(config, folder.config)
    return Trainer(
        config,
        model=model,
        optimizer=optimizer,
        corpus=corpus,
        folder=folder,
        position=snapshot.position,
        saved_step=step,
        memory=snapshot.guard,
        carried=carried,
        validation=_last_validation(read_metrics(folder.metrics)),
        sinks=open_sinks(config, step=step, logged=logged) if relay.world.is_first else (),
        relay=relay,
    )


def _started_again(config: Config, folder: RunFolder, corpus: Corpus, relay: Relay) -> Trainer:
    """Return a run before its first step, once more, because it was ended before its first snapshot."""
    if folder.checkpoint.exists():  # which is written after a snapshot
        raise TrainingError(
            f"{folder.path}: its snapshots are gone, so there is nothing to go on from. A new run with "
            f"model.initial={folder.checkpoint} begins with its weights."
        )
    logged = last_step(folder.metrics) if relay.world.is_first else 0
    if relay.world.is_first:
        logger.warning("%s: the run ended before its first snapshot, so it starts again.", folder.path)
        rewind_metrics(folder.metrics, 0)
    return _started(config, folder, corpus, relay, logged=logged)


def opened_corpus(config: Config) -> Corpus:
    """Return the text of a run, in samples of every context that it reads; raises what `open_corpus` does."""
    timetable = Timetable(config)
    return open_corpus(
        config.data,
        config.run.seed,
        {stage.context for stage in timetable.stages},
        chunk=config.training.chunk,
        num_streams=timetable.stage(0).samples_per_step,
    )


def checked_sizes(config: ModelConfig, corpus: Corpus) -> ModelSizes:
    """Return the sizes of the model that a run begins with, which is not read yet.

    Raises ConfigError or DataError where its tokenizer or its vocabulary is not that of the text.
    """
    if config.initial is None:
        sizes = model_config(config, corpus.description.vocabulary_size)
    else:
        stored = checkpoints.open_model(config.initial)
        corpus.check_tokenizer(stored)
        sizes = stored.config
    corpus.check_vocabulary(sizes.vocabulary_size)
    return sizes


def on_paper(config: Config, sizes: ModelSizes) -> AnyModel:
    """Return the model of a run as it will be trained in one process, but without numbers."""
    return placed(empty_model(sizes), replace(config, run=replace(config.run, device="meta")), ALONE)


def _check_fits(config: Config, sizes: ModelSizes, relay: Relay) -> None:
    """Raise ConfigError where the run does not fit into memory; the first process says it for all."""
    if relay.world.is_first:
        check_fits(config, on_paper(config, sizes), relay)


def model_config(config: ModelConfig, vocabulary_size: int) -> ModelSizes:
    """Return the sizes of a fresh model: those of a recipe, and the vocabulary of the text where it has none.

    Raises ConfigError for a size that the generation does not have, or none that it can have.
    """
    given = {name: value for name, value in asdict(config).items() if value and name not in NO_SIZES}
    generation = GENERATIONS[config.generation]
    for name in given.keys() - {field.name for field in fields(generation.config)}:
        raise ConfigError(
            f"model.{name} is {given[name]!r}, but RWKV-{config.generation} has none. "
            "Leave the key out, or choose another model.generation."
        )
    return generation.config(**{"vocabulary_size": vocabulary_size, **given})


def _fresh_model(config: Config, sizes: ModelSizes) -> AnyModel:
    """Return a model of these sizes with the starting values that the seed decides."""
    model = _without_numbers(sizes)
    model.initialise(torch.Generator().manual_seed(config.run.seed))
    return model


def _without_numbers(sizes: ModelSizes) -> AnyModel:
    """Return a model whose values are yet to be filled in, on the CPU."""
    # A model that is made there would be initialised, which takes long.
    return empty_model(sizes).to_empty(device="cpu")


def placed(model: AnyModel, config: Config, world: World) -> AnyModel:
    """Put a float32 model onto the device of this process, ready to be trained as the recipe says.

    Raises ConfigError where torch cannot use the device.
    """
    model.drop(config.model.dropout).train()
    if config.training.activation_checkpointing:
        forget_activations(model)
    dtype = getattr(torch, config.training.dtype)
    try:
        device = world.device(config.run.device)
        if config.distributed.strategy == "fsdp" and world.size > 1:
            return shard(model, world, device, dtype)
        model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch says in many ways that a device is not there
        raise ConfigError(f"run.device is {config.run.device!r}, which torch cannot use: {error}") from error
    return model.cast_matrices(dtype)


def _check_same_run(config: Config, corpus: Corpus, snapshot: Snapshot, folder: RunFolder) -> None:
    """Raise ConfigError where the config would not go on with this run but with another."""
    if corpus.identity() != snapshot.data:
        raise ConfigError(
            f"{corpus.folder} holds {corpus.identity()}, but the run in {folder.path} was trained on "
            f"{dict(snapshot.data)}. Set --data.folder to that text, or start a new run."
        )
    _check_same_batches(config, snapshot, folder)
    wanted, had = config_to_tables(config), snapshot.recipe
    for key in FIXED:
        section, _, name = key.partition(".")
        now, before = wanted[section].get(name), had[section].get(name)
        if now != before:
            raise ConfigError(
                f"{key} is {now!r}, but the run in {folder.path} was trained with {before!r}, and going on "
                f"cannot change that. Start a new run; model.initial={folder.checkpoint} begins where this "
                "one ended."
            )


def _check_same_batches(config: Config, snapshot: Snapshot, folder: RunFolder) -> None:
    """Raise ConfigError where the steps until now would have read other samples."""
    before = config_from_tables(dict(snapshot.recipe), source=str(folder.snapshots.folder))
    if not Timetable(config).read_alike(Timetable(before), snapshot.position.step):
        raise ConfigError(
            "data.context, training.batch_size, training.accumulation or [[stages]] are not those with which "
            f"the run in {folder.path} took its first {snapshot.position.step:,} steps, and going on cannot "
            "change that. Change them from the next step on by a further [[stages]] in its config.toml."
        )


def _last_validation(records: Sequence[Record]) -> Validation | None:
    """Return the last validation of a log."""
    for record in reversed(records):
        if record["kind"] == "validation":
            return Validation(**{name: record[name] for name in ("step", "loss", "bits_per_byte")})
    return None


def _title(folder: RunFolder, model: AnyModel) -> str:
    """Return what is written over the picture of a run."""
    sizes = model.config
    return (
        f"{folder.path.name}: RWKV-{sizes.generation}, {sizes.num_layers} layers of {sizes.hidden_size}, "
        f"{model.num_parameters / 1e6:.1f} M parameters"
    )
