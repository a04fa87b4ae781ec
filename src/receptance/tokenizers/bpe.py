"""Byte-level BPE in Hugging Face's `tokenizer.json`: the 20B tokenizer of the Pile models, or the user's own.

The merging is done by the package `tokenizers`. This module sees to it that text never becomes a special
token, that no text is cut short or lost, and that ids become bytes before they become text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from receptance import atomic
from receptance.errors import TokenizerError
from receptance.tokenizers import tokenizer_json
from receptance.tokenizers.interface import Tokenizer, utf8
from receptance.tokenizers.tokenizer_json import END_OF_TEXT, FILE

if TYPE_CHECKING:
    import tokenizers

PILE_NAME = "20B_tokenizer"
PILE_FILE = f"{PILE_NAME}.json"
NAME = FILE

# What other tokenizers call the end of a document, in the order of trust.
_END_NAMES = (END_OF_TEXT, "<|end_of_text|>", "<|eos|>", "<eos>", "</s>")
# Where a text may be cut before anything is merged; made for prose and for code.
_PIECES = "|".join(
    (
        r"[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+",  # a word, with the space, dot or underscore before it
        r" ?\p{N}{1,3}",  # digits, three at most, so that numbers are cut alike
        r" ?[^\s\p{L}\p{M}\p{N}]+",  # signs
        r"\s*[\r\n]+",  # the ends of lines, and blank lines
        r"\s+(?!\S)",  # indentation, but for the space that belongs to the word after it
        r"\s+",
    )
)

_UTF8_BYTES = set(range(256)) - {0xC0, 0xC1, *range(0xF5, 0x100)}


class BPETokenizer(Tokenizer):
    """A byte-level BPE read from the text of a `tokenizer.json`.

    Whatever the file's normaliser does to a text stays done: the 20B tokenizer applies Unicode's NFC, so a
    text that is not in that form comes back in it. Special tokens decode to nothing; other added tokens, such
    as the runs of spaces of the 20B tokenizer, are text like any other.
    """

    def __init__(self, source: str, file: Path) -> None:
        """Read the tokenizer; `file` names it in errors, and tells the 20B tokenizer from others.

        Raises TokenizerError for a file that is damaged, is no byte-level BPE, lacks bytes, or has no token
        that ends a document.
        """
        self._source, self._file = source, file
        self._engine = _engine(source, file)
        added = self._engine.get_added_tokens_decoder()
        end_of_text = _find_end(self._engine, file)
        special = {token: added[token].content for token in added if added[token].special}
        special.setdefault(end_of_text, str(self._engine.id_to_token(end_of_text)))

        vocabulary = self._engine.get_vocab(with_added_tokens=False)
        token_bytes = _read_alphabet(
            {t: number for t, number in vocabulary.items() if number not in special}, file
        )
        ids = {token: number for number, token in token_bytes.items()}
        # What takes the place of a special token, should a merge of the file spell one: its bytes as tokens.
        self._spelled = {number: [ids[bytes([b])] for b in utf8(text)] for number, text in special.items()}
        token_bytes |= {number: utf8(token.content) for number, token in added.items()}
        super().__init__(
            name=PILE_NAME if file.name == PILE_FILE else NAME,
            token_bytes=token_bytes | dict.fromkeys(special, b""),
            vocabulary_size=max(token_bytes.keys() | special.keys()) + 1,
            end_of_text=end_of_text,
        )

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, none of them special; TokenizerError for a lone surrogate."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, as `encode` gives them, worked out on all cores."""
        for text in texts:
            utf8(text)
        with tokenizer_json.panic_is_an_error(self._file):
            encodings = self._engine.encode_batch_fast(list(texts), add_special_tokens=False)
        return [self._without_special(encoding.ids) for encoding in encodings]

    def save(self, folder: Path) -> Path:
        """Write the file as it was read and return its path; OSError where that fails."""
        path = Path(folder) / (PILE_FILE if self.name == PILE_NAME else FILE)
        atomic.write_text(path, self._source)
        return path

    def _without_special(self, ids: list[int]) -> list[int]:
        if self._spelled.keys().isdisjoint(ids):
            return ids
        return [part for token in ids for part in self._spelled.get(token, (token,))]

    def __reduce__(self) -> tuple[type[BPETokenizer], tuple[str, Path]]:
        return BPETokenizer, (self._source, self._file)


