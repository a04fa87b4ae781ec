"""`receptance generate`: continue a text, as it is written or as one JSON object."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from receptance.cli import terminal
from receptance.errors import ConfigError

if TYPE_CHECKING:
    from receptance.inference import Piece

DtypeName = Literal["float32", "bfloat16", "float16", "float64"]


def generate(
    model: Path,
    /,
    *,
    prompt: Annotated[str | None, Parameter(alias="-p", allow_leading_hyphen=True)] = None,
    prompt_file: Annotated[Path | None, Parameter(allow_leading_hyphen=True)] = None,
    max_tokens: Annotated[int, Parameter(alias="-n")] = 100,
    temperature: float = 1.0,
    top_p: float = 0.85,
    top_k: int = 0,
    seed: int | None = None,
    stop: Annotated[list[str] | None, Parameter(allow_leading_hyphen=True, negative="")] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", show_default=False)] = False,
    dtype: DtypeName | None = None,
    device: str = "cpu",
    tokenizer: str | None = None,
) -> None:
    r"""Continue a text: read it in parallel, then write token by token as an RNN.

    The prompt comes from --prompt, --prompt-file or what is piped in (one line break at the end of a file or
    a pipe is dropped). Without any, the model starts a new document. The text goes to standard output as it
    comes, on a terminal after the prompt and with control characters made visible.

    Parameters
    ----------
    model
        A checkpoint: a file, a Hugging Face folder or a run folder.
    prompt
        The text to continue.
    prompt_file
        A UTF-8 file with the text to continue; - is standard input.
    max_tokens
        Stop after so many tokens.
    temperature
        Above 1 more surprising, below 1 less; 0 always takes the most likely token.
    top_p
        Draw among the most likely tokens that together have this probability; 1 is off.
    top_k
        Draw among so many of the most likely tokens; 0 is off.
    seed
        Makes the text repeatable; a fresh one where none is given.
    stop
        End where this text would come; may be given several times. A line break is $'\n' in most shells.
    as_json
        Print one JSON object: prompt, text, tokens, finish_reason, seed and speeds.
    dtype
        Number format of the matrices; that of the file where none is given.
    device
        Where to run: cpu, cuda, cuda:1, …
    tokenizer
        A vocabulary file, or a name such as bytes; found beside the model where none is given.
    """
    text = _prompt(prompt, prompt_file)
    import torch

    from receptance.inference import Sampling, fresh_seed, load

    seed = fresh_seed() if seed is None else seed
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
    lm = load(model, dtype=getattr(torch, dtype) if dtype else None, device=device, tokenizer=tokenizer)
    tokens = lm.tokenizer.encode(text)
    pieces = lm.pieces(tokens, max_tokens=max_tokens, sampling=sampling, stop=stop or ())
    if not as_json and sys.stdout.isatty():
        terminal.write_dim(text)
    report = Report(prompt=text, prompt_tokens=len(tokens), seed=seed, started=time.perf_counter())
    for piece in pieces:
        report.add(piece)
        if not as_json:
            terminal.write(piece.text)
    if as_json:
        terminal.print_json(report.as_dict())
    else:
        terminal.write("" if report.text.endswith("\n") else "\n")
        terminal.note(report.summary())


@dataclass(kw_only=True)
class Report:
    """What was written, and how fast."""

    prompt: str
    prompt_tokens: int
    seed: int
    started: float
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    times: list[float] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Take note of a token that has just come."""
        self.times.append(time.perf_counter())
        self.tokens.append(piece.token)
        self.text += piece.text
        self.finish_reason = piece.finish_reason

    @property
    def prefill_rate(self) -> float:
        """Tokens of the prompt read in a second, until the first new token is there."""
        return max(self.prompt_tokens, 1) / (self.times[0] - self.started)

    @property
    def decode_rate(self) -> float | None:
        """Tokens written in a second after the first; None where there is but one."""
        return (len(self.tokens) - 1) / (self.times[-1] - self.times[0]) if len(self.tokens) > 1 else None

    def as_dict(self) -> dict[str, object]:
        """Return what --json prints."""
        return {
            "prompt": self.prompt,
            "text": self.text,
            "tokens": self.tokens,
            "finish_reason": self.finish_reason,
            "seed": self.seed,
            "prompt_tokens": self.prompt_tokens,
            "prefill_tokens_per_second": self.prefill_rate,
            "decode_tokens_per_second": self.decode_rate,
        }

    def summary(self) -> str:
        """Return the same figures for a reader."""
        reasons = {
            "length": "--max-tokens",
            "stop": "a stop string",
            "end_of_text": "the model's end of text",
        }
        written = f"{len(self.tokens)} written" + (
            f" at {self.decode_rate:,.0f}/s" if self.decode_rate else ""
        )
        return (
            f"tokens: {self.prompt_tokens} read at {self.prefill_rate:,.0f}/s, {written}; "
            f"ended by {reasons[str(self.finish_reason)]}; seed {self.seed}"
        )


def _prompt(text: str | None, file: Path | None) -> str:
    """Return the prompt from wherever it comes."""
    if text is not None and file is not None:
        raise ConfigError(
            "--prompt and --prompt-file were both given, but there is one prompt: leave one out."
        )
    if text is None and file is None and (sys.stdin is None or sys.stdin.isatty()):
        return ""
    if text is not None:
        # What the shell passed on that is not UTF-8 comes as lone surrogates.
        data, source = text.encode(errors="surrogateescape"), "--prompt"
    elif file is None or str(file) == "-":
        data, source = sys.stdin.buffer.read(), "standard input"
    else:
        data, source = file.read_bytes(), str(file)
    try:
        decoded = data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{source}: byte {error.start} is 0x{data[error.start]:02x}, which is not UTF-8 text."
        ) from error
    if text is not None:
        return text
    return decoded.removesuffix("\r\n") if decoded.endswith("\r\n") else decoded.removesuffix("\n")
