"""What a recipe can say: every key of its TOML file, with its type, its limits and its default.

A recipe is strict: an unknown key, a wrong type or a value out of bounds is an error that names the key.
Paths that are not absolute begin at the current folder, not at the recipe's.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=0, le=2**20)]  # of a model; with larger ones there are no numbers for bytes
Amount = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
# Keys of [model] that are no size of a fresh model.
NO_SIZES = ("initial", "generation", "dropout")

Beta = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunConfig:
    """`[run]`: where the run lives, and what it may use of the machine.

    `threads` and `tune_allocator` change the whole process, so the command line obeys them and
    `receptance.training.train` does not.
    """

    folder: Path
    seed: Count = 0
    threads: Count = 0  # 0: what torch thinks best
    device: str = "cpu"
    tune_allocator: bool = True  # see kernels.tune_allocator


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelConfig:
    """`[model]`: either the sizes of a fresh model, or the checkpoint to start from.

    A size of 0 is what is usual for the generation; one that the generation does not have is an error.
    """

    initial: str | Path | None = None  # a file or folder of any known format, or ORG/NAME on a hub
    generation: Literal["4", "5", "6", "7"] = "4"
    version: Literal["5.0", "5.1", "5.2"] | None = None  # of RWKV-5; None: 5.2
    num_layers: Annotated[int, Field(ge=0, le=2**12)] = 0
    hidden_size: Size = 0
    attention_size: Size = 0  # 0: hidden_size
    feed_forward_size: Size = 0
    vocabulary_size: Size = 0  # 0: that of the data's tokenizer
    head_size: Size = 0  # from RWKV-5
    mix_rank: Size = 0  # of RWKV-6
    decay_rank: Size = 0  # of RWKV-6 and 7, like the following of 7
    in_context_rank: Size = 0
    value_rank: Size = 0
    gate_rank: Size = 0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # see LanguageModel.drop; also beside initial

    @model_validator(mode="after")
    def _fresh_or_initial(self) -> ModelConfig:
        sizes = (field.name for field in fields(self) if field.name not in NO_SIZES)
        given = [name for name in sizes if getattr(self, name)]
        if self.initial is not None and given:
            raise ValueError(f"initial brings its own sizes, so {', '.join(given)} cannot be set beside it")
        if self.initial is None and not (self.num_layers and self.hidden_size):
            raise ValueError("num_layers and hidden_size are needed, or initial, a checkpoint to start from")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """`[data]`: the text, and how it is cut into samples.

    `folder` is what `receptance prepare` made, or the prefix of a `.bin/.idx` store of RWKV-LM; such a store
    needs `tokenizer`, and may have `validation`, a second store that is held back.
    """

    folder: Path
    context: Positive  # tokens of a sample
    tokenizer: str = ""  # of a store: its name, or its vocabulary file
    validation: Path | None = None
    # "prime-stride" is RWKV-LM's; "sequential" reads on where the step before ended, with the state that it
    # left, and with the gradient of the step alone (see data/order.py and training/carried.py)
    order: Literal["shuffled", "prime-stride", "sequential"] = "shuffled"
    reset_at_borders: bool = False  # read each document from an empty state, not from that of the one before


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainingConfig:
    """`[training]`: how much is computed, in which numbers, and what is kept of it.

    A step reads `batch_size * accumulation` samples. The run ends at the first of the bounds it was given,
    its `[[stages]]` among them.
    With `max_minutes` the learning rate depends on the clock, so such a run cannot be repeated exactly.
    """

    batch_size: Positive  # samples in memory at a time
    accumulation: Positive = 1  # batches whose gradients are summed for one step
    chunk: Count = 0  # tokens of a sample in memory at a time, so that its context may be any; 0: all of them
    chunk_gradient: Literal["full", "truncated"] = "full"  # see training/chunks.py
    activation_checkpointing: bool = False  # less memory, a third more arithmetic, the same numbers
    max_steps: Count = 0  # 0: no such bound
    max_tokens: Count = 0
    max_minutes: Amount = 0.0
    dtype: Literal["bfloat16", "float32"] = "bfloat16"  # of the matrices; what is summed stays float32
    compile: bool = False  # torch.compile: faster steps after a minute or so
    max_logit_weight: Amount = 0.0  # see kernels.linear_cross_entropy; the published trainers use 1e-4
    z_loss_weight: Amount = 0.0  # see kernels.linear_cross_entropy
    gradient_clip: Amount = 1.0  # largest norm of the whole gradient; 0: no limit
    validate_every: Count = 500  # steps; 0: at the end alone
    validation_tokens: Positive = 100_000
    save_every: Count = 1000  # steps; 0: no such rhythm
    save_share: Annotated[float, Field(ge=0, lt=1)] = 0.01  # of the time, for more snapshots; 0: none
    keep_last: Positive = 2  # snapshots, so that one is left where the newest is damaged
    keep_every: Count = 0  # steps; their snapshots stay for good; 0: none do
    log_every: Positive = 1  # steps


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimizerConfig:
    """`[optimizer]`: AdamW, and a learning rate that warms up, stays, then falls.

    After `plateau`, a share of the run, it falls from `learning_rate` to `final_learning_rate`:
    `exponential` as for the published RWKV-4, `cosine` as for RWKV-5 to 7, `linear`, or `square_root`
    (1 - sqrt, arxiv.org/abs/2405.18392), which with a long plateau is warm-up, stable, decay. While it warms
    up it does not fall. The defaults are those of RWKV-4 (arxiv.org/abs/2305.13048, appendix G).
    """

    learning_rate: Amount
    final_learning_rate: Amount
    schedule: Literal["exponential", "cosine", "linear", "square_root"] = "exponential"
    plateau: Share = 0.0  # share of the run before the learning rate begins to fall
    warm_up_steps: Count = 0
    warm_up_tokens: Count = 0  # instead of steps
    warm_up_start: Share = 0.2  # share of the learning rate with which the first step is taken
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Amount = 0.0  # on `.weight` matrices alone; see [[groups]] for others
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of a running mean of the weights; 0: none is kept

    @model_validator(mode="after")
    def _one_warm_up(self) -> OptimizerConfig:
        if self.warm_up_steps and self.warm_up_tokens:
            raise ValueError("warm_up_steps and warm_up_tokens are both set: choose one")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GroupConfig:
    """`[[groups]]`: parameters that learn otherwise than the rest; the first group that fits counts.

    Recipes name those of the published trainers; without any `[[groups]]`, these hold for all generations.
    """

    parameters: str  # a pattern over whole names, such as "*.time_decay" or "blocks.0.*"
    multiplier: Amount = 1.0  # times the learning rate
    weight_decay: Amount | None = None  # None: as without the group


# The trainers of RWKV-LM learn decays twice and bonuses three times as fast as the rest.
PUBLISHED_GROUPS = (
    GroupConfig(parameters="*.att.time_decay", multiplier=2.0),
    GroupConfig(parameters="*.att.w0", multiplier=2.0),
    GroupConfig(parameters="*.att.time_first", multiplier=3.0),
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StageConfig:
    """`[[stages]]`: parts of a run, one after the other: longer contexts, larger batches.

    A stage lasts for `max_steps` or `max_tokens`; what it leaves out is as in the other sections. With
    `learning_rate`, `final_learning_rate` or `plateau` it has a schedule of its own, over the stage alone:
    that of `[optimizer]` with these keys changed. The others share the run's.
    """

    max_steps: Count = 0
    max_tokens: Count = 0
    context: Count = 0
    batch_size: Count = 0
    accumulation: Count = 0
    learning_rate: Amount | None = None
    final_learning_rate: Amount | None = None
    plateau: Share | None = None

    @model_validator(mode="after")
    def _bounded(self) -> StageConfig:
        if bool(self.max_steps) == bool(self.max_tokens):
            raise ValueError("a stage needs an end: either max_steps or max_tokens")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GuardConfig:
    """`[guard]`: what to do at a step that would spoil the weights.

    That is a step whose loss, state or gradient is not finite, or whose loss is a spike. The weights stay as
    they are, and then the run ends (`stop`), goes on with the next step (`skip`), or, where the steps that it
    may skip in a row are used up, takes the weights of the newest snapshot and goes on from there with the
    next step (`rollback`); where that does not help either, it ends.
    """

    policy: Literal["stop", "skip", "rollback"] = "stop"
    skips: Count = 3  # steps in a row; not with "stop"
    spike: Amount = 0.0  # deviations of the latest losses by which a loss is a spike; 0: none is


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DistributedConfig:
    """`[distributed]`: how several processes share the work; it changes no number but by rounding.

    With `ddp` each has the whole model and optimizer; with `fsdp` each keeps its rows of all matrices and of
    what the optimizer sums up for them (see training/sharding.py).
    Their number divided by `context` is that of the groups among which the samples of a step are parted.
    """

    strategy: Literal["ddp", "fsdp"] = "ddp"
    context: Positive = 1  # processes that share each sample, see training/context_parallel.py


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SamplesConfig:
    """`[samples]`: texts that the model writes now and then, to the log and the terminal."""

    prompts: tuple[str, ...] = ()  # an empty prompt begins a new document
    every: Count = 0  # steps; 0: at the end alone
    max_tokens: Positive = 100
    temperature: Amount = 1.0
    top_p: Share = 0.85


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrackingConfig:
    """`[tracking]`: where the log goes besides metrics.jsonl; each needs the extra of its name."""

    tensorboard: bool = False  # event files in the run's folder
    wandb: Literal["off", "offline", "online"] = "off"  # offline: in the run's folder, for `wandb sync`
    project: str = "receptance"  # of Weights & Biases


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """A whole recipe, every default filled in."""

    run: RunConfig
    model: ModelConfig
    data: DataConfig
    training: TrainingConfig
    optimizer: OptimizerConfig
    guard: GuardConfig = GuardConfig()
    groups: tuple[GroupConfig, ...] = PUBLISHED_GROUPS
    stages: tuple[StageConfig, ...] = ()
    distributed: DistributedConfig = DistributedConfig()
    samples: SamplesConfig = SamplesConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _bounded(self) -> Config:
        training = self.training
        if not (self.stages or training.max_steps or training.max_tokens or training.max_minutes):
            raise ValueError("[training]: the run would never end: set max_steps, max_tokens or max_minutes")
        return self

    @model_validator(mode="after")
    def _shapes_are_fixed(self) -> Config:
        if self.training.compile and self.data.reset_at_borders:
            raise ValueError(
                "[training]: compile needs batches of one shape, which data.reset_at_borders does not give"
            )
        return self

    @model_validator(mode="after")
    def _each_step_goes_on_with_the_same_texts(self) -> Config:
        if self.data.order != "sequential":
            return self
        if any(stage.context or stage.batch_size or stage.accumulation for stage in self.stages):
            raise ValueError(
                '[data]: order = "sequential" carries a state for each sample of a step to the next, so '
                "[[stages]] cannot change context, batch_size or accumulation"
            )
        if self.distributed.context > 1:
            raise ValueError(
                '[data]: order = "sequential" carries the state within a process, but distributed.context '
                "parts a sample among several: leave out one of the two"
            )
        return self

    @model_validator(mode="after")
    def _layers_are_apart(self) -> Config:
        if self.training.compile and self.distributed.context > 1:
            raise ValueError(
                "[distributed]: context hands states on between the layers, but training.compile makes one "
                "of them all: leave out one of the two"
            )
        return self

    @model_validator(mode="after")
    def _sharded_alone(self) -> Config:
        if self.distributed.strategy == "fsdp" and (self.training.compile or self.distributed.context > 1):
            raise ValueError(
                '[distributed]: strategy = "fsdp" goes neither with training.compile nor with context: leave '
                'those out, or take strategy = "ddp"'
            )
        return self

    @model_validator(mode="after")
    def _dropout_can_be_repeated(self) -> Config:
        training = self.training
        full = training.chunk and training.chunk_gradient == "full"
        if training.compile and full and self.model.dropout:
            raise ValueError(
                "[training]: with compile, a chunk that is read again would drop out other values than the "
                'first time: set chunk_gradient = "truncated", or leave out compile or model.dropout'
            )
        return self
