"""Models by their name on a hub: ORG/NAME, ORG/NAME@REVISION, and either with /FILE behind it.

What lies on disk goes before every name. `huggingface_hub` fetches and caches, and obeys its environment
(HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE); which files are needed is decided here. Repositories and
servers are somebody else's: only files of plain names are asked for, and answers that the library would turn
into a path outside its cache are refused.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from receptance.errors import CheckpointError, ConfigError

# The library itself is imported where it is used: that takes its time, and most models are on disk.
if TYPE_CHECKING:
    from httpx2 import Response

logger = logging.getLogger(__name__)

_WORD = r"\w(?:[\w.-]{0,94}\w)?"
_NAME = re.compile(rf"({_WORD}/{_WORD})(?:@(refs/pr/\d+|[^/]+))?(?:/(.+))?", re.ASCII)
_REVISION = re.compile(r"\w[\w.+-]*(?:/\w[\w.+-]*)*", re.ASCII)
_PART = re.compile(r"\w(?:[\w.+=,()@~ -]*[\w+=)~-])?")  # of the path of a file in a repository
_MAX_BYTES = 250  # of a revision, and of a path in a repository

_MODEL = re.compile(r".+\.(pth|pt|bin|gguf|safetensors|st)")
_SHARD = re.compile(r".+-\d{5}-of-\d{5}\.\w+")
_LEFTOVER = re.compile(r"(.*/)?(optimizer|scheduler|scaler|rng_state|random_states|training_args)[^/]*")
_CONFIG = "config.json"
_COMPANION = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab"
    r"|20B_tokenizer)\.json|(vocab|merges|rwkv_vocab\w*)\.txt|chat_template\.jinja"
)
_FOLDER = "."  # where a file could stand: the model is the whole folder
_DATE = re.compile(r"20\d{6}")
_NUM_SHOWN = 12

_SUFFIXES_LEFT_OUT = (".pth", ".safetensors")  # which a path on disk may lack

# Answers that the library makes paths of.
_PATH_HEADERS = ("ETag", "X-Linked-ETag", "X-Repo-Commit")
_HARMLESS = re.compile(r'(W/)?"?\w[\w.+=-]*"?', re.ASCII)

_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


@dataclass(frozen=True)
class HubName:
    """What is asked of a hub."""

    repository: str
    revision: str | None = None  # branch, tag or commit; None is the main branch
    file: str | None = None

    def __str__(self) -> str:
        """Write it as one would type it."""
        revision = f"@{self.revision}" if self.revision else ""
        return self.repository + revision + (f"/{self.file}" if self.file else "")


def local_path(name: str | Path, revision: str | None = None) -> Path:
    """Return where a model lies on disk, fetched from the hub if nothing is there and it may be a name.

    revision  branch, tag or commit on the hub; it may also stand in the name

    What cannot be a name on a hub comes back as it is, even where nothing is; so does every Path.

    Raises CheckpointError, with the cause and the remedy, when the model cannot be had; ConfigError when the
    revision cannot be obeyed.
    """
    wanted = None if isinstance(name, Path) else parse(name)
    if wanted is None or _is_here(Path(name)):
        if revision is not None:
            raise ConfigError(
                f"revision is {revision!r}, but only models on a hub have any, and {name} is taken for a "
                "path on this disk. Leave the revision out, or give a name such as ORG/NAME."
            )
        return Path(name)
    if revision is not None:
        if not _is_revision(revision):
            raise ConfigError(f"revision is {revision!r}, but no branch, tag or commit is called so.")
        if wanted.revision not in (None, revision):
            raise ConfigError(f"{wanted} names a revision, and {revision!r} is another one. Give one.")
        wanted = replace(wanted, revision=revision)
    return _fetched(wanted)


def parse(text: str) -> HubName | None:
    """Return what a text asks of a hub, or None where it cannot be a name there."""
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    repository, revision, file = match.groups()
    possible = (
        "--" not in repository
        and ".." not in repository
        and not repository.endswith(".git")
        and (revision is None or _is_revision(revision))
        # ORG/NAME.pth is a file in a folder.
        and (_is_plain(file) and _MODEL.fullmatch(file) if file else not _MODEL.fullmatch(repository))
    )
    return HubName(repository, revision, file) if possible else None


def _is_revision(text: str) -> bool:
    return bool(_REVISION.fullmatch(text)) and ".." not in text and len(text) <= _MAX_BYTES


def _is_plain(file: str) -> bool:
    """Say whether a path in a repository means the same on every system, and nothing special on any."""
    return all(map(_PART.fullmatch, file.split("/"))) and len(file.encode()) <= _MAX_BYTES


def _is_here(path: Path) -> bool:
    """Say whether something has this path, or, where it is that of a file in ORG/NAME, this folder."""
    candidates = [path, *(path.with_name(path.name + suffix) for suffix in _SUFFIXES_LEFT_OUT)]
    is_below = len(path.parts) > 2 and Path(*path.parts[:2]).is_dir()
    return is_below or any(map(os.path.lexists, candidates))


def _fetched(wanted: HubName) -> Path:
    """Return the path in the cache, which gets what it lacks."""
    from huggingface_hub import HfApi, constants

    try:
        found = HfApi().model_info(
            wanted.repository, revision=wanted.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    # Any: those of its HTTP client, which is not the same in all its versions, pass through the library, and
    # so do those of its own code where it does not understand an answer.
    except Exception as error:
        cached = None if _is_refusal(error) else _cached(wanted)
        if cached is None:
            raise _explained(wanted, error) from error
        if not constants.HF_HUB_OFFLINE:
            logger.warning("%s: taken from the cache, for the hub did not answer: %s", wanted, _text(error))
        return cached
    listed: Iterable[object] = (sibling.rfilename for sibling in found.siblings or ())
    files = dict.fromkeys(file for file in listed if isinstance(file, str) and _is_plain(file))
    model = _the_model(wanted, files)
    try:
        with _harmless_answers(wanted):
            return _download(wanted, model, _needed(model, files))
    except CheckpointError:
        raise
    except Exception as error:  # any: as above
        raise _explained(wanted, error) from error


def _cached(wanted: HubName) -> Path | None:
    """Return where the model was put when it was fetched before, if it was, and whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot = snapshot_download(
            wanted.repository, revision=wanted.revision, local_files_only=True, allow_patterns=[]
        )
    except LocalEntryNotFoundError:
        return None
    folder = Path(snapshot)
    files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    return folder / _the_model(wanted, files) if _models(files, wanted.file) else None


