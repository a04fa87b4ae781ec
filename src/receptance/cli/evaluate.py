"""`receptance evaluate`: how good models are at tasks and at predicting texts, side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

import receptance
from receptance import atomic
from receptance.cli import evaluation_view, options, terminal
from receptance.errors import ConfigError

if TYPE_CHECKING:
    from receptance.evaluation import Asked, Encoding, Kept, Result
    from receptance.inference import Loaded
    from receptance.tokenizers import Tokenizer

TASKS = Parameter(
    consume_multiple=True,
    negative="",
    show_default=False,
    help="Tasks, with commas or blanks between: lambada, piqa, hellaswag, winogrande, arc_easy, "
    "arc_challenge, openbookqa, sciq, copa, boolq, headqa, triviaqa, mmlu, blimp, wikitext, "
    "from the files in --data; passkey and recall, which are generated.",
)
TEXT = Parameter(
    consume_multiple=True,
    negative="",
    show_default=False,
    help="Texts to predict: files, JSON lines, folders; a folder that prepare made, of which what was held "
    "back is taken; or a .bin/.idx store of the model's tokenizer, named without the ending.",
)
SHOTS = Parameter(help="Examples before each question: the first of the file that are not the question.")
LIMIT = Parameter(
    help="Take only the first so many texts or questions, of each subject or length where a task has several."
)
LENGTHS = Parameter(
    consume_multiple=True, negative="", help="How long the texts of passkey and recall are, in bytes."
)
SEED = Parameter(help="What passkey and recall are generated from.")
WINDOW = Parameter(
    help="Read texts in windows of so many tokens, each from nothing; else they are read whole."
)
STRIDE = Parameter(help="How many tokens a window begins after the one before: by default, its size.")
BY_POSITION = Parameter(
    help="Show the loss by the position of the token too, in texts of at least so many: a power of two."
)
PREFIX = Parameter(
    help="What is read before every text: newline, as the figures of the RWKV-4 paper were taken; "
    "end-of-text, as documents begin in training; or none, as lm-eval has it."
)
BATCH_SIZE = Parameter(help="How many texts are read at once.")
OUTPUT = Parameter(
    help="A .json file for all figures. The answers are kept beside it, in .answers.jsonl, as they come: "
    "after an interruption the same command goes on, and any other asks only what is new."
)
PER_ITEM = Parameter(negative="", help="Write every item with its answers to --output too.")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the models are asked."""

    tasks: Annotated[list[str], TASKS] = field(default_factory=list)
    data: Annotated[Path, Parameter(help="The folder with the files of the tasks.")] = Path()
    shots: Annotated[int, SHOTS] = 0
    limit: Annotated[int | None, LIMIT] = None
    lengths: Annotated[tuple[int, ...], LENGTHS] = (256, 1024, 4096)
    seed: Annotated[int, SEED] = 0
    text: Annotated[list[str], TEXT] = field(default_factory=list)
    window: Annotated[int | None, WINDOW] = None
    stride: Annotated[int | None, STRIDE] = None
    by_position: Annotated[int | None, BY_POSITION] = None

    def asked(self) -> dict[str, Asked]:
        """Return the items of each task and text."""
        from receptance.evaluation import Window, documents

        names = [name for word in self.tasks for name in word.split(",") if name]
        if not names and not self.text:
            raise ConfigError(
                "there is nothing to evaluate: name --tasks, such as lambada,piqa, or a --text."
            )
        if self.window is None and self.stride is not None:
            raise ConfigError("--stride is of --window: without it, texts are read whole.")
        if self.by_position is not None and (self.window is not None or not self.text):
            raise ConfigError("--by-position is of a --text that is read whole: give one, without --window.")
        length = self.by_position
        if length is not None and (length < 1 or length & (length - 1)):
            raise ConfigError(f"--by-position is {length:,}, but it must be a power of two, such as 1024.")
        stride = self.window if self.stride is None else self.stride
        window = None if self.window is None else Window(size=self.window, stride=stride or 0)
        asked = {name: self._task(name) for name in names}
        return asked | {path: documents(path, window=window, limit=self.limit) for path in self.text}

    def require_length(self, asked: Mapping[str, Asked], encoding: Encoding) -> None:
        """Raise ConfigError where no text is as long as --by-position, before they are all read in vain."""
        from receptance.evaluation import Document

        length = self.by_position
        if length is None:
            return
        for path in self.text:
            documents = (item for item in asked[path].items if isinstance(item, Document))
            if not any(len(each.whole(encoding).continuation) >= length for each in documents):
                raise ConfigError(f"{path}: no text in it has {length:,} tokens, as --by-position needs.")

    def _task(self, name: str) -> Asked:
        from receptance.evaluation import GENERATED, generated, questions

        if name in GENERATED:
            return generated(name, lengths=self.lengths, count=self.limit, seed=self.seed)
        return questions(name, self.data, shots=self.shots, limit=self.limit)


