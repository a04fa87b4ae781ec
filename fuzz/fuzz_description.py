"""Descriptions of prepared folders, `data.json`."""

from __future__ import annotations

from contextlib import suppress

from fuzz import files
from receptance.data import open_split, read_description
from receptance.data.description import open_tokenizer
from receptance.errors import ReceptanceError

WORDS = (
    b'"tokenizer":',
    b'"tokenizer_file":',
    b'"vocabulary_size":',
    b'"end_of_text":',
    b'"splits":',
    b'"train":',
    b'"validation":',
    b'"documents":',
    b'"tokens":',
    b'"bytes_of_text":',
    b'"longest_document":',
    b'"empty":',
    b'"undecodable":',
    b'"duplicates":',
    b'"made_by":',
    b'"bytes"',
    b"null",
    b"{}",
    b"-1",
    b"1e999",
    b"\\ud800",
    b"../",
)


def read(data: bytes) -> None:
    """Read a description, and open what it describes."""
    files.put("data.json", data)
    with suppress(ReceptanceError):
        description = read_description(files.folder())
        with suppress(ReceptanceError):
            open_tokenizer(files.folder())
        for split in description.splits:
            open_split(files.folder(), split)
