from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
import torch

from receptance.inspection import as_page, as_report, inspect
from receptance.tokenizers import Tokenizer
from tests.inference.models import as_loaded
from tests.models.examples import EXAMPLES, example

VOID = {"meta", "input", "br", "hr", "img", "link", "path", "polyline"}
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "<!--",
    '"><b>&amp;',
    "{{data}}",
    "\x1b[2J\u202e",
    "$&\\1",
    "a\nb\t ",
]


class Hostile(Tokenizer):
    """A vocabulary of what could be taken for a command."""

    def __init__(self) -> None:
        words = [*HOSTILE, *(f"w{i}" for i in range(29 - len(HOSTILE)))]
        super().__init__("hostile", {i: word.encode() for i, word in enumerate(words)}, 29)

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def save(self, folder: object) -> None:
        raise NotImplementedError


class Page(HTMLParser):
    """What a page is made of: its elements in their order, the text of each kind, every attribute."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tokens: list[str] = []
        self.scripts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if (dict(attributes).get("class") or "").split()[:1] == ["t"]:
            self.tokens.append("")
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes what it opened"

    def handle_data(self, text: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += text
        elif "span" in self.open and self.tokens and "aside" not in [tag for tag, _ in self.elements]:
            self.tokens[-1] += text


def page_of(generation: str, tokens: list[int], name: str = "example") -> str:
    lm = as_loaded(example(generation), Hostile())
    return as_page(as_report(inspect(lm, torch.tensor(tokens)), lm, name))


@pytest.mark.parametrize("generation", EXAMPLES)
def test_a_page_is_whole_and_needs_nothing_else(generation: str) -> None:
    text = page_of(generation, [9, 10, 11, 9])
    page = Page(text)
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert not {"link", "img", "iframe", "object", "base"} & {tag for tag, _ in page.elements}
    for tag, attributes in page.elements:
        assert not {"src", "href", "srcset", "action"} & set(attributes), tag
        assert not any(name.startswith("on") for name in attributes), tag
    assert text.count("{{") == text.count("{{data}}"), "what is not of the vocabulary is filled in"
    policy = next(a["content"] for tag, a in page.elements if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_no_text_becomes_a_command() -> None:
    tokens = list(range(len(HOSTILE)))
    text = page_of("4", tokens, name="<script>alert(2)</script>")
    page = Page(text)
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert "alert(" not in page.scripts[1]
    data = json.loads(page.scripts[0])
    for shown, in_data, word in zip(page.tokens, data["tokens"], HOSTILE, strict=False):
        seen = word.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
        assert in_data["text"] == seen
        assert shown == seen.replace("\n", "↵\n").replace("\t", "⇥\t")
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_the_script_finds_what_it_looks_for() -> None:
    text = page_of("7", [9, 10, 11])
    page = Page(text)
    script = page.scripts[1]
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert set(re.findall(r'byId\("([\w-]+)"\)', script)) <= ids
    data = json.loads(page.scripts[0])
    for name in set(re.findall(r"(?<![.\w])data\.(\w+)", script)):
        assert name in data, name
    names = {attributes.get("name") for tag, attributes in page.elements if tag == "input"}
    assert set(re.findall(r"\[name=(\w+)\]", script)) == names


def test_what_the_page_holds_is_what_the_report_says() -> None:
    lm = as_loaded(example("5.2"), Hostile())
    report = as_report(inspect(lm, torch.tensor([9, 10, 11, 12, 9, 3])), lm, "example")
    data = json.loads(Page(as_page(report)).scripts[0])
    for j, row in enumerate(report["influence"]["divergence"]):
        known = [value for value in row if value is not None]
        assert [value for value in data["divergence"][j] if value is not None] == pytest.approx(
            known, rel=1e-2
        )
    assert data["surprisal"] == report["predictions"]["surprisal"]
    size = sum(head[3] ** 2 for head in report["memory"]["norm"][1]) ** 0.5
    assert data["norms"][1][3] == pytest.approx(size, rel=1e-2)
    halves = zip(report["memory"]["norm"][1], report["memory"]["change"][1], strict=True)
    change = sum((norm[3] * share[3]) ** 2 for norm, share in halves) ** 0.5
    assert data["changes"][1][3] == pytest.approx(change / size, rel=2e-2)
