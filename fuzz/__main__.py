"""Run one target under atheris: `python -m fuzz NAME [options of libFuzzer]`, such as -max_total_time=60."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import atheris

FOLDER = Path(__file__).parent
FOUND = FOLDER.parent / "build" / "fuzz"
OPTIONS = ("-timeout=10", "-rss_limit_mb=1500", "-max_len=4096", "-print_final_stats=1")


def main(name: str, *options: str) -> None:
    """Give a target bytes until the time is over, or an input breaks it."""
    found, corpus = FOUND / name, FOLDER / "corpus" / name
    found.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=["receptance"]):
        target = importlib.import_module(f"fuzz.fuzz_{name}")
    words = found / "words.dict"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in getattr(target, "WORDS", ())))
    places = (str(found / "inputs"), str(corpus))
    (found / "inputs").mkdir(exist_ok=True)
    atheris.Setup(
        [sys.argv[0], *OPTIONS, f"-dict={words}", f"-artifact_prefix={found}/", *options, *places],
        target.read,
    )
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main(*sys.argv[1:])