def _download(wanted: HubName, model: str, files: Iterable[str]) -> Path:
    from huggingface_hub import hf_hub_download

    first, *others = files
    # The library notes which commit the revision is. The other files are of the same one, even if the branch
    # moves on meanwhile.
    path = Path(hf_hub_download(wanted.repository, first, revision=wanted.revision))
    folder = path.parents[first.count("/")]
    for file in others:
        hf_hub_download(wanted.repository, file, revision=folder.name)
    return folder / model


def _the_model(wanted: HubName, files: Collection[str]) -> str:
    """Return the one model among the files; raises CheckpointError where there is none, or a choice."""
    models = _models(files, wanted.file)
    if len(models) == 1:
        return models[0]
    if wanted.file is not None:
        whole = replace(wanted, file=None)
        raise CheckpointError(f"{wanted}: {whole} has no such file; {_advice(whole, _models(files, None))}")
    raise CheckpointError(f"{wanted}: {_advice(wanted, models)}")


def _advice(repository: HubName, models: Sequence[str]) -> str:
    """Say what can be asked of a repository."""
    if not models:
        return "it holds no model in a format that receptance knows."
    if len(models) == 1:
        return f"its model is {replace(repository, file=None if models == [_FOLDER] else models[0])}."
    # The date that most names hold puts the latest first.
    latest = sorted(models, key=lambda file: (_DATE.findall(file)[-1:], file), reverse=True)
    shown = ", ".join(latest[:_NUM_SHOWN]) + (", …" if len(latest) > _NUM_SHOWN else ".")
    form = replace(repository, file="FILE")
    return f"it holds {len(models)} models. Say which one as {form}, where FILE is one of: {shown}"