def read(path: Path) -> BPETokenizer:
    """Return the tokenizer of a `tokenizer.json`; TokenizerError where that fails, as for `BPETokenizer`."""
    return BPETokenizer(tokenizer_json.read(path), path)


def train_bpe(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Learn a byte-level BPE from texts, with `<|endoftext|>` as id 0 and all 256 bytes as tokens.

    Nothing is normalised: every text comes back as it was. The same texts give the same tokenizer. Texts with
    too few repeated pieces for `vocabulary_size` tokens give fewer. The tokenizer's name is `tokenizer.json`,
    and Hugging Face's tools read what `save` writes.

    Raises TokenizerError for a `vocabulary_size` below 257 or a text with a lone surrogate.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    least = len(tokenizer_json.ALPHABET) + 1
    if vocabulary_size < least:
        raise TokenizerError(
            f"a vocabulary of {vocabulary_size} was asked for; the 256 bytes and {END_OF_TEXT} need {least}. "
            "Choose a larger one."
        )
    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=list(tokenizer_json.ALPHABET),
        min_frequency=2,  # what occurs once is not worth a token
        show_progress=False,
    )
    engine.train_from_iterator((text for text in texts if utf8(text)), trainer)
    return BPETokenizer(engine.to_str(), Path(FILE))


def _engine(source: str, file: Path) -> tokenizers.Tokenizer:
    """Return the package's tokenizer, set to encode all of a text and nothing but the text."""
    from tokenizers import models

    engine = tokenizer_json.parse(source, file)
    model = engine.model
    if not isinstance(model, models.BPE) or model.continuing_subword_prefix or model.end_of_word_suffix:
        raise TokenizerError(
            f"{file}: holds a {type(model).__name__} model, but a byte-level BPE without prefixes and "
            "suffixes was needed, as the 20B tokenizer and those of train_bpe are."
        )
    model.dropout = None
    engine.no_truncation()
    engine.no_padding()
    engine.encode_special_tokens = True  # the characters that spell a special token are characters
    return engine


def _read_alphabet(vocabulary: dict[str, int], file: Path) -> dict[int, bytes]:
    """Return the bytes of each token.

    Raises TokenizerError where a character stands for no byte, or where a byte that UTF-8 uses is no token.
    """
    token_bytes = {}
    for token, number in vocabulary.items():
        try:
            token_bytes[number] = tokenizer_json.as_bytes(token)
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"{file}: token {number} is {token!r}, where {token[error.start]!r} stands for no byte, so "
                "this is no byte-level BPE. The 20B tokenizer and those of train_bpe are."
            ) from error
    missing = _UTF8_BYTES - {token[0] for token in token_bytes.values() if len(token) == 1}
    if missing:
        raise TokenizerError(
            f"{file}: {len(missing)} of the bytes that UTF-8 uses are no tokens, {min(missing):#04x} first, "
            "so that text would be lost. Train it with all 256 bytes in its alphabet, as train_bpe does."
        )
    return token_bytes


def _find_end(engine: tokenizers.Tokenizer, file: Path) -> int:
    """Return the id that ends a document."""
    for name in _END_NAMES:
        number = engine.token_to_id(name)
        if number is not None:
            return number
    first = engine.get_added_tokens_decoder().get(0)
    if first is not None and first.special:
        return 0
    raise TokenizerError(
        f"{file}: no token ends a document: id 0 is ordinary text, and none of {', '.join(_END_NAMES)} is "
        f"there. Add {END_OF_TEXT} to its special tokens."
    )
