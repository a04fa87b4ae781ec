"""What speculation gains, and what it loses where it cannot gain: `python -m benchmarks.speculation`.

A model of a published size, whose matrices all do their work, writes a text that is known before: the head is
made so that each token is followed by its successor, as sure as in a trained model. So the text can repeat
itself, quote its prompt, or never say anything twice, and a draft model can be right as often as it should.
Each text is written with and without speculation in turns, and must be the same.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from benchmarks.models import SHAPES, random_model
from benchmarks.report import add_numbers, add_output, line, publish, setting
from receptance.inference import History, Sampling, Speculation, go_on
from receptance.inference.drafts import Drafter, DraftModel, PromptLookup
from receptance.inference.timing import take_turns
from receptance.models import AnyModel
from receptance.quantization.packed import FORMATS
from receptance.runtimes import NativeModel
from receptance.tokenizers import load_tokenizer

PERIOD = 48  # tokens of the text that repeats itself
SPAN = 32  # tokens that are quoted, and as many between the quotations
WORDS = 32  # tokens that the text by chance is made of
RIGHT = (0.9, 0.5)  # shares of the tokens that the draft models know the successors of
TOKENIZER = load_tokenizer("world")
GREEDY = Sampling(temperature=0)


@dataclass
class Text:
    """What is written: how its beginning reads, how it is drawn, and what may speculate."""

    prompt: list[int]
    drafters: Mapping[str, Callable[[], Drafter]]
    sampling: Sampling = GREEDY
    history: History | None = None  # the prompt as it was read
    expected: list[int] | None = None  # what was written the first time
    guesses: dict[str, list[int]] = field(default_factory=dict)  # drafted and accepted, by drafter

    def write(self, num_tokens: int, drafter: str | None = None) -> None:
        """Go on from the prompt; what comes must be what came before."""
        assert self.history is not None
        speculation = Speculation(self.drafters[drafter]()) if drafter else None
        pieces = go_on(
            self.history.fork(),
            TOKENIZER,
            max_tokens=num_tokens,
            sampling=self.sampling,
            speculation=speculation,
        )
        tokens = [piece.token for piece in pieces]
        self.expected = self.expected or tokens
        if len(tokens) != num_tokens or tokens != self.expected:
            raise AssertionError(f"{drafter} changed the text: {tokens} instead of {self.expected}")
        if drafter and speculation:
            self.guesses[drafter] = [speculation.drafted, speculation.accepted]


@torch.no_grad()
def model_after(name: str, successor: Tensor) -> AnyModel:
    """Return a model of random weights after whose every token comes its successor, almost surely.

    What its layers add to an embedding is small, and a successor's row of the head is the embedding as it
    arrives there: unlike with the other rows, its product with that one is large.
    """
    model = random_model(name)
    for key, parameter in model.named_parameters():
        if key.endswith(("att.output.weight", "ffn.value.weight")):
            parameter.mul_(1e-3)
        elif "ln0" in key or "ln_out" in key:
            parameter.fill_(key.endswith("weight"))
    channels = model.config.hidden_size
    arriving = torch.nn.functional.layer_norm(model.emb.weight.float(), (channels,))
    model.head.weight[successor] = (arriving * channels**-0.5).to(model.head.weight.dtype)
    return model


def texts(name: str, matrix_format: str, arguments: argparse.Namespace) -> dict[str, Text]:
    """Return the texts, their prompts read."""
    pack = partial(NativeModel.pack, formats=matrix_format, threads=arguments.threads)
    generator = torch.Generator().manual_seed(0)
    # Row by row through the vocabulary, token after token in one circle, of which a small one is split off.
    rows = 50_277 if name.startswith("RWKV-4") else TOKENIZER.vocabulary_size
    circle = 1 + torch.randperm(rows - 1, generator=generator)
    successor = torch.arange(rows)
    successor[circle[PERIOD:]] = circle[PERIOD:].roll(-1)
    successor[circle[:PERIOD]] = circle[:PERIOD].roll(-1)
    drafts = {
        f"draft model, {share:.0%} right": pack(
            model_after(small(name), mistaken(successor, share, generator))
        )
        for share in RIGHT
    }
    lookup: dict[str, Callable[[], Drafter]] = {"lookup": PromptLookup}
    known = {
        key: partial(DraftModel, partial(History, draft), TOKENIZER.vocabulary_size)
        for key, draft in drafts.items()
    }
    fresh = circle[PERIOD:].tolist()
    parts = [fresh[start : start + SPAN] for start in range(0, arguments.tokens + SPAN, SPAN)]
    quoted = [token for part in reversed(parts[1::2]) for token in part]
    words = circle[-2 * WORDS :: 2]  # none is the successor of another
    by_chance = words[torch.randint(WORDS, (1024,), generator=generator)].tolist()
    drawn = Sampling(top_p=1.0, seed=0, logit_bias=dict.fromkeys(words.tolist(), 100.0))
    every = {
        "repeats itself": Text(circle[:PERIOD].tolist(), lookup),
        "half of it quotes the prompt": Text([*quoted, fresh[0]], lookup),
        "never says anything twice": Text(fresh[:1], lookup | known),
        f"drawn from {WORDS} words": Text(by_chance, lookup, drawn),
    }
    packed = pack(model_after(name, successor))
    for text in every.values():
        text.history = History(packed, tokens=text.prompt)
        text.history.next_logits()
    return every


def small(name: str) -> str:
    """Return the shape of a draft model for this one."""
    return f"{name.split()[0]} tiny"


def mistaken(successor: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return successors of which this share is right: those of the others have changed places."""
    wrong = (torch.rand(len(successor), generator=generator) >= share).nonzero().flatten()
    result = successor.clone()
    result[wrong] = successor[wrong.roll(1)]
    return result


