"""Small models for the tests of inference: random ones of which every part acts, and scripted ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from receptance.checkpoints.stored_model import from_module
from receptance.inference import Loaded
from receptance.models import RWKV4, AnyModel, Config, LanguageModel, RWKV4Config, State
from receptance.runtimes import NativeModel
from receptance.tokenizers import Tokenizer


def random_model(*, vocabulary_size: int = 256, seed: int = 0, dtype: torch.dtype = torch.float32) -> RWKV4:
    """A model in which every part acts: the start of training has zeros that would hide errors."""
    model = RWKV4(RWKV4Config(vocabulary_size=vocabulary_size, num_layers=3, hidden_size=32))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=1.5 * parameter.shape[1] ** -0.5, generator=generator)
            else:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.cast_matrices(dtype).eval()


def as_loaded(
    model: AnyModel, tokenizer: Tokenizer | None = None, runtime: NativeModel | None = None
) -> Loaded:
    """Return a model as if it came from a file."""
    return Loaded(from_module(model), runtime or model, tokenizer)


class Scripted(LanguageModel[Config, State]):
    """Says given tokens one after the other, whatever it reads; the script starts after the prompt."""

    def __init__(self, script: Sequence[int], vocabulary_size: int = 256) -> None:
        nn.Module.__init__(self)  # it has neither an embedding nor blocks
        self.config = Config(vocabulary_size=vocabulary_size, num_layers=1, hidden_size=vocabulary_size)
        self.script = list(script)
        self.head = nn.Linear(vocabulary_size, vocabulary_size, bias=False)
        self.head.weight = nn.Parameter(100 * torch.eye(vocabulary_size))  # certain, whatever the sampling
        self.read: list[list[int]] = []

    def initial_state(self, batch: int) -> State:
        """Return a state in which there is nothing."""
        return State()

    def features(
        self, tokens: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Return the next token of the script, one-hot, at every position."""
        said = len(self.read)
        self.read.append(tokens[0].tolist())
        one_hot = torch.nn.functional.one_hot(torch.tensor(self.script[said]), self.config.vocabulary_size)
        return one_hot.float().expand(*tokens.shape, -1), state or State()
