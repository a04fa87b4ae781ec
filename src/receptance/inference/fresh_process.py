"""A call in a process of its own: what it measures is disturbed by nothing that ran here before."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from receptance.errors import ReceptanceError

Result = TypeVar("Result")
Report = Callable[[str, int, int], None]
Work = Callable[[Report], Result]


def call_in_fresh_process(work: Work[Result], report: Report) -> Result:
    """Return what `work(report)` returns there, or raise what it raises on purpose.

    work    can be pickled: a function of a module, or a `partial` of one
    report  is called here with what the work reports there

    Raises ReceptanceError when the process ends without an answer, as it does where memory runs out.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(work, sender), daemon=True)
    process.start()
    sender.close()  # the end of the other process alone, so that its death is the end of the stream
    try:
        while True:
            kind, value = receiver.recv()
            if kind == "report":
                report(*value)
            elif kind == "error":
                raise value
            else:
                result: Result = value
                return result
    except EOFError:
        process.join()
        raise ReceptanceError(
            f"the process that was to measure ended with exit code {process.exitcode}"
            + (": the system may have run out of memory." if process.exitcode == -signal.SIGKILL else ".")
        ) from None
    finally:
        process.terminate()
        process.join()


# Any: a result of whatever the work returns.
def _answer(work: Work[Any], sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C reaches both processes, and the other one ends this
    try:
        result = work(lambda *progress: sender.send(("report", progress)))
    except (ReceptanceError, OSError) as error:
        sender.send(("error", error))
    else:
        sender.send(("result", result))
