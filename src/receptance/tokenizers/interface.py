"""What every tokenizer offers: text to ids, ids to bytes, bytes to text, at once or as they come."""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from operator import index
from pathlib import Path

from receptance.errors import TokenizerError

REPLACEMENT = "\ufffd".encode()  # U+FFFD, what Unicode shows in the place of what cannot be read


class Tokenizer(ABC):
    """Text to token ids and back. Tokenizers do not change once made: threads may share one.

    name             what a checkpoint's header records, so that the same tokenizer is found again
    vocabulary_size  rows that a model needs: the largest id + 1, or what the published models have
    end_of_text      the id that ends a document; no text becomes it, and it decodes to nothing
    """

    name: str
    vocabulary_size: int
    end_of_text: int

    def __init__(
        self, name: str, token_bytes: Mapping[int, bytes], vocabulary_size: int, end_of_text: int = 0
    ) -> None:
        self.name = name
        self.vocabulary_size = vocabulary_size
        self.end_of_text = end_of_text
        self._token_bytes = _TokenBytes(token_bytes, vocabulary_size)

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without `end_of_text`.

        Raises TokenizerError for a lone surrogate, which no UTF-8 can express.
        """

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, as `encode` gives them."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the ids.

        Bytes that are not UTF-8 become U+FFFD, as in Python's `bytes.decode(errors="replace")`.

        Raises TokenizerError for an id outside the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of the ids.

        `end_of_text` and other special tokens are not text and give no bytes. An id below `vocabulary_size`
        that no token has (models have such rows, and may emit them) gives U+FFFD.

        Raises TokenizerError for an id outside the vocabulary.
        """
        try:
            return b"".join(map(self._token_bytes.__getitem__, map(index, ids)))
        except KeyError as error:
            raise TokenizerError(
                f"id {error.args[0]} is outside the vocabulary of {self.name}, which has the ids 0 to "
                f"{self.vocabulary_size - 1}. Were these ids made by another tokenizer?"
            ) from None

    def stream(self) -> StreamDecoder:
        """Return a decoder for ids that come one at a time."""
        return StreamDecoder(self)

    def require_same(self, other: Tokenizer) -> None:
        """Raise TokenizerError unless the ids of the other tokenizer mean the same."""
        if self._token_bytes != other._token_bytes or self.end_of_text != other.end_of_text:
            raise TokenizerError(
                f"the ids of the tokenizer {other.name} do not mean what those of {self.name} do: "
                "the models must share one."
            )

    @abstractmethod
    def save(self, folder: Path) -> Path | None:
        """Write the vocabulary file into an existing folder and return its path; None where none is needed.

        Raises OSError where the folder cannot be written.
        """

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}, {self.vocabulary_size} rows>"


class StreamDecoder:
    """Text as its ids come, in whole characters.

    All pieces and the last `flush` joined are exactly what `decode` gives for all ids. A character whose
    bytes come with several ids is held back until it is complete, or sure never to be.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """Take the next id and return the text that is now certain, often with the empty string.

        Raises TokenizerError for an id outside the vocabulary, and is then as it was before.
        """
        return self._decoder.decode(self._tokenizer.decode_bytes((token,)))

    def flush(self) -> str:
        """Return what was held back (U+FFFD for an unfinished character) and begin anew."""
        return self._decoder.decode(b"", final=True)


def utf8(text: str) -> bytes:
    """Return the text as UTF-8.

    Raises TokenizerError for a lone surrogate, naming its position in characters.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"position {error.start} of the text holds the lone surrogate U+{ord(text[error.start]):04X}, "
            "which is no character and has no UTF-8. The text was decoded wrongly where it came from; "
            "text.encode('utf-8', 'replace').decode() puts a question mark in its place."
        ) from None


class _TokenBytes(dict[int, bytes]):
    """The bytes of each id; U+FFFD for a row of the model that no token has."""

    def __init__(self, token_bytes: Mapping[int, bytes], vocabulary_size: int) -> None:
        super().__init__(token_bytes)
        self._vocabulary_size = vocabulary_size

    def __missing__(self, token: int) -> bytes:
        if 0 <= token < self._vocabulary_size:
            return REPLACEMENT
        raise KeyError(token)
