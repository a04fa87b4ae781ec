"""All claims, each in a process of its own: `python -m reproduction --scale tiny`.

Those that measure the machine run first, one after the other; the others share the cores, because a small
model is trained faster on a core of its own than on all of them. A claim that fails is reported and the next
one runs. What was measured by an earlier call is not measured again, so an interrupted call goes on;
`--again` measures everything anew.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from reproduction.claims import NAMES, claim
from reproduction.command import add_options, command_of
from reproduction.record import Record
from reproduction.report import write_report

INTERRUPTED = 130
SIDE_BY_SIDE = {"tiny": os.cpu_count() or 1, "cpu": 2}  # claims; a GPU has one at a time


@dataclass
class Run:
    """The claims that were run so far, and how they ended."""

    arguments: argparse.Namespace
    codes: dict[str, int] = field(default_factory=dict)

    def side_by_side(self, names: Sequence[str], processes: int) -> None:
        """Run claims, so many at a time, each on its share of the cores."""
        cores = max(1, (os.cpu_count() or 1) // processes)
        with ThreadPoolExecutor(processes) as pool:
            for done in [pool.submit(self._one, name, cores) for name in names]:
                done.result()

    def _one(self, name: str, cores: int) -> None:
        if INTERRUPTED in self.codes.values():
            return
        print(f"{name} …", flush=True)
        began = time.perf_counter()
        environment = os.environ | {"OMP_NUM_THREADS": str(cores)}
        code = subprocess.run(words_for(name, self.arguments), env=environment).returncode
        self.codes[name] = code
        count = f"[{len(self.codes)}/{len(self.arguments.only)}]"
        print(f"{count} {name}: {time.perf_counter() - began:.0f} s", flush=True)
        if code and code != INTERRUPTED:
            self._failed(name, code)

    def _failed(self, name: str, code: int) -> None:
        Record(
            claim=name,
            scale=self.arguments.scale,
            command=command_of(claim(name), self.arguments),
            failure=f"it ended with exit code {code}",
        ).save(self.arguments.results)


def main() -> int:
    """Run the claims. Returns 1 where one of them failed, whatever it says; a claim may well not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduction", description=(__doc__ or "").splitlines()[0]
    )
    add_options(parser)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="these claims (default: all)")
    arguments = parser.parse_args()
    run = Run(arguments)
    timed = [name for name in arguments.only if claim(name).is_timed]
    run.side_by_side(timed, 1)
    others = [name for name in arguments.only if name not in timed]
    run.side_by_side(others, SIDE_BY_SIDE.get(arguments.scale, 1))
    write_report(arguments.results)  # two that ended at once may have missed each other
    if INTERRUPTED in run.codes.values():
        return INTERRUPTED
    if failed := [name for name, code in run.codes.items() if code]:
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
        sys.exit(INTERRUPTED)