def table(name: str, matrix_format: str, arguments: argparse.Namespace) -> Iterator[str]:
    """Measure one model in one format, and yield what was measured."""
    yield ""
    yield f"## {name}, {matrix_format}"
    yield ""
    yield line("the text", "without", "with", "", "is ×", "read ahead", "of it right")
    yield "|---|---:|---|---:|---:|---:|---:|"
    every = texts(name, matrix_format, arguments)
    cases = {
        (title, drafter): partial(text.write, arguments.tokens, drafter)
        for title, text in every.items()
        for drafter in (None, *text.drafters)
    }
    taken = take_turns(cases, arguments.turns)
    rates = {
        case: [arguments.tokens / each for each in (min(seconds), statistics.median(seconds))]
        for case, seconds in taken.items()
    }
    for title, text in every.items():
        for drafter, (drafted, accepted) in text.guesses.items():
            without, speculated = rates[title, None], rates[title, drafter]
            gain = [ours / plain for ours, plain in zip(speculated, without, strict=True)]
            yield line(
                title,
                "{:,.0f} ({:,.0f})".format(*without),
                drafter,
                "{:,.0f} ({:,.0f})".format(*speculated),
                "{:.2f} ({:.2f})".format(*gain),
                str(drafted),
                f"{accepted / drafted:.0%}" if drafted else "",
            )


def report(arguments: argparse.Namespace) -> Iterator[str]:
    torch.set_num_threads(arguments.threads)
    yield from setting("speculation", arguments.threads)
    yield (
        f"Tokens a second while {arguments.tokens} are written, the best of {arguments.turns} turns and in "
        "brackets the median. A draft model has two layers of 256."
    )
    for name in arguments.models:
        for matrix_format in arguments.formats:
            yield from table(name, matrix_format, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_numbers(parser, {"tokens": 128, "turns": 3})
    parser.add_argument(
        "--models", nargs="+", choices=SHAPES, default=list(SHAPES)[:2], help="(default: the first two)"
    )
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, default=list(FORMATS)[1:], help="(default: all but float32)"
    )
    add_output(parser)
    arguments = parser.parse_args()
    publish("Writing with speculation", report(arguments), arguments.output)


if __name__ == "__main__":
    main()