NOTHING = Wanted()


def evaluate(
    model: options.Model,
    /,
    *others: options.Model,
    wanted: Wanted = NOTHING,
    prefix: Annotated[Literal["newline", "end-of-text", "none"], PREFIX] = "newline",
    batch_size: Annotated[int, BATCH_SIZE] = 16,
    output: Annotated[Path | None, OUTPUT] = None,
    per_item: Annotated[bool, PER_ITEM] = False,
    as_json: options.Json = False,
    revision: options.Revision = None,
    dtype: options.PackedDtype = None,
    runtime: options.Runtime = "auto",
    device: options.Device = "cpu",
    tokenizer: options.Tokenizer = None,
    tuning: options.Tuning = options.NO_TUNING,
) -> None:
    """Measure how good models are: at tasks, and at predicting texts.

    Prompts, choices and metrics of the tasks are those of lm-evaluation-harness 0.4.13. In brackets stands
    the interval that holds the true figure 95 times in 100. Several models are asked the same; the others are
    compared with the first item by item, which tells them apart sooner than their intervals.
    """
    if output is None and per_item:
        raise ConfigError("--per-item writes to --output: name one.")
    if output is not None and (output.suffix != ".json" or not output.parent.is_dir()):
        raise ConfigError(f"--output {output}: it must end in .json, in a folder that is there.")

    def load(path: str) -> Loaded:
        return options.load(path, revision, dtype, device, tokenizer, tuning, runtime)

    asked = wanted.asked()
    models, results = _ask([model, *others], load, wanted, asked, prefix, batch_size, output)
    length = wanted.by_position
    by_position = {path: results[path].by_position(length) for path in wanted.text} if length else {}
    found = {
        "version": receptance.__version__,
        "prefix": prefix,
        "shots": wanted.shots,
        "limit": wanted.limit,
        "window": wanted.window,
        "stride": wanted.stride,
        "models": models,
        "results": {
            name: {"source": asked[name].source} | result.as_json(per_item=per_item)
            for name, result in results.items()
        },
        "by_position": evaluation_view.as_json(by_position),
    }
    if output:
        atomic.write_text(output, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    if as_json:
        terminal.print_json(found)
    else:
        evaluation_view.print_results(results)
        evaluation_view.print_positions(by_position)


def _ask(
    paths: Sequence[str],
    load: Callable[[str], Loaded],
    wanted: Wanted,
    asked: Mapping[str, Asked],
    prefix: Literal["newline", "end-of-text", "none"],
    batch_size: int,
    output: Path | None,
) -> tuple[dict[str, str], dict[str, Result]]:
    """Return what each model is, and the results of each task; one model after the other is in memory."""
    from receptance.evaluation import Encoding, Result, Tokens, answers, kept_in

    holds_tokens = any(isinstance(items[0], Tokens) for _, items in asked.values())
    first: Tokenizer | None = None
    models: dict[str, str] = {}
    found: dict[str, dict[str, list[Kept]]] = {name: {} for name in asked}
    kept_path = output.with_suffix(".answers.jsonl") if output else None
    with kept_in(kept_path) as kept, terminal.progress(counts_bytes=False) as progress:
        for path in dict.fromkeys(paths):
            progress(f"loading {path}", 0, 1)
            lm = load(path)
            models[path] = repr(lm)
            encoding = Encoding(lm.tokenizer, prefix)
            first = first or lm.tokenizer
            if holds_tokens:
                first.require_same(lm.tokenizer)
            wanted.require_length(asked, encoding)
            for name, (_, items) in asked.items():
                report = partial(progress, f"{Path(path).name}: {name}")
                found[name][path] = answers(
                    lm, items, encoding, batch_size=batch_size, kept=kept, report=report
                )
    return models, {name: Result(asked[name].items, each) for name, each in found.items()}
