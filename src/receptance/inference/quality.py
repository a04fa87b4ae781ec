"""What rounding has done to a model: how far it is from the full one, in all and layer by layer."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from receptance.inference.reading import read
from receptance.inference.timing import Run, take_turns
from receptance.models import AnyModel, State
from receptance.runtimes import NativeModel

AnyRuntime = AnyModel | NativeModel

# A model is ruined when what it says of the next token diverges by more nats than this: its perplexity is
# then about a tenth higher, and a smaller model in more bits would have served better.
WORST_DIVERGENCE = 0.1

GREEDY_TOKENS = 200
_GREEDY_TEXTS = 4
_GREEDY_PROMPT = 32
_TOKENS_AT_ONCE = 1024
_TURNS = 5
_TIMED_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How a rounded model compares with the full one over a text.

    perplexity     of the text: before rounding, and after
    divergence     KL of what they say of the next token, mean over the tokens, in nats
    same_choice    share of the tokens after which the most likely next one is the same
    greedy_tokens  of 200 tokens that both write after a prompt, always the most likely one, how many come
                   before they part; mean over some prompts
    """

    tokens: int
    perplexity: tuple[float, float]
    divergence: float
    same_choice: float
    greedy_tokens: float

    @property
    def is_ruined(self) -> bool:
        """Whether the divergence is beyond `WORST_DIVERGENCE`, or not a number."""
        return not self.divergence <= WORST_DIVERGENCE


@dataclass(frozen=True, kw_only=True)
class LayerAgreement:
    """What rounding did in one layer, or in the head.

    divergence  of the model whose layers up to this one are rounded, in nats a token
    errors      of what comes out of each matrix, from rounding it and all before it: root mean square, as a
                share of what the full model has
    """

    name: str
    divergence: float
    errors: dict[str, float]


@torch.inference_mode()
def agreement(
    full: AnyRuntime, rounded: AnyRuntime, tokens: Int[Tensor, "window time"], state: State | None = None
) -> Agreement:
    """Compare two models on some windows of text, each of which begins from the state, a batch of one."""
    sums = torch.zeros(4, dtype=torch.float64)
    for part in _parts(tokens):
        ours, theirs = (_log_probabilities(model, part, state) for model in (full, rounded))
        following = part[:, 1:, None]
        sums += torch.stack(
            [
                *(-each[:, :-1].gather(-1, following).sum(dtype=torch.float64) for each in (ours, theirs)),
                (ours.exp() * (ours - theirs)).sum(dtype=torch.float64),
                (ours.argmax(-1) == theirs.argmax(-1)).sum(dtype=torch.float64),
            ]
        )
    before, after, divergence, same = sums.tolist()
    scored = tokens.numel() - len(tokens)
    prompts = tokens[:_GREEDY_TEXTS, :_GREEDY_PROMPT]
    alike = [_tokens_until_they_part(full, rounded, prompt[None], state) for prompt in prompts]
    return Agreement(
        tokens=tokens.numel(),
        perplexity=(_exp(before / scored), _exp(after / scored)),
        divergence=divergence / tokens.numel(),
        same_choice=same / tokens.numel(),
        greedy_tokens=sum(alike) / len(alike),
    )


@torch.inference_mode()
def agreement_by_layer(
    full: AnyModel, rounded: AnyModel, tokens: Int[Tensor, "window time"], state: State | None = None
) -> list[LayerAgreement]:
    """Compare two torch modules of the same sizes layer by layer, and the head as the last."""
    tokens = next(_parts(tokens))
    with _outputs(full) as expected:
        ours = _log_probabilities(full, tokens, state)
    with _outputs(rounded) as found:
        theirs = _log_probabilities(rounded, tokens, state)
    errors: dict[str, dict[str, float]] = {}
    for name, output in expected.items():
        layer, _, matrix = name.removeprefix("blocks.").partition(".")
        errors.setdefault(layer, {})[matrix] = float((found[name] - output).norm() / output.norm())
    expected.clear()
    found.clear()
    # Blocks are taken over one by one; the module that they are put into shares all its weights.
    mixed = copy.copy(full)
    mixed._modules = {**full._modules, "blocks": nn.ModuleList(full.blocks)}
    layers = []
    for index, block in enumerate(rounded.layers):
        mixed.blocks[index] = block
        divergence = _divergence(ours, _log_probabilities(mixed, tokens, state))
        layers.append(LayerAgreement(name=str(index), divergence=divergence, errors=errors[str(index)]))
    return [
        *layers,
        LayerAgreement(
            name="head", divergence=_divergence(ours, theirs), errors={"head": errors["head"][""]}
        ),
    ]


def tokens_per_second(models: Mapping[str, AnyRuntime]) -> dict[str, float]:
    """Return how fast each model writes one text, in its best of several turns; they take turns."""

    def writing(model: AnyRuntime) -> Run:
        token = torch.zeros(1, 1, dtype=torch.int64)
        states: list[State | None] = [None]

        def run() -> None:
            for _ in range(_TIMED_TOKENS):
                _, states[0] = read(model, token, states[0])

        return run

    taken = take_turns({name: writing(model) for name, model in models.items()}, _TURNS)
    return {name: _TIMED_TOKENS / min(seconds) for name, seconds in taken.items()}


def _tokens_until_they_part(
    full: AnyRuntime, rounded: AnyRuntime, prompt: Int[Tensor, "1 time"], state: State | None
) -> int:
    """Return how many tokens both choose alike, each the most likely one, of `GREEDY_TOKENS`."""
    states: list[State | None] = [state, state]
    tokens = prompt
    for count in range(GREEDY_TOKENS):
        choices = []
        for index, model in enumerate((full, rounded)):
            logits, states[index] = read(model, tokens, states[index])
            choices.append(int(logits.argmax()))
        if choices[0] != choices[1]:
            return count
        tokens = torch.tensor([choices[:1]])
    return GREEDY_TOKENS


def _parts(tokens: Tensor) -> Iterator[Tensor]:
    return iter(torch.split(tokens, max(1, _TOKENS_AT_ONCE // tokens.shape[1])))


def _log_probabilities(
    model: AnyRuntime, tokens: Int[Tensor, "window time"], state: State | None
) -> Float[Tensor, "window time vocabulary"]:
    start = None if state is None else state.map(lambda part: part.repeat_interleave(len(tokens), dim=1))
    logits, _ = model(tokens, start)
    probabilities: Tensor = logits.float().log_softmax(-1)
    return probabilities


def _divergence(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.exp() * (ours - theirs)).sum(-1).mean())


def _exp(mean: float) -> float:
    return math.exp(mean) if mean < 700 else math.inf


@contextmanager
def _outputs(model: AnyModel) -> Iterator[dict[str, Tensor]]:
    """Keep what comes out of each wide matrix, by its name."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        return lambda module, arguments, output: seen.__setitem__(name, output.float())

    parts = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    handles = [part.register_forward_hook(keep(name)) for name, part in parts]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
