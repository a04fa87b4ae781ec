"""No name that is asked for, and no answer of a hub, opens or writes anything outside the cache."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from receptance import checkpoints
from tests.checkpoints.files import random_model
from tests.checkpoints.hub_server import HubServer

UPWARDS = [
    "../", "../../", "../../../", "../../../../../../../../tmp/", "/", "//", "/tmp/", "/etc/", "~/", "./",
    "x/../../", "x/../../../../", "..\\", "..\\..\\..\\", "\\", "\\\\server\\share\\", "C:\\", "C:", "C:/",
    "x\\..\\..\\", "file:///tmp/", "http://localhost/", "%2e%2e/", "%2e%2e%2f", "..%2f..%2f", "..%00/",
    "..\0/", "\0", "\0/tmp/", " ../", "../ ", ".../", "....//", "..;/", "$HOME/", "${HOME}/", "`id`/",
    "$(id)/", "|", ";", "&", "\n", "\r\n../", "\t../", "\x1b[2J", "\x7f", "\u202e", "\u2025/",
    "\uff0e\uff0e/",
    "\u2215tmp\u2215", "\uff0ftmp\uff0f", "\ufeff../", "\ud800/", "-", "--", ".", "..", ".git/", ".ssh/",
    "CON:", "nul:", "a" * 5000 + "/", "é" * 200 + "/", "../" * 500,
]  # fmt: skip
NAMES = [f"{up}{name}" for up in UPWARDS for name in ("evil/name", "org/evil.pth")]
NAMES += [f"org/evil{between}{up}x.pth" for up in UPWARDS for between in ("/", "@")]
FILES = [f"{up}{name}" for up in UPWARDS for name in ("evil.pth", "model.safetensors")]
# The library makes paths of these headers. The last folder is there, so that it could be written to.
HEADERS = [
    {name: value}
    for name in ("ETag", "X-Linked-ETag", "X-Repo-Commit")
    for value in (
        '"../../../../evil"', '"/OUTSIDE/evil"', '"a/../../../../../../outside/evil"', "../../../../evil",
        'W/"../../../../evil"', '".."', '"."', '"..\\evil"', '"C:\\evil"', "/", '"a b"', "~/evil",
        '"../../../../outside/evil"',
    )
]  # fmt: skip

# A program that asks for models, and says of each how that ended and what was opened outside the cache.
ASKING = """
import json, os, sys
from receptance import checkpoints
from receptance.checkpoints import hub
from receptance.errors import ReceptanceError

paths_of = {"open": slice(0, 1), "os.rename": slice(0, 2), "os.link": slice(0, 2), "os.symlink": slice(1, 2)}
paths_of |= dict.fromkeys(["os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod"], slice(0, 1))
cache = os.path.join(os.path.realpath(os.environ["HF_HOME"]), "")
did = None

def watch(event, arguments):
    if did is not None and event in paths_of:
        for path in arguments[paths_of[event]]:
            if isinstance(path, (str, bytes)):
                folder = os.path.realpath(os.path.dirname(os.path.abspath(os.fsdecode(path))))
                if not os.path.join(folder, "").startswith(cache):
                    did.append(f"{event} {os.fsdecode(path)!r}")

checkpoints.load(hub.local_path("org/warm"))  # which imports all that is needed
sys.addaudithook(watch)
for name in json.load(sys.stdin):
    did = []
    try:
        checkpoints.load(hub.local_path(name))
        end = "loaded"
    except ReceptanceError:
        end = "refused"
    except Exception as error:
        end = repr(error)
    seen, did = did, None
    print(json.dumps([name, end, seen]))
"""


def asked_for(
    names: list[str], server: HubServer, home: Path, here: Path
) -> list[tuple[str, str, list[str]]]:
    """Ask for models in a process of its own; return each name, how it ended, and what was opened outside."""
    done = subprocess.run(
        [sys.executable, "-c", ASKING],
        input=json.dumps(names),
        cwd=here,
        env=server.environment(home),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_nothing_leads_out_of_the_cache(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    for folder in ("here", "outside", "home"):
        (tmp_path / folder).mkdir()
    checkpoints.save(random_model(), tmp_path / "home" / "a.pth", format="pth")
    weights = (tmp_path / "home" / "a.pth").read_bytes()
    names = list(NAMES)
    with HubServer() as server:
        server.repository("org/warm", {"a.pth": weights, "tokenizer.json": b"{}"})
        for index, file in enumerate(FILES):
            server.repository(f"file/a{index}", {}).listing = [file, file, "config.json"]
            names.append(f"file/a{index}")
        for index, headers in enumerate(HEADERS):
            told = {
                name: value.replace("/OUTSIDE", str(tmp_path / "outside")) for name, value in headers.items()
            }
            for kind, beside in (("large", {}), ("small", {"config.json": b"{}"}), ("absent", {})):
                repository = server.repository(f"{kind}/a{index}", {"a.pth": weights, **beside})
                repository.headers = told
                # That a file is absent, the library notes in a folder that is called as the commit.
                repository.missing = frozenset({"a.pth"} if kind == "absent" else ())
                names.append(f"{kind}/a{index}")
        results = asked_for(names, server, tmp_path / "home", tmp_path / "here")
    assert len(results) == len(names) >= 400
    assert [(name, did) for name, _, did in results if did] == []
    assert [(name, end) for name, end, _ in results[len(NAMES) :] if end != "refused"] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "home", "outside"]
    assert not [*(tmp_path / "here").iterdir(), *(tmp_path / "outside").iterdir()]
    record_property("figure", f"names and answers that could lead out of the cache of a hub: {len(results)}")
