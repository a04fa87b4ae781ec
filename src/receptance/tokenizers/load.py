"""Find the tokenizer that belongs to a name, a path or a checkpoint.

Vocabulary files are taken from where the user says, from beside the checkpoint, or from an installed package
that ships them. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from receptance.errors import TokenizerError
from receptance.tokenizers import bpe, byte, tokenizer_json, world, world_json
from receptance.tokenizers.interface import Tokenizer

# What a person may type for a tokenizer, in small letters; the values are the names that checkpoints record.
ALIASES = {
    "bytes": byte.NAME,
    "world": world.NAME,
    "rwkv_vocab_v20230424": world.NAME,
    "20b_tokenizer": bpe.PILE_NAME,
    "20b": bpe.PILE_NAME,
    "pile": bpe.PILE_NAME,
}
_FILES = {world.NAME: world.FILE, bpe.PILE_NAME: bpe.PILE_FILE}
_FOUND_BESIDE = (tokenizer_json.FILE, bpe.PILE_FILE, world.FILE)
_LONGEST_NAME = 63  # characters of up to four bytes; file systems hold 255 bytes
_PACKAGES = ("rwkv", "pyrwkv_tokenizer")
# The tokenizers that the published models of these many rows have.
_USUAL = {256: byte.NAME, 50277: bpe.PILE_NAME, 65536: world.NAME}


def _read_json(path: Path) -> Tokenizer:
    source = tokenizer_json.read(path)
    found = world_json.tokenizer_of(source, path)
    return bpe.BPETokenizer(source, path) if found is None else found


_READERS: dict[str, Callable[[Path], Tokenizer]] = {".txt": world.read, ".json": _read_json}


def load_tokenizer(path_or_name: str | Path) -> Tokenizer:
    """Return a tokenizer, given what it is called or where it is.

    "bytes"                            one id a byte
    "world", "rwkv_vocab_v20230424"    the World vocabulary, from an installed package (`pip install rwkv`)
    "20B_tokenizer", "20b", "pile"     the tokenizer of the Pile models, from an installed package that has it
    a path to a .txt or .json file     a vocabulary in World's format; a byte-level BPE, or World as WordPiece
    a path to a folder or checkpoint   the vocabulary in that folder

    A name goes before a file of the same name; "./world" is a path.

    Raises TokenizerError where nothing is found, where several could be meant, or where the file is damaged.
    """
    if isinstance(path_or_name, str) and path_or_name.lower() in ALIASES:
        return _named(path_or_name, folder=None)
    try:
        path = Path(path_or_name).expanduser()
        is_there, is_folder = path.exists(), path.is_dir()
    except (OSError, RuntimeError) as error:  # a name that is too long, a user that there is not
        raise TokenizerError(f"{path_or_name}: cannot be the path of a tokenizer: {error}.") from error
    if path.suffix.lower() in _READERS and not is_folder:
        return _read(path)
    if not is_there:
        raise TokenizerError(
            f"{path_or_name}: is neither a tokenizer's name ({', '.join(ALIASES)}) nor the path of a "
            "vocabulary file, a folder or a checkpoint."
        )
    found = {file.name: _read(file) for file in _beside(_folder(path))}
    if len({tokenizer.name for tokenizer in found.values()}) > 1:
        raise TokenizerError(
            f"{_folder(path)}: has {' and '.join(found)}; give the path of the one that is meant."
        )
    if not found:
        raise TokenizerError(
            f"{path_or_name}: is no vocabulary file (.json, .txt), and {_folder(path)} has none of "
            f"{', '.join(_FOUND_BESIDE)}. Give the path of one, or a name: {', '.join(ALIASES)}."
        )
    return next(iter(found.values()))


def find_tokenizer(checkpoint: str | Path, name: str | None, vocabulary_size: int) -> Tokenizer:
    """Return the tokenizer of a model.

    `checkpoint` is its file or folder, `name` what its header says about the tokenizer (None where it says
    nothing), `vocabulary_size` its number of rows. Without a name, a vocabulary file beside the checkpoint
    that needs just as many rows is taken; else what the published models of that size have; else a vocabulary
    file beside the checkpoint that needs fewer.

    Raises TokenizerError where nothing is found, where the file is damaged, and where the tokenizer has ids
    that the model has no rows for: it belongs to another model, and the text would be gibberish.
    """
    folder = _folder(Path(checkpoint))
    tokenizer = _guessed(folder, vocabulary_size) if name is None else _named(name, folder)
    if tokenizer.vocabulary_size > vocabulary_size:
        raise TokenizerError(
            f"{checkpoint}: the model has {vocabulary_size:,} rows, but its tokenizer {tokenizer.name} needs "
            f"{tokenizer.vocabulary_size:,}: it belongs to another model. Put the right one beside the "
            "checkpoint, or give its path."
        )
    return tokenizer


def _named(name: str, folder: Path | None) -> Tokenizer:
    """Return the tokenizer that a person or a checkpoint's header names."""
    name = ALIASES.get(name.lower(), name)
    if name == byte.NAME:
        return byte.ByteTokenizer()
    file = _FILES.get(name, name)
    # A header is somebody else's: its name must not lead out of the folder.
    if Path(file).name != file or Path(file).suffix.lower() not in _READERS or len(file) > _LONGEST_NAME:
        raise TokenizerError(
            f"{name[:_LONGEST_NAME]!r} is no tokenizer's name. Names are {', '.join(ALIASES)}, and for a "
            "checkpoint that of a .txt or .json file beside it."
        )
    places = ([] if folder is None else [folder]) + (_package_folders() if name in _FILES else [])
    for place in places:
        if (place / file).is_file():
            return _read(place / file)
    for path in [] if folder is None else _beside(folder):
        if (tokenizer := _read(path)).name == name:
            return tokenizer
    looked = ", ".join(map(str, places)) or f"the packages {', '.join(_PACKAGES)}, which are not installed"
    advice = "`pip install rwkv` brings it" if name == world.NAME else "the model should have come with it"
    raise TokenizerError(
        f"the tokenizer {name} needs {file}, which was not found in {looked}. Put it beside the checkpoint "
        f"or give its path; {advice}."
    )


def _guessed(folder: Path, vocabulary_size: int) -> Tokenizer:
    """Return the tokenizer for a checkpoint that does not name one."""
    beside = []
    for file in _beside(folder):
        tokenizer = _read(file)
        if tokenizer.vocabulary_size == vocabulary_size:
            return tokenizer
        beside.append(tokenizer)
    if vocabulary_size in _USUAL:
        return _named(_USUAL[vocabulary_size], folder)
    if beside:
        return next((found for found in beside if found.vocabulary_size <= vocabulary_size), beside[0])
    raise TokenizerError(
        f"{folder}: has none of {', '.join(_FOUND_BESIDE)}, the checkpoint does not name its tokenizer, and "
        f"no published one has {vocabulary_size:,} rows. Put its vocabulary file there, or give its path."
    )


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _beside(folder: Path) -> list[Path]:
    """Return the vocabulary files in a folder, the user's own first."""
    return [folder / file for file in _FOUND_BESIDE if (folder / file).is_file()]


def _package_folders() -> list[Path]:
    """Return the folders of the installed packages that ship vocabularies; they are found, not imported."""
    specs = [find_spec(package) for package in _PACKAGES]
    return [Path(folder) for spec in specs if spec for folder in spec.submodule_search_locations or ()]


def _read(path: Path) -> Tokenizer:
    return _READERS[path.suffix.lower()](path)
