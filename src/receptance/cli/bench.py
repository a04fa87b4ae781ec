"""`receptance bench`: how fast a model is on this machine, in one number format or several."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from receptance.cli import options, terminal

if TYPE_CHECKING:
    from receptance.inference.speed import Rate, Speed

DTYPES = Parameter(
    consume_multiple=True,
    negative="",
    help="Number formats of the matrices, each measured; that of the file where none is given. int8 and int4 "
    "are of the native runtime.",
)
PROMPT_TOKENS = Parameter(help="Length of the prompts that are read.")
TOKENS = Parameter(alias="-n", help="Tokens written to each text in a turn.")
BATCH = Parameter(
    consume_multiple=True, negative="", help="How many texts are read or written at once; one or several."
)
TURNS = Parameter(help="How often each is measured, one after the other.")
THREADS = Parameter(help="Threads; as many as torch takes where none are given.")


def bench(
    model: options.Model,
    /,
    *,
    dtype: Annotated[list[options.PackedDtypeName] | None, DTYPES] = None,
    runtime: options.Runtime = "auto",
    prompt_tokens: Annotated[int, PROMPT_TOKENS] = 512,
    tokens: Annotated[int, TOKENS] = 16,
    batch: Annotated[tuple[int, ...], BATCH] = (1, 16),
    turns: Annotated[int, TURNS] = 5,
    threads: Annotated[int | None, THREADS] = None,
    as_json: options.Json = False,
    revision: options.Revision = None,
    device: options.Device = "cpu",
) -> None:
    """Measure how fast a model is here: loading, first token, prompts, texts, memory.

    Each number format is measured in a process of its own. The first token is timed from the start of
    loading, after a prompt of one token. Rates are those of the best turn, and in brackets of the median one;
    choosing the next token is not part of them.

    Whoever writes one text reads all weights for each token, so the memory is the limit: in the same turns as
    many bytes are read and nothing is done with them.
    """
    from receptance.inference import speed
    from receptance.inference.fresh_process import call_in_fresh_process

    plan = speed.Plan(
        prompt_tokens=prompt_tokens,
        tokens=tokens,
        batches=tuple(dict.fromkeys(batch)),
        turns=turns,
        threads=threads,
    )
    measured = []
    formats: list[options.PackedDtypeName | None] = list(dict.fromkeys(dtype)) if dtype else [None]
    for name in formats:
        work = partial(
            speed.measure,
            path=model,
            plan=plan,
            revision=revision,
            dtype=options.torch_dtype(name),
            device=device,
            runtime=runtime,
        )
        with _progress(name or "") as report:
            measured.append(call_in_fresh_process(work, report))
    if as_json:
        terminal.print_json({"measured": [_as_dict(each) for each in measured]})
    else:
        _print(measured)


def _as_dict(speed: Speed) -> dict[str, object]:
    return asdict(speed) | {"share_of_limit": speed.share_of_limit}


def _print(measured: Sequence[Speed]) -> None:
    """Print a column for each number format."""
    first, plan = measured[0], measured[0].plan
    level = f", native library at level {first.level}" if first.level else ""
    threads = f"{first.threads} thread{'s' if first.threads > 1 else ''}"
    facts = {
        "model": f"RWKV-{first.generation}, {first.parameters:,} parameters",
        "machine": f"{first.processor}; {threads} on {first.device}{level}",
        "turns": f"{plan.turns}; the best, and in brackets the median",
    }
    terminal.print_facts(first.path, facts)
    print()
    rows = [
        ("runtime", [each.runtime for each in measured]),
        ("weights", [terminal.bytes_as_text(each.weight_bytes) for each in measured]),
        ("process, ready", [_bytes(each.process_bytes) for each in measured]),
        ("process, at most", [_bytes(each.peak_bytes) for each in measured]),
        ("loading", [f"{each.load_seconds:.3f} s" for each in measured]),
        ("first token", [f"{each.first_token_seconds:.3f} s" for each in measured]),
        *(
            (_prompts(b, plan.prompt_tokens), [_rate(each.prefill[b]) for each in measured])
            for b in plan.batches
        ),
        *((_texts(b), [_rate(each.decode[b]) for each in measured]) for b in plan.batches),
        ("memory read, GB/s", [_memory(each.memory_read) for each in measured]),
        ("one text, of that", [_share(each.share_of_limit) for each in measured]),
    ]
    columns = [each.dtype for each in measured]
    terminal.print_table(["", *columns], [(name, *cells) for name, cells in rows], numbers=columns)


def _prompts(batch: int, tokens: int) -> str:
    return f"{'a prompt' if batch == 1 else f'{batch} prompts'} of {tokens:,}, tokens/s"


def _texts(batch: int) -> str:
    return f"{'one text' if batch == 1 else f'{batch} texts'}, tokens/s"


def _rate(rate: Rate) -> str:
    digits = 1 if rate.best < 100 else 0
    return f"{rate.best:,.{digits}f} ({rate.median:,.{digits}f})"


def _memory(rate: Rate | None) -> str:
    return "?" if rate is None else f"{rate.best / 1e9:.1f} ({rate.median / 1e9:.1f})"


def _share(share: float | None) -> str:
    return "?" if share is None else f"{share:.0%}"


def _bytes(count: int | None) -> str:
    return "?" if count is None else terminal.bytes_as_text(count)


@contextmanager
def _progress(name: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show on a terminal, to standard error, how far the measuring is."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task(f"{name} starting", total=None)
        yield lambda stage, done, total: bar.update(
            task, description=f"{name} {stage}", completed=done, total=total
        )
