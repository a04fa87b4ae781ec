"""The vocabulary of the RWKV World models, `rwkv_vocab_v20230424.txt`: greedy longest match over UTF-8.

Each line is `id literal length`: a Python string or bytes literal, and its length in bytes. The file has the
ids 1 to 65529; token 0 ends a document and is not in it, and the models have 65,536 rows. The format and the
rule are those of BlinkDL/RWKV-LM.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from receptance import atomic, whole_file
from receptance.errors import TokenizerError
from receptance.tokenizers import trie
from receptance.tokenizers.interface import Tokenizer, utf8

NAME = "rwkv_vocab_v20230424"
FILE = f"{NAME}.txt"
ROWS = 65536
PUBLISHED_SHA256 = "e6dee3d4e31b4d5c40ac99508ac6c701ceef4bed681bf2167ce9a908552bca89"  # with LF line ends

_FILE_LIMIT = 16 << 20
_LINE_LIMIT = 4096
_TOKENS_LIMIT = 1 << 20  # bytes of all tokens together; the published ones have 0.4 million
# The escapes are those that repr() writes; the quote that opens the literal ends it and is not inside.
_ESCAPE = r"\\(?:[\\'\"nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"
_LITERAL = rf"(?P<bytes>b?)(?P<quote>['\"])(?P<body>(?:{_ESCAPE}|(?!(?P=quote))[^\\\r\n])*)(?P=quote)"
_LINE = re.compile(rf"(?P<id>[0-9]{{1,6}}) (?P<literal>{_LITERAL}) (?P<length>[0-9]{{1,6}})")


class WorldTokenizer(Tokenizer):
    """Greedy longest match over the bytes of the text. Any bytes encode, and come back as they were.

    The name is `rwkv_vocab_v20230424` for the published vocabulary, and the file's name for any other.
    """

    def __init__(self, source: bytes, file: Path) -> None:
        """Read the vocabulary from the bytes of its file; `file` names it.

        Raises TokenizerError, naming the line, for a file that is damaged or not of this format.
        """
        tokens = _parse(source, file)
        published = hashlib.sha256(source.replace(b"\r\n", b"\n")).hexdigest() == PUBLISHED_SHA256
        if file.name == FILE and not published:
            raise TokenizerError(
                f"{file}: has the name of the published World vocabulary and {len(tokens):,} well-formed "
                "lines, but is not that vocabulary, so a World model would read and write gibberish. Get the "
                "file again (`pip install rwkv` brings it), or rename it if it is a vocabulary of your own."
            )
        super().__init__(
            name=NAME if published else file.name,
            token_bytes={0: b"", **{number: token for token, number in tokens.items()}},
            vocabulary_size=ROWS if published else max(tokens.values()) + 1,
        )
        self._source, self._file = source, file
        self._trie = trie.build(tokens)

    @property
    def tokens(self) -> dict[int, bytes]:
        """The bytes of each id that text can become."""
        return {number: token for number, token in self._token_bytes.items() if token}

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; never 0. Raises TokenizerError for a lone surrogate."""
        return self.encode_bytes(utf8(text))

    def encode_bytes(self, data: bytes) -> list[int]:
        """Return the ids of any bytes, UTF-8 or not; never 0."""
        return self._trie.encode(data)

    def save(self, folder: Path) -> Path:
        """Write the vocabulary file as it was read and return its path; OSError where that fails."""
        path = Path(folder) / (FILE if self.name == NAME else self.name)
        with atomic.write(path) as temporary:
            temporary.write_bytes(self._source)
        return path

    def __reduce__(self) -> tuple[type[WorldTokenizer], tuple[bytes, Path]]:
        return WorldTokenizer, (self._source, self._file)


def read(path: Path) -> WorldTokenizer:
    """Return the tokenizer of a vocabulary file; TokenizerError where it is missing or damaged."""
    needed = "a vocabulary in World's format (.txt)"
    return WorldTokenizer(whole_file.read(path, limit=_FILE_LIMIT, needed=needed, error=TokenizerError), path)


def source_of(tokens: Mapping[int, bytes]) -> bytes:
    """Return a vocabulary as a file in World's format; for World's own it is the published file."""
    return "".join(
        f"{number} {_literal(token)!r} {len(token)}\n" for number, token in sorted(tokens.items())
    ).encode()


def _literal(token: bytes) -> str | bytes:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return token


def _parse(source: bytes, file: Path) -> dict[bytes, int]:
    """Return the ids by their tokens; every single byte is among the tokens."""
    tokens: dict[bytes, int] = {}
    lines: dict[int, int] = {}
    for number, line in enumerate(BytesIO(source), start=1):
        try:
            token_id, token = _parse_line(line)
            if token_id in lines:
                raise ValueError(f"id {token_id} stands on line {lines[token_id]} already")
            if token in tokens:
                raise ValueError(f"the token {token!r} stands on line {lines[tokens[token]]} already")
        except (ValueError, SyntaxError) as error:
            raise TokenizerError(
                f"{file}, line {number}: {error}. Get the file again, or repair this line."
            ) from error
        lines[token_id] = number
        tokens[token] = token_id
    size = sum(map(len, tokens))
    if size > _TOKENS_LIMIT:
        raise TokenizerError(
            f"{file}: its {len(tokens):,} tokens have {size:,} bytes together, but a vocabulary has "
            f"{_TOKENS_LIMIT:,} at most. Leave out the longest ones."
        )
    missing = [value for value in range(256) if bytes([value]) not in tokens]
    if missing:
        raise TokenizerError(
            f"{file}: {len(missing)} of the 256 single bytes are no tokens, {missing[0]:#04x} first, so that "
            f"not every text could be encoded. The file has {len(tokens)} lines; was it cut short?"
        )
    return tokens


def _parse_line(line: bytes) -> tuple[int, bytes]:
    """Return the id and the bytes of the token; ValueError or SyntaxError says what is wrong."""
    if len(line) > _LINE_LIMIT:
        raise ValueError(f"has {len(line):,} bytes, but no line has more than {_LINE_LIMIT:,}")
    match = _LINE.fullmatch(line.decode("utf-8").removesuffix("\n").removesuffix("\r"))
    if match is None:
        raise ValueError(
            "is not an id, a Python string or bytes literal and its length, with one space between them"
        )
    token_id, length = int(match["id"]), int(match["length"])
    if match["bytes"] or "\\" in match["body"]:
        literal = ast.literal_eval(match["literal"])
        token = literal if isinstance(literal, bytes) else literal.encode("utf-8")
    else:
        token = match["body"].encode("utf-8")
    if len(token) != length or not token:
        raise ValueError(
            f"the literal has {len(token)} bytes, but the line says {length}, and it must not be empty"
        )
    if not 1 <= token_id < ROWS:
        raise ValueError(
            f"id {token_id} is not among 1 to {ROWS - 1} (0 ends a document and is not in the file)"
        )
    return token_id, token
