"""Which format a path is in, told by what is there and not by its name."""

from __future__ import annotations

from pathlib import Path

from receptance.checkpoints import gguf, huggingface, pickled, rwkv_cpp, single_file, web_rwkv
from receptance.checkpoints.contents import Contents
from receptance.checkpoints.gguf import container
from receptance.checkpoints.huggingface import sharded
from receptance.checkpoints.tuning import peft
from receptance.errors import CheckpointError

_SUFFIXES = (".pth", ".safetensors")
_HEAD_BYTES = 512

# How files begin that are often taken for weights.
_STRANGERS = (
    (b"version https://git-lfs", "it is a git-lfs pointer, not the weights. Fetch them with: git lfs pull"),
    (b"\x80", "it is a bare pickle (torch before 1.6). Load and save it with a newer torch."),
)


def read(path: str | Path) -> Contents:
    """Return what a checkpoint holds: a file, a folder of transformers or one with a `model.safetensors`.

    The suffix of a file may be left out. Raises CheckpointError when there is nothing, or nothing that
    can be read, and says what is there instead.
    """
    path = _existing(Path(path))
    if path.is_dir():
        return _read_folder(path)
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    contents = _read_file(path, head)
    if any(name.startswith(peft.PREFIX) for name in contents.weights):
        return peft.read(path.parent)
    if huggingface.is_spoken([contents.name_in_file(name) for name in contents.weights]):
        return huggingface.read(path.parent)
    if contents.format == "safetensors" and web_rwkv.recognises(contents):
        return web_rwkv.read(path)
    return contents


def _existing(path: Path) -> Path:
    try:
        for candidate in (path, *(path.with_name(path.name + suffix) for suffix in _SUFFIXES if path.name)):
            if candidate.is_file() or candidate.is_dir():
                return candidate
    except (OSError, ValueError) as error:  # too long for a path, or forbidden to look at
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{path}: it cannot be looked at: {reason}.") from error
    raise CheckpointError(
        f"{path}: there is no such file or folder, nor one with {' or '.join(_SUFFIXES)} added."
    )


def _read_folder(folder: Path) -> Contents:
    if (folder / peft.CONFIG_FILE).is_file():
        return peft.read(folder)
    if (folder / huggingface.CONFIG_FILE).is_file():
        return huggingface.read(folder)
    own = folder / "model.safetensors"
    if own.is_file():
        return read(own)
    if sharded.index_of(folder).is_file():
        return sharded.read_official(folder)
    raise CheckpointError(
        f"{folder}: there is neither {own.name} nor the {huggingface.CONFIG_FILE} of transformers. "
        "Give the file with the weights itself."
    )


def _read_file(path: Path, head: bytes) -> Contents:
    if not head:
        raise CheckpointError(f"{path}: it is empty (0 bytes).")
    if head.startswith(b"PK\x03\x04"):
        if path.suffix == ".safetensors":  # torch.load would believe the name
            raise CheckpointError(f"{path}: it is a .pth file by its content. Give it that name.")
        return pickled.read(path)
    if head.startswith(container.MAGIC):
        return gguf.read(path)
    if head.startswith(rwkv_cpp.MAGIC):
        return rwkv_cpp.read(path)
    if head[8:9] == b"{":
        return single_file.read(path)
    for beginning, meaning in _STRANGERS:
        if head.startswith(beginning):
            raise CheckpointError(f"{path}: {meaning}")
    if not any(byte < 9 or 13 < byte < 32 for byte in head):
        kind = "a web page" if head.lstrip().startswith(b"<") else "text"
        raise CheckpointError(
            f"{path}: it is {kind}, not weights, and begins with {head[:60].decode(errors='replace')!r}. "
            "If it was downloaded, the download failed."
        )
    if path.suffix in (".safetensors", web_rwkv.SUFFIX):
        return single_file.read(path)
    if path.suffix in (".pth", ".bin", ".pt"):
        return pickled.read(path)
    raise CheckpointError(f"{path}: it is no known format; it begins with {head[:16]!r}.")
