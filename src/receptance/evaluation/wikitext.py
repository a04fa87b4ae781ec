"""WikiText: its pages out of the file of all, and the text that they were before they were cut into words.

In the file, words and marks stand apart, and the marks within a number or a word are ` @,@ `, ` @.@ ` and
` @-@ `. A model reads the page as lm-evaluation-harness 0.4.13 joins it again, to the letter, oddities too.
Its loss is shared out to the words and bytes of the page as it stands in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# What is replaced, in this order.
_CONTRACTIONS = [
    (r"s '", "s'"),
    (r"/' [0-9]/", "/'[0-9]/"),  # not what was meant, but what is done
]
_IN_NUMBERS_AND_WORDS = [(rf" @{re.escape(mark)}@ ", mark) for mark in "-,."]
_MARKS = [(rf" {re.escape(mark)} ", f"{mark} ") for mark in ":;.!?,"]
_WITHIN = [
    (rf"{re.escape(opening)}\s*([^{re.escape(closing)}]*?)\s*{re.escape(closing)}", rf"{opening}\1{closing}")
    for opening, closing in ("()", "[]", "{}", '""', "''")
]
_OTHERS = [
    *((" ".join("=" * count), "=" * count) for count in (4, 3, 2)),
    (" ° ", "°"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
]
_REPLACED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (*_CONTRACTIONS, *_IN_NUMBERS_AND_WORDS, *_MARKS, *_WITHIN, *_OTHERS)
]


def joined(page: str) -> str:
    """Return the text of a page, with its words and marks joined as they were."""
    for pattern, replacement in _REPLACED:
        page = pattern.sub(replacement, page)
    return page


def pages(lines: Iterable[str]) -> Iterator[str]:
    """Yield the pages of a file, given line by line; each begins with its title, ` = Title = `.

    As in the data set of pages that lm-eval reads, a page has no line break before the next title.
    """
    page: list[str] = []
    for line in lines:
        if _is_title(line.strip()):
            if any(map(str.strip, page)):
                yield "".join(page).removesuffix("\n")
            page = []
        page.append(line)
    if any(map(str.strip, page)):
        yield "".join(page)


def _is_title(line: str) -> bool:
    begins, ends = line.startswith("= "), line.endswith(" =")
    return begins and ends and not (line.startswith("= =") or line.endswith("= ="))
