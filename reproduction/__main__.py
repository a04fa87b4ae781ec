"""All claims, one after the other, each in a process of its own: `python -m reproduction --scale tiny`.

A claim that fails is reported and the next one runs. What was measured by an earlier call is not measured
again, so an interrupted call goes on; `--again` measures everything anew.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from reproduction.claims import NAMES, claim
from reproduction.command import add_options, command_of
from reproduction.record import Record
from reproduction.report import write_report


def main() -> int:
    """Run the claims. Returns 1 where one of them failed, whatever it says; a claim may well not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduction", description=(__doc__ or "").splitlines()[0]
    )
    add_options(parser)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="these claims (default: all)")
    arguments = parser.parse_args()
    failed = []
    for number, name in enumerate(arguments.only, start=1):
        print(f"[{number}/{len(arguments.only)}] {name}", flush=True)
        began = time.perf_counter()
        code = subprocess.run(words_for(name, arguments)).returncode
        print(f"  {time.perf_counter() - began:.0f} s", flush=True)
        if code == 130:
            return code
        if code:
            failed.append(name)
            command = command_of(claim(name), arguments)
            failure = f"it ended with exit code {code}"
            Record(claim=name, scale=arguments.scale, command=command, failure=failure).save(
                arguments.results
            )
            write_report(arguments.results)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    print(f"The report: {arguments.results.parent / 'README.md'}")
    return 1 if failed else 0


def words_for(name: str, arguments: argparse.Namespace) -> list[str]:
    """Return the command of one claim with the options of all."""
    words = [sys.executable, "-m", f"reproduction.{name}", "--scale", arguments.scale]
    words += ["--results", str(arguments.results)]
    words += ["--again"] if arguments.again else []
    return words + (["--text", *map(str, arguments.text)] if arguments.text else [])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
