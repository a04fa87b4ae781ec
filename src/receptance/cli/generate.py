"""`receptance generate`: continue a text, as it is written or as one JSON object."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from receptance.cli import options, sampling, terminal
from receptance.errors import ConfigError

if TYPE_CHECKING:
    from receptance.inference import Loaded, Piece, Speculation


PROMPT = Parameter(alias="-p", allow_leading_hyphen=True, help="The text to continue.")
PROMPT_FILE = Parameter(
    allow_leading_hyphen=True, help="A UTF-8 file with the text to continue; - is standard input."
)
MAX_TOKENS = Parameter(alias="-n", help="Stop after so many tokens.")
SEED = Parameter(help="Makes the text repeatable; a fresh one where none is given.")
LOGPROBS = Parameter(
    help="With --json: the log-probability of each token, and of so many of the most likely in its place."
)
SAVE_STATE = Parameter(help="Write what the model remembers at the end to a file, to go on from there later.")
LOAD_STATE = Parameter(
    help="Go on with the text whose end --save-state wrote: with the prompt, or without one where it stopped."
)
SPECULATE = Parameter(
    help="Write the same text faster where it repeats itself: guess that it goes on as it did before."
)
DRAFT_MODEL = Parameter(
    help="Write the same text faster where a smaller model, with the same tokenizer, guesses it right."
)
STOP = Parameter(
    allow_leading_hyphen=True,
    negative="",
    help=r"End where this text would come; may be given several times. A line break is $'\n' in most shells.",
)


def generate(
    model: options.Model,
    /,
    *,
    prompt: Annotated[str | None, PROMPT] = None,
    prompt_file: Annotated[Path | None, PROMPT_FILE] = None,
    max_tokens: Annotated[int, MAX_TOKENS] = 100,
    drawing: sampling.Drawing = sampling.REFERENCE,
    seed: Annotated[int | None, SEED] = None,
    stop: Annotated[list[str] | None, STOP] = None,
    load_state: Annotated[Path | None, LOAD_STATE] = None,
    save_state: Annotated[Path | None, SAVE_STATE] = None,
    logprobs: Annotated[int | None, LOGPROBS] = None,
    speculate: Annotated[Literal["lookup"] | None, SPECULATE] = None,
    draft_model: Annotated[str | None, DRAFT_MODEL] = None,
    as_json: options.Json = False,
    revision: options.Revision = None,
    dtype: options.PackedDtype = None,
    runtime: options.Runtime = "auto",
    device: options.Device = "cpu",
    tokenizer: options.Tokenizer = None,
    tuning: options.Tuning = options.NO_TUNING,
) -> None:
    """Continue a text: read it in parallel, then write token by token as an RNN.

    The prompt comes from --prompt, --prompt-file or what is piped in (one line break at the end of a file or
    a pipe is dropped). Without any, the model starts a new document. The text goes to standard output as it
    comes, on a terminal after the prompt and with control characters made visible.

    With --save-state and --load-state it goes on later: what is written in two parts, with one seed, is what
    would have been written in one. --speculate and --draft-model need the native runtime.
    """
    text = _prompt(prompt, prompt_file)
    if logprobs is not None and not as_json:
        raise ConfigError("--logprobs are written by --json only: add it, or leave --logprobs out.")
    if load_state and tuning.state:
        raise ConfigError(
            "--load-state goes on with a text that has begun: --state comes too late, leave it out."
        )
    if save_state and not save_state.parent.is_dir():
        raise ConfigError(f"--save-state {save_state}: there is no folder {save_state.parent} to write to.")
    settings = drawing.sampling(seed)
    lm = options.load(model, revision, dtype, device, tokenizer, tuning, runtime)
    history = lm.load_history(load_state) if load_state else lm.history()
    tokens = lm.tokenizer.encode(text)
    speculation = _speculation(lm, speculate, draft_model, dtype, tokenizer)
    pieces = lm.pieces(
        tokens,
        max_tokens=max_tokens,
        sampling=settings,
        stop=stop or (),
        history=history,
        logprobs=logprobs,
        speculate=speculation,
    )
    _write(Report(text, len(tokens), settings.seed, speculation), pieces, as_json)
    if save_state:
        lm.save_history(history, save_state)


def _speculation(
    lm: Loaded,
    speculate: Literal["lookup"] | None,
    draft_model: str | None,
    dtype: options.PackedDtypeName | None,
    tokenizer: str | None,
) -> Speculation | None:
    if speculate and draft_model:
        raise ConfigError("--speculate lookup and --draft-model both guess the next tokens: leave one out.")
    if draft_model:
        return lm.speculation(options.load(draft_model, None, dtype, "cpu", tokenizer, runtime="auto"))
    return lm.speculation(speculate) if speculate else None


def _write(report: Report, pieces: Iterable[Piece], as_json: bool) -> None:
    """Write the text as it comes, or a report of it when it is whole."""
    if not as_json and sys.stdout.isatty():
        terminal.write_dim(report.prompt)
    for piece in report.watch(pieces):
        if not as_json:
            terminal.write(piece.text)
    if as_json:
        terminal.print_json(report.as_dict())
    else:
        terminal.write("" if report.text.endswith("\n") else "\n")
        terminal.note(report.summary())


@dataclass
class Report:
    """What was written, and how fast."""

    prompt: str
    prompt_tokens: int
    seed: int
    speculation: Speculation | None
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[dict[str, object]] = field(default_factory=list)
    finish_reason: str | None = None
    started: float = 0.0
    times: list[float] = field(default_factory=list)

    def watch(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Pass the pieces on, and take note of each and of when it came."""
        self.started = time.perf_counter()
        for piece in pieces:
            self.times.append(time.perf_counter())
            self.tokens.append(piece.token)
            self.text += piece.text
            if piece.logprob is not None:
                self.logprobs.append(
                    {"logprob": piece.logprob, "top": [list(pair) for pair in piece.top_logprobs]}
                )
            self.finish_reason = piece.finish_reason
            yield piece

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
            **({"logprobs": self.logprobs} if self.logprobs else {}),
            "finish_reason": self.finish_reason,
            "seed": self.seed,
            "prompt_tokens": self.prompt_tokens,
            "prefill_tokens_per_second": self.prefill_rate,
            "decode_tokens_per_second": self.decode_rate,
            **self._guesses(),
        }

    def _guesses(self) -> dict[str, int]:
        """Return how many tokens were guessed and read ahead, and how many of them were right."""
        speculation = self.speculation
        if speculation is None:
            return {}
        return {"drafted_tokens": speculation.drafted, "accepted_tokens": speculation.accepted}

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
        if self.speculation:
            written += f", {self.speculation.accepted} of {self.speculation.drafted} guesses right"
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
