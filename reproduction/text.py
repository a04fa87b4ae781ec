"""The text that models are trained on: Python's own sources, which every machine has, or named files."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp

from receptance import data
from receptance.training.config import DataConfig
from receptance.training.corpus import Corpus, open_corpus

FOLDER = Path("runs/reproduction/text")
VALIDATION = 0.05  # of the text
# As `make demo` has it: what not every build of Python has, or is not written by hand.
LEFT_OUT = (
    "site-packages/*",
    "test/*",
    "*/test*/*",
    "lib2to3/*",
    "idlelib/*",
    "encodings/*",
    "pydoc_data/*",
)


def corpus(texts: Sequence[Path], context: int, tokenizer: str = "bytes", seed: int = 0) -> Corpus:
    """Return the text in samples of `context` tokens; the first call tokenises it.

    texts      files or folders as `receptance prepare` takes them; none: Python's own sources
    tokenizer  a name, or bpe:4096 to learn that many tokens from the text
    """
    sources = [str(path) for path in texts] or [sysconfig.get_path("stdlib")]
    identity = sha256("\n".join([tokenizer, *sources]).encode()).hexdigest()[:8]
    folder = FOLDER / f"{tokenizer.replace(':', '-')}-{identity}"
    if not (folder / "data.json").is_file():
        _prepare(sources, folder, tokenizer, are_own=not texts)
    return open_corpus(DataConfig(folder=folder, context=context), seed)


def _prepare(sources: Sequence[str], folder: Path, tokenizer: str, are_own: bool) -> None:
    """Tokenise into a folder that appears whole: another claim may want the same text at the same time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    ours = Path(mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        data.prepare(
            sources,
            ours,
            tokenizer=tokenizer,
            include=("*.py",) if are_own else (),
            exclude=LEFT_OUT if are_own else (),
            errors="skip" if are_own else "strict",
            validation_fraction=VALIDATION,
        )
        with suppress(OSError):  # where the other one was first
            ours.rename(folder)
    finally:
        shutil.rmtree(ours, ignore_errors=True)
