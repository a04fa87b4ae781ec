"""`receptance prepare`: turn texts into a folder of tokens to train on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from receptance.cli import terminal
from receptance.errors import ConfigError

if TYPE_CHECKING:
    from receptance import data

SECONDS_BETWEEN_LINES = 10  # where no terminal shows a bar


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Reading:
    """What is read of the sources."""

    include: Annotated[
        tuple[str, ...],
        Parameter(
            negative="",
            show_default=False,
            consume_multiple=False,
            help='In folders, read files of such a name or path, as "*.py", instead of .txt, JSON and '
            "Parquet; repeatable.",
        ),
    ] = ()
    exclude: Annotated[
        tuple[str, ...],
        Parameter(
            negative="",
            show_default=False,
            consume_multiple=False,
            help="In folders, leave out files and folders of such a name or path; repeatable.",
        ),
    ] = ()
    text_field: Annotated[str, Parameter(help="The field of an object that holds its text.")] = "text"
    errors: Annotated[
        Literal["strict", "replace", "skip"],
        Parameter(
            help="What to do where a document is not UTF-8: stop, put U+FFFD in place of the wrong bytes, or "
            "skip it."
        ),
    ] = "strict"


EVERYTHING = Reading()


def prepare(
    *sources: Annotated[str, Parameter(required=True, allow_leading_hyphen=True)],
    output: Annotated[Path, Parameter(alias="-o")],
    tokenizer: str = "world",
    weights: Annotated[list[float] | None, Parameter(negative="", consume_multiple=True)] = None,
    validation_fraction: float = 0.01,
    reading: Reading = EVERYTHING,
    deduplicate: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    processes: int = 0,
    overwrite: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> None:
    """Turn texts, conversations and instructions into tokens to train on.

    Each text file is a document, and so is each object of JSON lines or of a JSON array (.jsonl, .ndjson,
    .json) and each row of .parquet and of datasets of the hub (hf:ORG/NAME:SUBSET@SPLIT); .gz, .xz, .bz2 and
    .zst are unpacked, and a .zip is read as a folder. Rows with messages are conversations, and an
    instruction and an output, or a prompt and a completion, are short ones: their answers alone are learnt.

    What is held back for validation follows from the text of each document; of fewer than 20 texts, each
    gives its last part. Stopped at any moment, even killed, the same command goes on where it was.

    Parameters
    ----------
    sources
        Files, folders and datasets to read, as books/ chats.jsonl.gz hf:ORG/NAME; - is standard input.
    output
        The folder to make: train.bin, train.idx, validation.bin, validation.idx, data.json.
    tokenizer
        A name (world, 20b, bytes), a vocabulary file, or bpe:4096 to learn that many tokens from these texts.
    weights
        How often the documents of each source are trained on: 2 is twice, 0.5 a half of them.
    validation_fraction
        How much to hold back for validation; 0 for nothing.
    reading
        What is read of the sources.
    deduplicate
        Leave out documents whose text has come before.
    processes
        How many processes tokenise; 0 for as many as pay.
    overwrite
        Replace what was prepared in the output folder before.
    """
    from receptance import data

    _refuse_misspelt_options(sources)
    started = time.perf_counter()
    with _progress() as report:
        description = data.prepare(
            sources,
            output,
            tokenizer=tokenizer,
            weights=weights or (),
            validation_fraction=validation_fraction,
            **vars(reading),
            deduplicate=deduplicate,
            processes=processes,
            overwrite=overwrite,
            report=report,
        )
    _print_statistics(output, description, time.perf_counter() - started)


def _refuse_misspelt_options(sources: Sequence[str]) -> None:
    """Refuse what would be taken for a source, because "-" is one."""
    for source in sources:
        if source.startswith("--") and not Path(source).exists():
            raise ConfigError(f"{source} is neither an option (see receptance prepare --help) nor a file.")


@contextmanager
def _progress() -> Iterator[Callable[[data.Progress], None]]:
    """Show how far the work is on standard error: a bar on a terminal, elsewhere a line now and then."""
    if not sys.stderr.isatty():
        yield _Lines().report
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[documents]:,} documents"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None, documents=0, rate="")
        rate = _Rate()

        def report(progress: data.Progress) -> None:
            if bar.tasks[0].description != progress.stage:
                bar.reset(task)
            bar.update(
                task,
                description=progress.stage,
                total=progress.bytes_to_read or None,
                completed=progress.bytes_read,
                documents=progress.documents,
                rate=rate.text(progress),
            )

        yield report


class _Rate:
    """How fast text is read, in the stage that is under way."""

    def __init__(self) -> None:
        self._stage = ""
        self._started = self._latest = time.perf_counter()

    def text(self, progress: data.Progress) -> str:
        """Return the speed; to be called at each step of the work."""
        if progress.stage != self._stage:
            self._stage, self._started = progress.stage, self._latest
        self._latest = time.perf_counter()
        return f"{progress.bytes_of_text / 1e6 / max(self._latest - self._started, 1e-3):.1f} MB/s"


class _Lines:
    """Says how far the work is, a line every few seconds, for logs."""

    def __init__(self) -> None:
        self._rate = _Rate()
        self._printed = time.perf_counter()

    def report(self, progress: data.Progress) -> None:
        """Print a line where the last one is some time ago."""
        rate = self._rate.text(progress)
        if time.perf_counter() - self._printed < SECONDS_BETWEEN_LINES:
            return
        self._printed = time.perf_counter()
        share = f"{progress.bytes_read / max(progress.bytes_to_read, 1):.0%}"
        print(f"{progress.stage}: {share}, {progress.documents:,} documents, {rate}", file=sys.stderr)


def _print_statistics(output: Path, description: data.Description, seconds: float) -> None:
    numbers = ("documents", "tokens", "text", "bytes per token", "longest document")
    if len(description.sources) > 1:
        total = sum(source.tokens for source in description.sources)
        terminal.print_table(
            ("source", "weight", *numbers, "duplicates", "share"),
            [
                (
                    source.name,
                    "" if source.weight is None else f"{source.weight:g}",
                    *_figures(source),
                    f"{source.duplicates:,}",
                    f"{source.tokens / total:.1%}",
                )
                for source in description.sources
            ],
            numbers=("weight", *numbers, "duplicates", "share"),
        )
        print()
    terminal.print_table(
        ("split", *numbers),
        [(name, *_figures(split)) for name, split in description.splits.items()],
        numbers=numbers,
    )
    for name, split in description.splits.items():
        if split.learnt_tokens is not None:
            print(f"{name}: {split.learnt_tokens:,} tokens are learnt, the others only read")
    left_out = [
        f"{count:,} {reason}"
        for count, reason in (
            (description.empty, "without text"),
            (description.undecodable, "not UTF-8"),
            (description.duplicates, "that had come before"),
        )
        if count
    ]
    if left_out:
        print(f"left out: {', '.join(left_out)}")
    megabytes = sum(split.bytes_of_text for split in description.splits.values()) / 1e6
    print(
        f"{output}: tokenizer {description.tokenizer}, {description.vocabulary_size:,} ids; "
        f"made in {seconds:.1f} s, {megabytes / seconds:.1f} MB/s"
    )


def _figures(part: data.SplitStatistics | data.SourceStatistics) -> tuple[str, ...]:
    return (
        f"{part.documents:,}",
        f"{part.tokens:,}",
        terminal.bytes_as_text(part.bytes_of_text),
        f"{part.bytes_per_token:.3f}",
        f"{part.longest_document:,} tokens",
    )
