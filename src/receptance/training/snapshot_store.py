"""The snapshots of a run: the newest whole one, and which of the older ones stay.

There is no pointer to the newest. A snapshot is written under another name, checked, and renamed; from that
moment it is the newest, so there is nothing that could point to one which is not whole.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from receptance import atomic
from receptance.errors import CheckpointError, TrainingError
from receptance.training.distributed import ALONE, World
from receptance.training.snapshot import Snapshot, load_snapshot

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d{8,})")


class SnapshotStore:
    """The folder `snapshots` of a run: `step-00001000` and so on, a folder each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """Return where the snapshot of a step is, or would be."""
        return self.folder / f"step-{step:08}"

    def steps(self) -> list[int]:
        """Return the steps of which there is a snapshot, whole or not, from the first to the last."""
        if not self.folder.is_dir():
            return []
        names = (_NAME.fullmatch(path.name) for path in self.folder.iterdir() if path.is_dir())
        return sorted(int(name[1]) for name in names if name)

    def save(self, snapshot: Snapshot, world: World = ALONE) -> None:
        """Write a snapshot; raises OSError or CheckpointError as `Snapshot.save` does."""
        with world.together():
            if world.is_first and not self.folder.is_dir():
                self.folder.mkdir()
                atomic.sync(self.folder.parent)
        snapshot.save(self.path(snapshot.position.step), world)

    def prune(self, *, keep_last: int, keep_every: int) -> None:
        """Remove the snapshots that need not stay, now that the newest one is whole and on the disk."""
        for step in superfluous(self.steps(), keep_last=keep_last, keep_every=keep_every):
            atomic.remove_folder(self.path(step))

    def newest(self) -> Snapshot | None:
        """Return the newest snapshot that is whole, or None where none was ever finished.

        One that is damaged is reported and set aside under the name `….damaged`. Raises TrainingError where
        there are snapshots, but no whole one.
        """
        damage: list[str] = []
        for step in reversed(self.steps()):
            path = self.path(step)
            try:
                return load_snapshot(path)
            except (CheckpointError, TrainingError, OSError) as error:
                damage.append(str(error))
                aside = path.with_name(f"{path.name}.damaged")
                logger.warning(
                    "The newest snapshot is damaged, so the run goes on from the one before it. It is kept "
                    "as %s; remove it when nobody needs it.\n%s",
                    aside,
                    error,
                )
                if aside.exists():  # from an earlier time at this step
                    atomic.remove_folder(aside)
                path.rename(aside)
        if damage:
            raise TrainingError(f"{self.folder}: no snapshot here is whole.\n" + "\n".join(damage))
        return None


def superfluous(steps: Iterable[int], *, keep_last: int, keep_every: int) -> list[int]:
    """Return the steps whose snapshots may go: all but the last few, and the multiples of `keep_every`."""
    older = sorted(steps)[:-keep_last]
    return [step for step in older if not (keep_every and step % keep_every == 0)]
