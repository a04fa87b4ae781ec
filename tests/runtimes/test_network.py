from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from receptance.runtimes import network

HEADERS = [Path(__file__).parents[2] / "native" / name for name in ("network.h", "packed.h")]
STRUCTS = (
    network.Norm,
    network.ChannelMix,
    network.Layer4,
    network.Layer6,
    network.Layer7,
    network.Network,
    network.States,
    network.Evaluation,
    network.Matrix,
)


def fields_in_header(struct: str) -> list[str]:
    """The names of a C struct's fields in order."""
    text = re.sub(r"//.*", "", "".join(header.read_text() for header in HEADERS))
    body = re.search(rf"struct {struct} {{(.*?)\n}};", text, re.DOTALL)
    assert body is not None
    declarations = (line.strip() for line in body[1].split(";") if line.strip())
    names = (re.findall(r"(\w+)(?:\[\d\])?\s*(?:,|$)", line) for line in declarations)
    return [name for of_one in names for name in of_one]


@pytest.mark.parametrize("struct", STRUCTS)
def test_structs_have_the_fields_of_the_header_in_its_order(struct: type[ctypes.Structure]) -> None:
    assert [field[0] for field in struct._fields_] == fields_in_header(struct.__name__)
