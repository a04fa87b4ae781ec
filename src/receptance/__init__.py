"""Train, run, check and convert RWKV language models.

    lm = receptance.load("model.safetensors")
    print(lm.generate("Once upon a time", max_tokens=100))

    logits, state = lm(tokens)          # tokens: an integer tensor [batch, time]
    logits, state = lm(more, state)     # the state holds all that came before, in constant memory

Nothing is imported before it is used: `import receptance` alone costs no time and does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from receptance import errors

if TYPE_CHECKING:
    from receptance.inference import Loaded, Sampling, load
    from receptance.models import (
        RWKV4,
        RWKV5,
        RWKV6,
        RWKV7,
        RWKV4Config,
        RWKV4State,
        RWKV5Config,
        RWKV6Config,
        RWKV7Config,
    )
    from receptance.tokenizers import Tokenizer, load_tokenizer

    __version__: str

__all__ = [
    "RWKV4",
    "RWKV5",
    "RWKV6",
    "RWKV7",
    "Loaded",
    "RWKV4Config",
    "RWKV4State",
    "RWKV5Config",
    "RWKV6Config",
    "RWKV7Config",
    "Sampling",
    "Tokenizer",
    "__version__",
    "errors",
    "load",
    "load_tokenizer",
]

_HOMES = {
    "Loaded": "receptance.inference",
    "RWKV4": "receptance.models",
    "RWKV4Config": "receptance.models",
    "RWKV4State": "receptance.models",
    "RWKV5": "receptance.models",
    "RWKV5Config": "receptance.models",
    "RWKV6": "receptance.models",
    "RWKV6Config": "receptance.models",
    "RWKV7": "receptance.models",
    "RWKV7Config": "receptance.models",
    "Sampling": "receptance.inference",
    "Tokenizer": "receptance.tokenizers",
    "load": "receptance.inference",
    "load_tokenizer": "receptance.tokenizers",
}


def _version() -> str:
    """Return the version that pyproject.toml gives, as the installation recorded it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("receptance")
    except PackageNotFoundError:
        return "0+not.installed"


# Hidden from type checkers, which would take it for leave to use any name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import what is asked for at its first use (PEP 562)."""
        if name == "__version__":
            value = _version()
        elif name in _HOMES:
            value = getattr(import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module 'receptance' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """List the public names, imported yet or not."""
    return sorted({*globals(), *__all__})
