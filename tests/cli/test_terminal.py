"""What is written for people is aligned, whole and harmless."""

from __future__ import annotations

import pytest

from receptance.cli import terminal


def test_control_characters_become_visible_but_line_breaks_and_tabs_stay() -> None:
    controls = "".join(map(chr, [*range(0x20), 0x7F, *range(0x80, 0xA0)]))
    shown = terminal.harmless(f"a漢{controls}")
    assert shown.startswith("a漢␀")
    assert [character for character in shown if ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0] == [
        "\t",
        "\n",
    ]


def test_a_table_is_aligned_and_not_cut_however_long_a_cell_is(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_table(
        ["name", "size", "note"], [("a", "1", ""), ("bcdef", "12,345", "x" * 300)], numbers=["size"]
    )
    assert capsys.readouterr().out.splitlines() == [
        "name     size  note",
        "a           1",
        "bcdef  12,345  " + "x" * 300,
    ]


def test_a_table_without_rows_is_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_table(["name", "size"], [])
    assert capsys.readouterr().out == "name  size\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1,023 bytes"),
        (1536, "1.5 KiB"),
        (5 * 2**20, "5.0 MiB"),
        (3 * 2**42, "12,288.0 GiB"),
    ],
)
def test_sizes_are_in_the_largest_unit_that_leaves_one(count: int, text: str) -> None:
    assert terminal.bytes_as_text(count) == text
