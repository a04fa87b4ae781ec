"""`receptance inspect`: what a model remembers of a text, as a page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from receptance.cli import options, terminal
from receptance.errors import ConfigError

if TYPE_CHECKING:
    from receptance.inspection.report import Report

DEFAULT_OUTPUT = Path("inspection.html")

TEXT = Parameter(allow_leading_hyphen=True, help="The text to read.")
FILE = Parameter(help="A file with the text, in UTF-8.")
TOKENS = Parameter(
    alias="-n",
    help="How many tokens to look at, 1,024 at most: of a longer text the last ones. All are read.",
)
OUTPUT = Parameter(
    alias="-o", help=f"The page; {DEFAULT_OUTPUT} where neither this nor --json is given. It is replaced."
)
DTYPE = Parameter(help="Number format of the matrices: 16 bits would blur what is far back.")


def inspect(
    model: options.Model,
    /,
    *,
    text: Annotated[str | None, TEXT] = None,
    file: Annotated[Path | None, FILE] = None,
    tokens: Annotated[int, TOKENS] = 256,
    output: Annotated[Path | None, OUTPUT] = None,
    as_json: options.Json = False,
    revision: options.Revision = None,
    dtype: Annotated[Literal["float32", "bfloat16", "float16", "float64"], DTYPE] = "float32",
    runtime: options.Runtime = "auto",
    device: options.Device = "cpu",
    tokenizer: options.Tokenizer = None,
    tuning: options.Tuning = options.NO_TUNING,
) -> None:
    """Show what a model remembers of a text, and which tokens its predictions rest on.

    Writes one HTML page that needs nothing else: how unexpected each token was, which earlier tokens each
    prediction rests on, how fast every layer forgets, and what each token does to the memory.

    A token's influence is exact: the state after it is replaced by the state before it, and the rest of the
    text is read from there. So n tokens take n reads, of half the text on average.
    """
    if (text is None) == (file is None):
        raise ConfigError("what is to be read? Give either --text or --file.")
    if output is not None and output.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--output is {output}, but the page is an .html file.")
    if output is not None and not output.parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.parent} to write to.")
    import torch

    from receptance import atomic, inspection

    content = _read(file) if file else text or ""
    lm = options.load(model, revision, dtype, device, tokenizer, tuning, runtime)
    ids = torch.tensor(lm.tokenizer.encode(content), dtype=torch.long)
    with terminal.progress(counts_bytes=False) as show:
        found = inspection.inspect(
            lm,
            ids,
            limit=tokens,
            advance=lambda done, total: show("reading without one token each", done, total),
        )
    report = inspection.as_report(found, lm, _name(model))
    if as_json:
        terminal.print_json(report)
    if output is not None or not as_json:
        path = output or DEFAULT_OUTPUT
        atomic.write_text(path, inspection.as_page(report))
        if not as_json:
            terminal.print_facts(str(path), _facts(report))


def _read(file: Path) -> str:
    from receptance import whole_file

    content = whole_file.read(file, limit=2**24, needed="a text", error=ConfigError)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file}: byte {error.start:,} is not UTF-8. Convert it, for example with iconv -t utf-8."
        ) from None


def _name(model: str) -> str:
    """Return what to call a model: the last part of its path, without the ending of a weight file."""
    path = Path(model)
    return (
        path.stem if path.suffix in (".safetensors", ".pth", ".gguf", ".bin", ".st") else path.name or model
    )


def _facts(report: Report) -> dict[str, str]:
    model, summary = report["model"], report["summary"]
    shown, before = len(report["tokens"]), report["tokens_before"]
    endless = summary["slowest_half_life"] is None
    return {
        "model": f"RWKV-{model['generation']}, {model['layers']} layers of {model['hidden_size']}",
        "tokens": f"{shown:,}" if not before else f"the last {shown:,}, after {before:,} that are remembered",
        "surprise": f"{summary['bits_per_token']:.3f} bits a token",
        "influence": f"half of it from the last {summary['tokens_back_for_half_of_all_influence']:,} tokens, "
        f"nine tenths from the last {summary['tokens_back_for_nine_tenths_of_all_influence']:,}",
        "half-lives": "up to endless" if endless else f"up to {summary['slowest_half_life']:.3g} tokens",
    }
