"""The entry point: help without torch, suggestions, and exit codes that say how a command ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import receptance
from receptance import checkpoints
from receptance.cli.main import COMMANDS, main
from tests.inference.models import random_model

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


# Programs that are started in the background are told to ignore interrupts, and so are those that they start.
PROGRAM = """
import signal, sys
from receptance.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """Start the program with pipes, as from a terminal."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )


@pytest.fixture
def endless(tmp_path: Path) -> subprocess.Popen[bytes]:
    """A program that writes text, has begun to, and would go on for hours."""
    checkpoints.save(random_model(), tmp_path / "model.safetensors", tokenizer="bytes")
    process = start("generate", str(tmp_path), "--prompt", "a", "--max-tokens", "10000000", "--seed", "1")
    assert process.stdout is not None
    assert process.stdout.read(1) != b""
    return process


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS), ["--version"]])
def test_help_is_given_without_importing_torch(arguments: list[str]) -> None:
    script = (
        "import sys; from receptance.cli.main import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=ENVIRONMENT,
    )
    assert done.stdout.endswith("False\n")
    assert done.stderr == ""


def test_the_list_of_commands_says_what_each_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, purpose in [
        ("generate", "Continue a text"),
        ("info", "Describe this installation, or a model."),
    ]:
        assert any(name in line and purpose in line for line in shown.splitlines())
    assert all(name in shown for name in COMMANDS)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{receptance.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["genrate"], 'Did you mean "generate"?'),
        (["generate"], "MODEL"),
        (["generate", "m", "--temprature", "1"], "Did you mean --temperature?"),
        (["generate", "m", "--temperature", "hot"], 'unable to convert "hot" into float'),
        (["generate", "m", "--dtype", "int3"], "int3"),
        (["verify", "m", "extra"], "extra"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_explained_and_exits_with_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert complaint in printed.err
    assert printed.out == ""


def test_an_error_is_one_message_without_a_traceback_and_exits_with_1(tmp_path: Path) -> None:
    process = start("generate", str(tmp_path / "no-model"), "--prompt", "a")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == b""
    assert err.startswith(b"error: ")
    assert b"no-model" in err
    assert b"Traceback" not in err


def test_an_interrupt_ends_quietly_with_130(endless: subprocess.Popen[bytes]) -> None:
    endless.send_signal(signal.SIGINT)
    _, err = endless.communicate(timeout=60)
    assert endless.returncode == 130
    assert err == b"interrupted\n"


def test_a_reader_that_has_seen_enough_ends_the_program_quietly(endless: subprocess.Popen[bytes]) -> None:
    assert endless.stdout is not None
    assert endless.stderr is not None
    endless.stdout.close()
    assert endless.wait(timeout=60) == 0
    assert endless.stderr.read() == b""
    endless.stderr.close()
