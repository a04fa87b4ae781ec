"""WikiText: cut into its pages and joined again as lm-eval does, without lm-eval by hand."""

from __future__ import annotations

import gzip
import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receptance.evaluation.wikitext import joined, pages

FILE = """ \n = First page = \n \n A word . \n = = Part = = \n More , of it . \n = = = Deep = = = \n = Not\n
 = Second page = \n \n It ends .\n"""


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("a two @-@ part 1 @,@ 000 @.@ 5", "a two-part 1,000.5"),
        ("One , two ; three : four ! Five ? Six . Seven", "One, two; three: four! Five? Six. Seven"),
        ('He said " so it is " ( twice ) [ sic ] { or }', 'He said "so it is" (twice) [sic] {or}'),
        ("the girls ' book", "the girls' book"),
        ("Teddy 's", "Teddy's"),
        (
            "\n = Title = \n \n = = Part = = \n = = = Deep = = = \n",
            "\n= Title =\n\n== Part ==\n=== Deep ===\n",
        ),
        ("at 5 ° C N times", "at 5°C 1 times"),
    ],
)
def test_words_and_marks_are_joined(page: str, expected: str) -> None:
    assert joined(page) == expected


def test_a_page_is_from_its_title_to_the_next() -> None:
    first, second = pages(FILE.splitlines(keepends=True))
    assert first == FILE[FILE.index(" = First") : FILE.index("\n = Second")]
    assert second == FILE[FILE.index(" = Second") :]
    assert list(pages(["\n", "\n"])) == []


@cache
def preprocessing() -> ModuleType:
    found = importlib.util.find_spec("lm_eval")
    if found is None or found.origin is None:
        pytest.skip("needs lm-evaluation-harness: pip install lm-eval")
    path = Path(found.origin).parent / "tasks" / "wikitext" / "preprocess_wikitext.py"
    spec = importlib.util.spec_from_file_location("preprocess_wikitext", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PIECES = [*"=:;.!?,()[]{}\"'/° \nN5as", " @-@ ", " @,@ ", " @.@ ", " 's ", " N ", " = ", "/' [0-9]/"]


@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
def test_joined_is_lm_eval_s_to_the_letter(page: str) -> None:
    assert joined(page) == preprocessing().wikitext_detokenizer({"page": page})


def test_every_page_of_the_reference_file_is_joined_as_by_lm_eval(shared: Path) -> None:
    text = gzip.decompress((shared / "data" / "eval" / "wikitext-2.test.txt.gz").read_bytes()).decode()
    found = list(pages(text.splitlines(keepends=True)))
    assert len(found) > 50
    assert "\n".join(found).strip() == text.strip()
    for page in found:
        assert joined(page) == preprocessing().wikitext_detokenizer({"page": page})
