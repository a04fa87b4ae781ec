r"""A vocabulary of World's kind as `tokenizer.json`, which Hugging Face's programs read.

WordPiece without a prefix for what continues a word is greedy longest match; with a character for each byte
it gives World's ids. It tries every length of what is left of a text, so texts are cut before: a long one
would take its cube in time, as long runs without a cut still do (a thousand kana). Cuts change nothing: each
lies between two bytes that no token of the vocabulary holds side by side, so no token reaches across, and
each piece gives the ids that it gives within the text.

The folders `RWKV/RWKV7-*-20260805` have such a file without cuts (github.com/aabbdev/rwkv-publisher).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from receptance.errors import TokenizerError
from receptance.tokenizers import tokenizer_json, world
from receptance.tokenizers.tokenizer_json import END_OF_TEXT
from receptance.tokenizers.world import WorldTokenizer

if TYPE_CHECKING:
    import tokenizers

FILE = tokenizer_json.FILE
CONFIG_FILE = "tokenizer_config.json"

_HAN = "\u4000-\u9fff"  # the first byte of these, E4 to E9, begins no other character
# Where a text may be cut, and the two bytes that meet at such a place.
_CUTS = (
    (r"(?<=[!-~]|[^\x00-\x7f])(?= )", rb"[!-~\x80-\xff] "),
    (r"(?<=[A-Za-z])(?=[\x00-@\[-`{-\x7f])", rb"[A-Za-z][\x00-@\[-`{-\x7f]"),
    (r"(?<=[0-9])(?=[^0-9])", rb"[0-9][^0-9]"),
    (r"(?<=[^0-9 ])(?=[0-9])", rb"[^0-9 ][0-9]"),
    (rf"(?<=[^\x00-\x7f])(?=[{_HAN}])", rb"[\x80-\xff][\xe4-\xe9]"),
)
_ANY_LENGTH = 2**31 - 1  # of a piece, in characters; from a longer one WordPiece makes the unknown token


def tokenizer_of(source: str, file: Path) -> WorldTokenizer | None:
    """Return the tokenizer that gives the ids of the text of a `tokenizer.json`, and its bytes.

    It is World's own where the vocabulary is the published one. Any other is named after the file, as .txt,
    which is what `save` writes. Where the model is no WordPiece, it is not for this module, and None.

    Raises TokenizerError for a file that is damaged, or that gives other ids than the longest match.
    """
    from tokenizers import models

    if '"WordPiece"' not in source:
        return None
    engine = tokenizer_json.parse(source, file)
    if not isinstance(engine.model, models.WordPiece):
        return None
    tokens = _tokens(engine, file)
    _require_longest_match(engine, tokens, file)
    try:
        return WorldTokenizer(world.source_of(tokens), file.with_suffix(".txt"))
    except TokenizerError as error:
        raise TokenizerError(
            f"{file}: its WordPiece vocabulary, written in World's format, has a fault at {error}"
        ) from error


def files(tokenizer: WorldTokenizer) -> dict[str, str]:
    """Return names and texts of the files from which transformers makes the same tokenizer.

    As in every folder of transformers, text there that spells the name of token 0, `<|endoftext|>`, becomes
    token 0; `split_special_tokens=True` gives the ids that it has here. Rows without a token give no text.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models

    tokens = tokenizer.tokens
    end = END_OF_TEXT
    while end.encode() in tokens.values():
        end = f"<{end}>"
    vocabulary = {end: 0} | {tokenizer_json.as_characters(token): row for row, token in tokens.items()}
    engine = Tokenizer(
        models.WordPiece(
            vocabulary, unk_token=end, max_input_chars_per_word=_ANY_LENGTH, continuing_subword_prefix=""
        )
    )
    engine.pre_tokenizer = _pre_tokenizer(_cuts(tokens))
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens([AddedToken(end, normalized=False, special=True)])
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end,
        "pad_token": end,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
    }
    return {FILE: engine.to_str(), CONFIG_FILE: json.dumps(settings, indent=2) + "\n"}


def _tokens(engine: tokenizers.Tokenizer, file: Path) -> dict[int, bytes]:
    """Return the bytes of each token that a text can become."""
    vocabulary = engine.get_vocab(with_added_tokens=False)
    added = engine.get_added_tokens_decoder()
    further = next((row for row in added if row != 0), None)
    if further is not None:
        raise TokenizerError(
            f"{file}: has the added token {added[further].content[:100]!r}, but a vocabulary of World's kind "
            "has none but that of id 0, which ends a document. Leave it out."
        )
    tokens: dict[int, bytes] = {}
    for characters, row in vocabulary.items():
        try:
            token = tokenizer_json.as_bytes(characters)
        except UnicodeEncodeError:
            continue  # text is bytes by then, so nothing becomes this row; its string is a placeholder
        if row in tokens:
            raise TokenizerError(f"{file}: the tokens {tokens[row]!r} and {token!r} both have the id {row}.")
        if row != 0:
            tokens[row] = token
        elif 0 not in added:
            raise TokenizerError(
                f"{file}: id 0 is the ordinary token {characters[:100]!r}, but in a vocabulary of World's "
                "kind it ends a document. Make it an added token that is special."
            )
    return tokens


def _require_longest_match(engine: tokenizers.Tokenizer, tokens: Mapping[int, bytes], file: Path) -> None:
    """Raise TokenizerError where the file gives other ids than greedy longest match over bytes.

    That WordPiece gives a word up beyond some length does not count: it is a setting, and nobody means it.
    """
    prefix = engine.model.continuing_subword_prefix
    parts = _parts(engine.pre_tokenizer)
    if prefix:
        what = f"its tokens that continue a word begin with {prefix[:100]!r}"
    elif engine.normalizer is not None:
        what = "it has a normalizer"
    elif parts == _parts(_pre_tokenizer("")) or parts == _parts(_pre_tokenizer(_cuts(tokens))):
        return
    else:
        what = "its pre_tokenizer is neither ByteLevel without regex and prefix nor what receptance writes"
    raise TokenizerError(
        f"{file}: holds a WordPiece model, which is understood where it is World's longest match over bytes; "
        f"but {what}. If the model is a World model, put {world.FILE} in its place."
    )


def _cuts(tokens: Mapping[int, bytes]) -> str:
    """Return the expression for the places where no token of the vocabulary reaches across."""
    pairs = {token[place : place + 2] for token in tokens.values() for place in range(len(token) - 1)}
    return "|".join(text for text, meeting in _CUTS if not any(map(re.compile(meeting).match, pairs)))


def _pre_tokenizer(cuts: str) -> Any:  # Any: the package has no types
    from tokenizers import Regex, pre_tokenizers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if not cuts:
        return byte_level
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(cuts), "removed"), byte_level])


def _parts(pre_tokenizer: Any) -> list[dict[str, object]]:  # Any: the package has no types
    """Return what cuts and changes a text, one after the other, without what is only about offsets."""
    found = tokenizer_json.state(pre_tokenizer) or {"type": None}
    parts = found["pretokenizers"] if found["type"] == "Sequence" else [found]
    return [{key: value for key, value in part.items() if key != "trim_offsets"} for part in parts]
