"""Nothing in the package runs what a file says: no unpickler, no evaluated text, no code beside weights."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "receptance"
MODULES = sorted(PACKAGE.rglob("*.py"))

MODULES_THAT_RUN_FILES = {
    "_pickle", "cPickle", "cloudpickle", "code", "codeop", "dill", "imp", "jinja2", "joblib", "marshal",
    "multiprocessing", "pickle", "pty", "runpy", "shelve", "subprocess", "yaml",
}  # fmt: skip
NAMES_THAT_RUN_TEXT = {"eval", "exec", "compile", "__import__", "breakpoint"}
FUNCTIONS_THAT_RUN_FILES = {
    "numpy.load", "np.load", "os.execv", "os.popen", "os.spawnv", "os.system", "pandas.read_pickle",
    "torch.compiler.load_cache_artifacts", "torch.hub", "torch.jit.load", "torch.load", "torch.package",
    "torch.utils.cpp_extension",
}  # fmt: skip
ARGUMENTS_THAT_TRUST = {"allow_pickle", "trust_remote_code", "weights_only"}

# What loads code, and the only places that may: each names what it loads in its own text. A process of ours
# gets its pickles from us alone.
PLACES = {
    "ctypes.CDLL": {"native.py"},
    "importlib.import_module": {
        "__init__.py",
        "checkpoints/gguf/model.py",
        "data/tables.py",
        "data/unpacking.py",
    },
    "multiprocessing": {"inference/fresh_process.py", "data/shards.py"},
    "multiprocessing.connection": {"inference/fresh_process.py"},
}


def dangers(tree: ast.Module) -> Iterator[str]:
    """Yield whatever in a module could run what a file says."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (
                    name.name for name in names if name.name.partition(".")[0] in MODULES_THAT_RUN_FILES
                )
            case ast.ImportFrom(module=str(module), names=names):
                if module.partition(".")[0] in MODULES_THAT_RUN_FILES:
                    yield module
                imported = {f"{module}.{name.name}" for name in names}
                yield from imported & (FUNCTIONS_THAT_RUN_FILES | PLACES.keys())
            case ast.Name(id=name, ctx=ast.Load()) if name in NAMES_THAT_RUN_TEXT:
                yield name
            case ast.Attribute():
                if (dotted := ast.unparse(node)) in FUNCTIONS_THAT_RUN_FILES:
                    yield dotted
            case ast.Call(func=function) if (dotted := ast.unparse(function)) in PLACES:
                yield dotted
            case ast.keyword(arg=str(argument)) if argument in ARGUMENTS_THAT_TRUST:
                yield argument


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_runs_what_a_file_says(path: Path) -> None:
    place = path.relative_to(PACKAGE).as_posix()
    found = set(dangers(ast.parse(path.read_text(encoding="utf-8"))))
    assert not {danger for danger in found if place not in PLACES.get(danger, ())}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "import a, marshal as m", "from pickle import loads", "from torch import load",
        "eval('1')", "run = exec", "torch.load(path, weights_only=True)", "loader = torch.load",
        "from os import system", "x = np.load(f)", "f(trust_remote_code=True)", "import yaml",
        "torch.hub.load('a')", "importlib.import_module(name)", "from ctypes import CDLL",
    ],
)  # fmt: skip
def test_what_would_be_is_found(text: str) -> None:
    assert list(dangers(ast.parse(text)))
