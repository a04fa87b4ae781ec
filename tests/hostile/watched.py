"""Read a file in a process of its own, and record what that process did and took.

`python -m tests.hostile.watched` imports everything once and then forks children that read what it is sent,
so that a case costs milliseconds and cannot take the tests with it. A child that has grown, crashed or done
harm is followed by a fresh one. Requests and results are lines of JSON.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any, BinaryIO

ROOT = Path(__file__).resolve().parents[2]
GIVE_UP_SECONDS = 20.0
MEMORY_LIMIT_BYTES = 3 << 30  # beyond what the process has: a bomb must not take the machine down
CASES_A_CHILD = 200
MEMORY_A_CHILD = 8 << 20  # bytes; what a case leaves behind counts against the next
LONGEST_TEXT = 20_000  # characters of an error that are kept

# What a reader may open beside the files it was given: the modules of Python and of the packages.
_LIBRARIES = tuple(
    os.path.realpath(place) + os.sep for place in (sys.prefix, sys.base_prefix, ROOT / "src", ROOT / "tests")
)
_FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.startfile", "os.kill",
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.putenv", "os.remove", "os.rename", "os.rmdir",
    "os.symlink", "os.truncate", "os.unsetenv", "os.utime", "os.setxattr", "os.chdir",
    "subprocess.", "socket.", "pty.", "shutil.", "tempfile.", "urllib.", "http.", "ftplib.", "smtplib.",
    "webbrowser.", "sqlite3.", "pickle.find_class", "ctypes.dlopen", "code.__new__", "function.__new__",
    "sys.settrace", "sys.setprofile", "builtins.input", "builtins.breakpoint", "cpython.run_",
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Result:
    """What came of reading one file."""

    outcome: str  # "loaded", "refused" (one of our errors), "failed" (any other), "crashed" or "hung"
    error: str = ""  # its type, and where it is none of ours, the way to it
    message: str = ""
    seconds: float = 0.0  # of processor time, because other programs share the machine
    growth_bytes: int = 0  # peak of resident memory, above what the process had before
    did: list[str] = field(default_factory=list)  # whatever a reader must not do


class Recorder:
    """An audit hook that notes what a reader must not do. Hooks stay for ever, so it can be switched off."""

    def __init__(self) -> None:
        self.did: set[str] = set()
        self._is_on = False
        self._allowed: tuple[str, ...] = ()
        sys.addaudithook(self._hear)

    @contextmanager
    def recording(self, folder: Path) -> Iterator[None]:
        """Note in `did` what happens in the block; files in the folder may be opened."""
        self.did, self._allowed = set(), (os.path.realpath(folder) + os.sep, *_LIBRARIES)
        self._is_on = True
        try:
            yield
        finally:
            self._is_on = False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_on:
            return
        if event == "exec":
            self._judge_running(arguments[0])
        elif event == "open":
            self._judge_opening(*arguments)
        elif event.startswith(_FORBIDDEN):
            self.did.add(f"{event} {str(arguments)[:200]}")

    def _judge_opening(self, path: Any, mode: str | None, flags: int) -> None:
        if isinstance(path, int):
            return
        path = os.fsdecode(path)
        place = os.path.realpath(path)
        if (mode and set(mode) & set("wax+")) or (mode is None and flags & _WRITING):
            self.did.add(f"opened for writing: {path[:200]!r}")
        elif not (place + os.sep).startswith(self._allowed):
            self.did.add(f"opened outside: {path[:200]!r}")

    def _judge_running(self, code: CodeType) -> None:
        # Annotations of our own modules are programs too, run when they are looked up.
        if sys._getframe(2).f_code.co_filename == typing.__file__:
            return
        file = code.co_filename
        if not file.startswith("<frozen ") and not os.path.realpath(file).startswith(_LIBRARIES):
            self.did.add(f"ran a program from {file!r} with {code.co_names}")


def _memory() -> dict[str, int]:
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {line[0][:-1]: int(line[1]) * 1024 for line in lines if line[0] in ("VmRSS:", "VmHWM:", "VmData:")}


def _mapped_files() -> set[str]:
    lines = (line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines())
    return {line[5] for line in lines if len(line) == 6 and line[5].startswith("/")}


class Reader:
    """Reads cases of one format in this process, and says what each of them did."""

    def __init__(self, read: Callable[[Path], Any], warm: Path) -> None:
        self._read, self._recorder = read, Recorder()
        read(warm)  # in a fork, pages of libraries count when they are touched first
        _limit_resources()
        self._mapped, self._start = _mapped_files(), _memory()["VmRSS"]

    def watch(self, path: Path, folder: Path) -> Result:
        """Read a path; what it may open lies in the folder."""
        from receptance.errors import ReceptanceError

        outcome, error, message = "loaded", "", ""
        modules = set(sys.modules)
        kept = None  # what was loaded stays, so that its mapped files are seen
        started = time.process_time()
        try:
            with self._recorder.recording(folder):
                kept = self._read(path)
        except ReceptanceError as refusal:
            outcome, error, message = "refused", type(refusal).__name__, str(refusal)
        except BaseException as failure:  # also SystemExit, and the panics of compiled packages
            trace = traceback.extract_tb(failure.__traceback__)[:-6:-1]
            way = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in trace)
            outcome, error, message = "failed", f"{type(failure).__name__} at {way}", str(failure)
        seconds = time.process_time() - started
        growth = _memory()["VmHWM"] - self._start
        allowed = (os.path.realpath(folder) + os.sep, *_LIBRARIES, "/usr/lib", "/lib")
        did = sorted(self._recorder.did)[:20]
        did += [f"mapped {file}" for file in _mapped_files() - self._mapped if not file.startswith(allowed)]
        did += [f"imported {name}" for name in set(sys.modules) - modules if not _is_harmless(name)]
        del kept
        Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
        return Result(outcome, error, message[:LONGEST_TEXT], seconds, growth, did)

    def serve(self, requests: BinaryIO, results: BinaryIO) -> None:
        """Answer requests until there are no more."""
        for line in requests:
            _send(results, asdict(self.watch(*map(Path, json.loads(line)))))


def _send(stream: BinaryIO, value: object) -> None:
    stream.write(json.dumps(value).encode() + b"\n")
    stream.flush()


def _is_harmless(module: str) -> bool:
    return module.partition(".")[0] in {"receptance", "torch", "numpy", "encodings", "tests", "tokenizers"}


def _limit_resources() -> None:
    for limit, most in (
        (resource.RLIMIT_FSIZE, 0),  # whoever writes into a file, in whatever language, is killed
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, _memory()["VmData"] + MEMORY_LIMIT_BYTES),
    ):
        resource.setrlimit(limit, (most, most))


class Child:
    """A forked process with a `Reader`, seen from the one that forked it."""

    def __init__(self, read: Callable[[Path], Any], warm: Path) -> None:
        (theirs, to_child), (from_child, ours) = os.pipe(), os.pipe()
        self._process = os.fork()
        if self._process == 0:
            os.close(to_child)
            os.close(from_child)
            with (
                suppress(BaseException),
                os.fdopen(theirs, "rb") as requests,
                os.fdopen(ours, "wb") as results,
            ):
                Reader(read, warm).serve(requests, results)
            os._exit(0)
        os.close(theirs)
        os.close(ours)
        self._requests, self._results = os.fdopen(to_child, "wb"), os.fdopen(from_child, "rb")
        self._cases = 0
        self.is_alive = True

    def read(self, path: str, folder: str) -> Result:
        """Return what comes of a case; one that leaves traces, or many, end the process."""
        _send(self._requests, [path, folder])
        is_ready = select.select([self._results], [], [], GIVE_UP_SECONDS)[0]
        line = self._results.readline() if is_ready else b""
        if line:
            result = Result(**json.loads(line))
            self._cases += 1
            if self._cases == CASES_A_CHILD or result.growth_bytes > MEMORY_A_CHILD or result.did:
                self.close()
            return result
        os.kill(self._process, signal.SIGKILL)
        number = self.close()
        if not is_ready:
            return Result("hung", seconds=GIVE_UP_SECONDS)
        return Result("crashed", signal.Signals(-number).name if number < 0 else f"exit {number}")

    def close(self) -> int:
        """End the process, and return the status it ended with."""
        self.is_alive = False
        with suppress(BrokenPipeError):
            self._requests.close()
        self._results.close()
        return os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])


def _serve(requests: BinaryIO, results: BinaryIO) -> None:
    from receptance import native
    from tests.hostile.corpus import FORMATS

    native.library()  # here, because no case may load a library
    formats = {each.name: each for each in FORMATS}
    child, reads = None, ""  # one at a time, because a second would hold the pipes of the first open
    warm: dict[str, Path] = {}
    for line in requests:
        name, path, folder, is_warm = json.loads(line)
        if child and child.is_alive and (is_warm or name != reads):
            child.close()
        if is_warm:  # so that no case pays for what is imported on first use
            formats[name].read(Path(path))
            warm.setdefault(name, Path(path))
            gc.collect()
            gc.freeze()
            _send(results, asdict(Result("loaded")))
            continue
        if child is None or not child.is_alive:
            child, reads = Child(formats[name].read, warm[name]), name
        _send(results, asdict(child.read(path, folder)))
    if child and child.is_alive:
        child.close()


class Watcher:
    """The process that watches, seen from the tests."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment["RUST_BACKTRACE"] = "0"
        places = [str(ROOT / "src"), str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(places)
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.hostile.watched"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd="/",
        )  # fmt: skip

    def read(self, format_name: str, path: Path, folder: Path, *, warm: bool = False) -> Result:
        """Return what comes of reading a path as a format; `warm` only makes the process ready for it."""
        assert self._process.stdin
        assert self._process.stdout
        _send(self._process.stdin, [format_name, os.fspath(path), os.fspath(folder), warm])
        answer = self._process.stdout.readline()
        assert answer, "the watching process died"
        return Result(**json.loads(answer))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


if __name__ == "__main__":
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a reader prints must not be taken for a result
    _serve(sys.stdin.buffer, out)
