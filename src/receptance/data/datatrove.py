"""`receptance prepare` on many machines, as two steps of datatrove: many tasks tokenise, one joins.

datatrove (pip install "receptance[datatrove]") runs tasks in processes of one machine, on Slurm or on Ray:

    preparation = Preparation(sources=["corpus"], output="data", deduplicate=True)
    cluster = {"time": "08:00:00", "partition": "cpu"}
    tokenise = SlurmPipelineExecutor([preparation.tokenise], 256, logging_dir="logs/tokenise", **cluster)
    join = SlurmPipelineExecutor(
        [preparation.join], 1, logging_dir="logs/join", depends=tokenise, **cluster
    )
    join.run()

What comes of it is to the byte what `prepare` makes of the same sources in one process, but for two things:
texts are never cut for validation, so there have to be two that differ at least; and where documents are
repeated by weight, the repeats are in another order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from receptance import atomic
from receptance.data.chunks import Chunk, DocumentReader, Errors
from receptance.data.preparation import BPE, check_weights, fingerprint
from receptance.data.prepared_folder import SHARDS, check_output, fill, new_folder
from receptance.data.shard import FORMAT, Shard, ShardMaker
from receptance.data.shards import make_shards
from receptance.data.sources import STANDARD_INPUT, Sources
from receptance.data.split import Split
from receptance.errors import ConfigError, DataError
from receptance.tokenizers import Tokenizer, load_tokenizer

PIPELINE = "the pipeline"  # what the source of documents is called that other steps yield
DONE = "done.json"  # written last by a task, in the folder of its shards
MISSING = 10  # tasks that are named


class PipelineDocument(Protocol):
    """What is read of a document of datatrove."""

    id: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """A preparation whose two methods are steps of datatrove pipelines; the arguments are those of `prepare`.

    With `sources`, `tokenise` is the only step of its pipeline, and each task reads its share of them, about
    as many bytes as any other; plain files and tables are cut for that, packed files are not. Without, it is
    the last step, after readers and filters of datatrove, and takes the text of each document they yield.

    Every task has to find the sources, the output and a tokenizer's file under the same paths. A task that
    failed or was killed is run again and goes on with what it had finished.

    Raises ConfigError for arguments that make no sense.
    """

    output: str | Path
    sources: str | Path | Sequence[str | Path] = ()
    tokenizer: Tokenizer | str | Path = "world"
    weights: Sequence[float] = ()
    validation_fraction: float = 0.01
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    text_field: str = "text"
    errors: Errors = "strict"
    deduplicate: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if STANDARD_INPUT in self._paths:
            raise ConfigError('The source "-", standard input, has no shares; write it to a file first.')
        check_weights(self._paths, self.weights)
        Split.plan_whole((), self.validation_fraction)
        DocumentReader(self.text_field, self.errors)
        if str(self.tokenizer).startswith(BPE):
            raise ConfigError(
                f'tokenizer is "{self.tokenizer}", but tasks need one that is there. Learn it from a part of '
                "the texts, with `receptance prepare`, and give the path of the tokenizer.json it writes."
            )

    def tokenise(
        self, documents: Iterable[PipelineDocument] | None = None, rank: int = 0, world_size: int = 1
    ) -> None:
        """Write the shards of a task: of its share of the sources, or of the documents it is given.

        Raises DataError for what cannot be read, and for an `output` with something in it, unless
        `overwrite`; ConfigError where there are both sources and documents, or neither.
        """
        if (documents is None) != bool(self.sources):
            raise ConfigError(
                "tokenise takes texts either from `sources`, as the first step, or from the steps before it."
            )
        check_output(Path(self.output), self.overwrite)
        folder = _folder(Path(self.output) / SHARDS, rank, world_size)
        folder.mkdir(parents=True, exist_ok=True)
        done = folder / DONE
        done.unlink(missing_ok=True)
        tokenizer = self._load_tokenizer()
        nothing_held_back = Split.plan_whole((), 0.0)
        made = make_shards(
            self._texts.share(rank, world_size) if documents is None else self._chunks(documents),
            ShardMaker(tokenizer, nothing_held_back, self.text_field, self.errors),
            folder,
            fingerprint=fingerprint(tokenizer),
            processes=1,
            apart=self._weights,
            report=lambda shard: None,
        )
        shards = [(shard.path.name, list(shard.sources)) for shard in made]
        atomic.write_text(done, json.dumps({"made_of": self._made_of(tokenizer), "shards": shards}))

    def join(self, documents: None = None, rank: int = 0, world_size: int = 1) -> None:
        """Make the folder that training reads of the shards of all tasks, and remove these.

        Raises DataError where tasks have not finished, had something else to do, or left no text.
        """
        output, tokenizer = Path(self.output), self._load_tokenizer()
        with new_folder(output, self.overwrite) as made:
            shards = list(_finished(output / SHARDS, self._made_of(tokenizer)))
            digests = (digest.tobytes() for path, _ in shards for digest in Shard.load(path).digests)
            split = Split.plan_whole(digests, self.validation_fraction)
            fill(
                output,
                made,
                ((_held_back(Shard.load(path), split), numbers) for path, numbers in shards),
                tokenizer,
                self.tokenizer.name if isinstance(self.tokenizer, Tokenizer) else str(self.tokenizer),
                texts=self._texts,
                weights=self._weights,
                validation_fraction=self.validation_fraction,
                deduplicate=self.deduplicate,
            )

    @property
    def _paths(self) -> list[str]:
        paths = [self.sources] if isinstance(self.sources, str | Path) else self.sources
        return [str(path) for path in paths] or [PIPELINE]

    @property
    def _texts(self) -> Sources:
        return Sources(
            self._paths,
            include=self.include,
            exclude=self.exclude,
            text_field=self.text_field,
            errors=self.errors,
            leave_out=Path(self.output),
        )

    @property
    def _weights(self) -> Sequence[float]:
        return self.weights or [1.0] * len(self._paths)

    def _load_tokenizer(self) -> Tokenizer:
        return self.tokenizer if isinstance(self.tokenizer, Tokenizer) else load_tokenizer(self.tokenizer)

    def _made_of(self, tokenizer: Tokenizer) -> list[Any]:
        """Return what has to be the same in all tasks."""
        texts = self._texts
        size = texts.bytes_to_read() if self.sources else 0
        reading = [*map(list, (texts.paths, texts.include, texts.exclude)), texts.text_field, texts.errors]
        return [FORMAT, fingerprint(tokenizer), *reading, list(self._weights), size]

    def _chunks(self, documents: Iterable[PipelineDocument]) -> Iterator[tuple[int, Chunk]]:
        """Yield each document as the line that it would be in a file."""
        for document in documents:
            line = json.dumps({self.text_field: document.text}).encode()
            yield 0, Chunk(path=document.id, kind="lines", size=len(line), data=line)


def _folder(shards: Path, rank: int, world_size: int) -> Path:
    return shards / f"{rank:05}-of-{world_size:05}"


def _finished(folder: Path, made_of: list[Any]) -> Iterator[tuple[Path, list[int]]]:
    """Yield the shards of all tasks in order, with the sources of their chunks."""
    world_sizes = sorted({int(path.name.partition("-of-")[2]) for path in folder.glob("*-of-*")})
    if len(world_sizes) != 1:
        found = "works of " + " and of ".join(map(str, world_sizes)) + " tasks" if world_sizes else "nothing"
        raise DataError(
            f"{folder} holds {found}, but the work of one run of the step `tokenise` is needed. "
            + ("Remove the folders that are not meant." if world_sizes else "Run that step first.")
        )
    done = [_folder(folder, rank, world_sizes[0]) / DONE for rank in range(world_sizes[0])]
    missing = [str(rank) for rank, path in enumerate(done) if not path.exists()]
    if missing:
        raise DataError(
            f"{folder}: of {len(done)} tasks that tokenise, {len(missing)} have not finished: "
            f"{', '.join(missing[:MISSING])}{' …' if len(missing) > MISSING else ''}. Run the same "
            "pipeline again; it goes on where they ended."
        )
    for path in done:
        contents = json.loads(path.read_bytes())
        if contents["made_of"] != made_of:
            raise DataError(
                f"{path.parent}: this task had other sources, another tokenizer or other options than the "
                "step that is to join. Remove the folder, and run the task again."
            )
        for name, numbers in contents["shards"]:
            yield path.parent / name, numbers


def _held_back(shard: Shard, split: Split) -> Shard:
    """Return the shard with the documents held back that the rule says."""
    held_back = [split.holds_back(digest.tobytes()) for digest in shard.digests]
    return replace(shard, is_held_back=np.array(held_back, bool))
