"""Stop strings in a stream: nothing of a stop string is ever emitted, however the text is cut into pieces."""

from __future__ import annotations

from collections.abc import Sequence

from receptance.errors import ConfigError


class StopStrings:
    """Passes text on until a stop string is complete; holds back what may be the beginning of one.

    The text ends before the stop string that is complete first, the longest where several end together: what
    feeding one character at a time would give.

    Raises ConfigError when a stop string is empty.
    """

    def __init__(self, stops: str | Sequence[str]) -> None:
        self._stops = (stops,) if isinstance(stops, str) else tuple(stops)
        self._held = ""
        self.is_found = False
        if "" in self._stops:
            raise ConfigError("A stop string is empty, so nothing could ever be written: leave it out.")

    def feed(self, text: str) -> str:
        """Take in more text and return what is now certain to stand before any stop string."""
        if self.is_found:
            return ""
        text = self._held + text
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self.is_found = True
            kept = min(found)[1]
        else:
            kept = len(text) - self._beginning(text)
        self._held = "" if self.is_found else text[kept:]
        return text[:kept]

    def flush(self) -> str:
        """Return what was held back, because the text has ended."""
        held, self._held = self._held, ""
        return held

    def _beginning(self, text: str) -> int:
        """Return the length of the longest end of the text that begins a stop string."""
        longest = min(len(text), max((len(stop) for stop in self._stops), default=1) - 1)
        return next(
            (
                size
                for size in range(longest, 0, -1)
                if any(stop.startswith(text[-size:]) for stop in self._stops)
            ),
            0,
        )
