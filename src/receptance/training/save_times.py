"""When a run saves: at every so many steps, and besides as often as a given share of its time allows."""

from __future__ import annotations

# Taken for the time of a snapshot until one has been taken.
FIRST_GUESS_SECONDS = 0.1


class SaveTimes:
    """Tells when a snapshot is due.

    every       steps between two snapshots; 0: no such rhythm
    share       of the time that further snapshots may take; 0: there are none. A tenth of a second at a share
                of 0.01 means one every ten seconds, ten seconds one every 17 minutes.

    Times are seconds of any clock that only goes forward.
    """

    def __init__(self, *, every: int, share: float, now: float) -> None:
        self._every = every
        self._share = share
        self._cost = FIRST_GUESS_SECONDS
        self._saved_at = now

    def is_due(self, step: int, now: float) -> bool:
        """Say whether to save after a step."""
        if self._every and step % self._every == 0:
            return True
        return self._share > 0 and (now - self._saved_at) * self._share >= self._cost

    def saved(self, began: float, now: float) -> None:
        """Remember how long a snapshot took."""
        self._cost = now - began
        self._saved_at = now