def _models(files: Collection[str], wanted: str | None) -> list[str]:
    """Return what could be meant: the wanted file, the whole folder, or files that each hold a model."""
    if wanted is not None:
        return [wanted] if wanted in files else []
    if _weights_of_folder(files):
        return [_FOLDER]
    models = [
        file
        for file in files
        if _MODEL.fullmatch(file) and not _SHARD.fullmatch(file) and not _LEFTOVER.fullmatch(file)
    ]
    return [file for file in models if "/" not in file] or models


def _weights_of_folder(files: Collection[str]) -> list[str]:
    """Return the weights, whole or in parts with their index, where they lie as transformers puts them."""
    for whole in ("model.safetensors", "pytorch_model.bin"):
        stem, _, suffix = whole.partition(".")
        index = f"{whole}.index.json"
        if suffix == "bin" and _CONFIG not in files:
            continue
        if whole in files:
            return [whole]
        parts = sorted(file for file in files if re.fullmatch(rf"{stem}-\d{{5}}-of-\d{{5}}\.{suffix}", file))
        if parts and index in files and parts[-1].startswith(f"{stem}-{len(parts):05}-of-{len(parts):05}."):
            return [index, *parts]
    return []


def _needed(model: str, files: Collection[str]) -> list[str]:
    """Return the files to fetch for a model: what lies beside it and belongs to it, then the weights."""
    weights = _weights_of_folder(files) if model == _FOLDER else [model]
    folder = model.rpartition("/")[0]
    beside = (file for file in files if _COMPANION.fullmatch(file.removeprefix(f"{folder}/")))
    return [*(file for file in beside if file.rpartition("/")[0] == folder), *weights]


@contextmanager
def _harmless_answers(wanted: HubName) -> Iterator[None]:
    """Refuse an answer that would make the library write outside its cache, before the library reads it.

    Not seen is what a client gets that the library makes anew while it repeats a request that nobody took.
    """
    from huggingface_hub import get_session

    def check(response: Response) -> None:
        for name in _PATH_HEADERS:
            value = response.headers.get(name)
            if response.request.method == "HEAD" and value and not _HARMLESS.fullmatch(value):
                raise CheckpointError(
                    f"{wanted}: the hub answers with the {name} {value!r}, which could lead out of the "
                    "cache, so nothing was written. Does HF_ENDPOINT name a hub that you trust?"
                )

    checks = get_session().event_hooks["response"]  # of all that use the library in this process
    checks.append(check)
    try:
        yield
    finally:
        checks.remove(check)


def _is_refusal(error: Exception) -> bool:
    from huggingface_hub.errors import HfHubHTTPError

    return isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404)


def _explained(wanted: HubName, error: BaseException) -> CheckpointError:
    """Return the error for the user of what went wrong in the library."""
    from huggingface_hub import constants, errors

    while isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # only says that the cache has no copy either
    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    page = f"{hub}/{wanted.repository}"
    match error:
        case _ if constants.HF_HUB_OFFLINE:
            why = (
                f"it is no path on this disk, the cache {cache} does not hold it whole, and HF_HUB_OFFLINE "
                "keeps it from being fetched. Unset that once."
            )
        case errors.GatedRepoError():
            why = f"its owners hand it only to those they let in. Ask them on {page}, then {_LOG_IN}."
        case errors.RepositoryNotFoundError():
            why = (
                f"it is no path on this disk, and {hub} has no such model, or not for everyone. Check the "
                f"spelling; for a private model, {_LOG_IN}."
            )
        case errors.RevisionNotFoundError():
            why = f"{page} has no revision {wanted.revision or 'main'!r}. The page lists branches and tags."
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            why = f"{hub} refuses it (HTTP {error.response.status_code}). To show who you are, {_LOG_IN}."
        case OSError(strerror=str(reason)):
            why = f"it cannot be kept in the cache {cache}: {reason}. HF_HOME can name another place."
        case _:
            why = (
                f"it is no path on this disk, and could not be fetched from {hub}: {_text(error)}. Check the "
                "connection, and HF_ENDPOINT if it is set, and try again; whole files are kept."
            )
    return CheckpointError(f"{wanted}: {why}")


def _text(error: BaseException) -> str:
    """Return one line about an error of the library, fit for a terminal."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return f"HTTP {error.response.status_code}"
    line = f"{type(error).__name__}: {error}".partition("\n")[0].removesuffix(".")
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)[:300]
