"""The entry point `receptance`: which commands there are, and how each way of ending looks to the shell.

Exit codes: 0 done, 1 an error that the message explains (or a verification that failed), 2 a command line
that makes no sense, 130 interrupted. Nothing here imports torch, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

import receptance
from receptance.errors import ReceptanceError

# The command of a name is the function of that name in the module of that name; its docstring is its help.
COMMANDS = (
    "prepare",
    "plan",
    "train",
    "plot",
    "generate",
    "verify",
    "evaluate",
    "inspect",
    "bench",
    "info",
    "convert",
    "quantize",
)

app = App(
    name="receptance",
    help="Train, run, check and convert RWKV language models.",
    version=lambda: receptance.__version__,
    result_action="return_int_as_exit_code_else_zero",
    exit_on_error=False,
    suppress_keyboard_interrupt=False,
)
for _position, _name in enumerate(COMMANDS):
    app.command(f"receptance.cli.{_name}:{_name}", name=_name, sort_key=_position)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; without arguments, those of the process."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if not words or words[0] in app.help_flags:
            _import_commands()
        code = app(words)
        sys.stdout.flush()
        return int(code)
    except CycloptsError:
        return 2  # cyclopts has printed what is wrong with the command line
    except ReceptanceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        # A terminal shows ^C at the end of whatever was being written.
        print("\ninterrupted" if sys.stderr.isatty() else "interrupted", file=sys.stderr)
        return 130


def _import_commands() -> None:
    """Import every command, for the list that shows the first line of each one's help."""
    for name in COMMANDS:
        app[name]
