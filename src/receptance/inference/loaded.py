"""A model and its tokenizer as one thing that reads and writes text: what `receptance.load` returns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Unpack, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from receptance import checkpoints
from receptance.checkpoints import Tuning
from receptance.checkpoints.load import require_float
from receptance.checkpoints.stored_model import StoredModel
from receptance.checkpoints.tuning import tuned_state
from receptance.errors import ConfigError, TokenizerError
from receptance.inference import history_file
from receptance.inference.drafts import DraftModel, PromptLookup
from receptance.inference.generate import Piece, go_on
from receptance.inference.history import History
from receptance.inference.reading import require_known
from receptance.inference.runtime import IntegerFormat, RuntimeName, choose_runtime
from receptance.inference.sampling import Sampling, SamplingSettings, fresh_seed
from receptance.inference.speculation import Speculation
from receptance.models import AnyModel, Config, State
from receptance.runtimes import NativeModel
from receptance.tokenizers import Tokenizer, find_tokenizer, load_tokenizer


def load(
    path: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype | IntegerFormat | None = None,
    device: str | torch.device = "cpu",
    runtime: RuntimeName = "torch",
    tokenizer: str | Path | Tokenizer | None = None,
    state: str | Path | None = None,
    lora: str | Path | None = None,
    lora_alpha: float | None = None,
    pissa_init: str | Path | None = None,
    **config_overrides: int | float,
) -> Loaded:
    """Load a checkpoint for inference: a file of any known format, a Hugging Face folder or a run folder.

    A string that is no path here may be a name on a hub, ORG/NAME, ORG/NAME@REVISION or ORG/NAME/FILE, and is
    fetched into the cache of `huggingface_hub`; HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE count.

    revision          branch, tag or commit of a model on a hub
    dtype             number format of the matrices; None keeps that of the file; "int8" and "int4" are those
                      of the native runtime
    runtime           "torch" runs the torch module; "native" packs the weights and runs them several times as
                      fast on a CPU; "auto" is native wherever that can serve
    tokenizer         a vocabulary file, a name or a tokenizer; None finds what belongs to the checkpoint
    state             a file with a tuned state that texts start from; None takes what the model carries,
                      "zero" nothing
    lora              an adapter that is merged into the weights: LoRA, PiSSA or MiSS (DiSHA)
    lora_alpha        the alpha of the LoRA, where its file does not say it
    pissa_init        where a PiSSA adapter began: `init_pissa.pth` of its training
    config_overrides  fields of the config to set otherwise than the file does, such as layer_norm_epsilon

    Raises CheckpointError when the weights cannot be loaded, ConfigError when an argument cannot be obeyed,
    and TokenizerError when the tokenizer that was asked for cannot be loaded or has more ids than the model.
    Where none was asked for and none is found, only what needs text raises.
    """
    if isinstance(tokenizer, (str, Path)):
        tokenizer = load_tokenizer(tokenizer)
    tuning = Tuning(state=state, lora=lora, lora_alpha=lora_alpha, pissa_init=pissa_init)
    integers = dtype if isinstance(dtype, str) else None
    if integers not in (None, *get_args(IntegerFormat)):
        raise ConfigError(f"dtype is {dtype!r}, but it must be a dtype of torch, 'int8' or 'int4'.")
    in_torch = None if isinstance(dtype, str) else dtype
    require_float(in_torch)
    stored = checkpoints.open_model(path, revision=revision, **config_overrides)
    # What an adapter changes is rounded to integers once, from float32.
    stored = tuning.applied(stored, torch.float32 if integers else in_torch or stored.dtype)
    stored = stored.cast(in_torch) if in_torch else stored
    rows = stored.config.vocabulary_size
    if tokenizer is not None and tokenizer.vocabulary_size > rows:
        raise TokenizerError(
            f"{path}: the model has {rows:,} rows, but the tokenizer {tokenizer.name} needs "
            f"{tokenizer.vocabulary_size:,}: it belongs to another model."
        )
    return Loaded(stored, choose_runtime(stored, runtime, integers, device), tokenizer)


class Loaded:
    """A model with its tokenizer, ready to read and write.

    Call it with tokens for logits, or let it `generate` or `stream` text. Nothing here records gradients: to
    train, use `.model`, an ordinary torch module.
    """

    def __init__(
        self, checkpoint: StoredModel, runtime: AnyModel | NativeModel, tokenizer: Tokenizer | None = None
    ) -> None:
        self.checkpoint = checkpoint  # what was loaded, and from where
        self.runtime = runtime
        self._tokenizer = tokenizer
        zero: Any = runtime.initial_state(1)  # Any: that of its generation
        tuned = checkpoint.tuned_state
        self.tuned_state = tuned_state.as_state(tuned, checkpoint.config, zero) if tuned else None

    def __repr__(self) -> str:
        """Say which model this is, how large, and from where."""
        config, runtime = self.config, self.runtime
        is_native = isinstance(runtime, NativeModel)
        dtype = f"{runtime.format} in the native runtime" if is_native else str(runtime.dtype)
        return (
            f"<RWKV-{config.generation} with {self.checkpoint.num_parameters:,} parameters: "
            f"{config.num_layers} layers of {config.hidden_size}, vocabulary {config.vocabulary_size}, "
            f"{dtype.removeprefix('torch.')} on {runtime.device}, from {self.checkpoint.path}>"
        )

    @cached_property
    def model(self) -> AnyModel:
        """The torch module; beside the native runtime it is loaded when it is first asked for."""
        if isinstance(self.runtime, NativeModel):
            return checkpoints.module(self.checkpoint)
        return self.runtime

    @property
    def config(self) -> Config:
        """The sizes of the model."""
        return self.checkpoint.config

    @property
    def tokenizer(self) -> Tokenizer:
        """What turns text into token ids; raises TokenizerError, saying where it looked, if there is none."""
        if self._tokenizer is None:
            checkpoint = self.checkpoint
            self._tokenizer = find_tokenizer(
                checkpoint.path, checkpoint.tokenizer, self.config.vocabulary_size
            )
        return self._tokenizer

    def initial_state(self, batch: int = 1) -> State:
        """Return the state before the first token of a batch of texts: the tuned one, or nothing seen."""
        if self.tuned_state is None:
            state: State = self.runtime.initial_state(batch)
            return state
        return self.tuned_state.map(lambda tensor: tensor.repeat_interleave(batch, dim=1))

    def history(self, state: State | None = None) -> History:
        """Return an empty text, which `generate` and its like go on with; it begins from `initial_state`.

        state  what the text begins from instead, a batch of one
        """
        return History(self.runtime, self.tuned_state if state is None else state)

    def save_history(self, history: History, path: str | Path) -> None:
        """Write a text, its state and its kept points to a file; see `inference.history_file`.

        Raises ConfigError when the history is of another model, OSError where the file cannot be written.
        """
        history_file.write(Path(path), self._own(history), self.runtime)

    def load_history(self, path: str | Path) -> History:
        """Return a text that was saved; it goes on to the bit as if it had never stopped.

        Raises CheckpointError when the file is damaged, or was saved by another model, in another number
        format or in another runtime.
        """
        return history_file.read(Path(path), self.runtime)

    @torch.inference_mode()
    def __call__(
        self,
        tokens: Int[Tensor, "batch time"],
        state: State | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, "batch time vocabulary"], State]:
        """Read a span of tokens; `logits[:, t]` scores the token that follows `tokens[:, t]`.

        Without a state the texts begin here, from `initial_state`. The state that comes back has read the
        tokens too; the one handed in is not changed, so it may be used again. Any split of a text gives the
        same logits.

        With lengths, only the first `lengths[b]` tokens of row b are read, 0 to all of them. Its logits and
        its state are those of the row alone; the logits at what follows are zero.

        Raises ConfigError when tokens are not an integer tensor `[batch, time]` of ids of the model, or
        lengths not integers `[batch]` from 0 to time.
        """
        if tokens.ndim != 2 or tokens.is_floating_point() or tokens.shape[1] == 0:
            raise ConfigError(
                f"tokens are {tokens.dtype} of shape {tuple(tokens.shape)}, but they must be integers of "
                "shape [batch, time], time at least 1: torch.tensor([lm.tokenizer.encode(text)])."
            )
        require_known(tokens, self.config.vocabulary_size)
        if state is None and self.tuned_state is not None:
            state = self.initial_state(len(tokens))
        logits, state = self.runtime(tokens.to(self.runtime.device), state, lengths)
        return logits, state

    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int = 100,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        history: History | None = None,
        speculate: Speculate | None = None,
        **settings: Unpack[SamplingSettings],
    ) -> str:
        """Return the text that continues the prompt, without the prompt.

        max_tokens  the text ends after so many tokens, if it has not ended before
        seed        makes the text repeatable; None draws a fresh one
        stop        strings that end the text, which leaves them out
        history     a text that goes on with the prompt, and grows by it and by what is written
        speculate   writes the same text faster where it can: "lookup" guesses what the text said before, a
                    smaller model what that would write; see `speculation`
        settings    how tokens are drawn, as `Sampling` has them: temperature (1), top_p (0.85), top_k, min_p,
                    typical_p, temperature_first, presence_penalty, frequency_penalty, penalty_decay (0.996),
                    uncounted, logit_bias, ban

        An empty prompt starts a document, or goes on where the history ends. Raises ConfigError when a
        setting is out of range, TokenizerError when there is no tokenizer.
        """
        return "".join(
            self.stream(
                prompt,
                max_tokens=max_tokens,
                seed=seed,
                stop=stop,
                history=history,
                speculate=speculate,
                **settings,
            )
        )

    def stream(
        self,
        prompt: str,
        *,
        max_tokens: int = 100,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        history: History | None = None,
        speculate: Speculate | None = None,
        **settings: Unpack[SamplingSettings],
    ) -> Iterator[str]:
        """Yield what `generate` returns, piece by piece, as soon as it is certain; never half a character."""
        sampling = _sampling(seed, settings)
        pieces = self.pieces(
            prompt,
            max_tokens=max_tokens,
            sampling=sampling,
            stop=stop,
            history=history,
            speculate=speculate,
        )
        return (piece.text for piece in pieces if piece.text)

    def pieces(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int = 100,
        sampling: Sampling | None = None,
        stop: str | Sequence[str] = (),
        history: History | None = None,
        logprobs: int | None = None,
        speculate: Speculate | None = None,
    ) -> Iterator[Piece]:
        """Yield each token with its text, and at last the reason for the end; see `inference.go_on`."""
        tokens = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        return go_on(
            self.history() if history is None else self._own(history),
            self.tokenizer,
            tokens,
            max_tokens=max_tokens,
            sampling=sampling or Sampling(),
            stop=stop,
            logprobs=logprobs,
            speculation=None if speculate is None else self.speculation(speculate),
        )

    def speculation(self, speculate: Speculate = "lookup") -> Speculation:
        """Return what `speculate` asks for, as an object that counts its guesses and those that were right.

        The text, its history and log-probabilities are to the bit those of writing without. It needs the
        native runtime; a smaller model may be in any. Raises ConfigError for another word than "lookup", and
        TokenizerError for a model whose tokenizer is another.
        """
        if isinstance(speculate, Speculation):
            return speculate
        if isinstance(speculate, Loaded):
            self.tokenizer.require_same(speculate.tokenizer)
            return Speculation(DraftModel(speculate.history, self.tokenizer.vocabulary_size))
        if speculate != "lookup":
            raise ConfigError(f"speculate is {speculate!r}, but it must be 'lookup' or a loaded model.")
        return Speculation(PromptLookup())

    def _own(self, history: History) -> History:
        if history.model is not self.runtime:
            raise ConfigError(
                "The history is of another model than this one: use the one that it was made by."
            )
        return history


Speculate = Literal["lookup"] | Loaded | Speculation


def _sampling(seed: int | None, settings: SamplingSettings) -> Sampling:
    return Sampling(seed=fresh_seed() if seed is None else seed, **settings)
