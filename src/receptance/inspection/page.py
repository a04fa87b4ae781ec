"""An inspection as one HTML page: nothing is fetched, and nothing that a text holds is taken for a command.

The page is a template with a style sheet and a script beside this file. The text and the plots are there
without the script too, which adds the maps and what is pointed at.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Sequence
from importlib import resources

from receptance.inspection.drawing import duration, ridges, slope
from receptance.inspection.report import Report

_SURPRISE_BITS = 14  # where the scale of surprise ends; the script has the same
_NAT = math.log2(math.e)


def as_page(report: Report) -> str:
    """Return the page of a report, a whole HTML document."""
    model, influence, half_lives = report["model"], report["influence"], report["half_lives"]
    half, most = (
        _counted(report["summary"][f"tokens_back_for_{share}_of_all_influence"], "token")
        for share in ("half", "nine_tenths")
    )
    fields = {
        "name": html.escape(model["name"]),
        "generation": html.escape(str(model["generation"])),
        "layers": f"{_counted(model['layers'], 'layer')} of {model['hidden_size']:,}",
        "parameters": f"{model['parameters']:,}",
        "facts": _facts(report, most),
        "before": _before(report),
        "tokens": _tokens(report),
        "reach": slope(influence["divergence_by_distance"]),
        "reach_half": half,
        "reach_most": most,
        "spread": ", at all tokens of this text" if half_lives["depends_on_text"] else "",
        "ticks": " Ticks are the medians of its heads." if model["heads"] > 1 else "",
        "delta": _DELTA if model["generation"] == "7" else "",
        "decays": ridges(half_lives),
        "memory_is": _MEMORY_4 if model["generation"] == "4" else _MEMORY,
        "data": _data(report),
        "css": _file("page.css"),
        "js": _file("page.js"),
    }
    # In one pass, so that what a text holds is never looked at again.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: fields[match[1]], _file("page.html"))


_DELTA = " RWKV-7 also replaces what a key held before, which comes on top."
_MEMORY = "the matrix of each head"
_MEMORY_4 = "the weighted mean of the past in each channel"


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8").rstrip()


def _facts(report: Report, reach: str) -> str:
    summary = report["summary"]
    facts = {
        "tokens looked at": f"{len(report['tokens']):,}",
        "bits a token, how unexpected the text was": f"{summary['bits_per_token']:.2f}",
        "of the past hold nine tenths of all influence": reach,
        "half-life of the slowest channel": f"{duration(summary['slowest_half_life'])} tokens",
    }
    return "\n".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())


def _before(report: Report) -> str:
    before = report["tokens_before"]
    return f"The {_counted(before, 'token')} before were read and are remembered. " if before else ""


def _tokens(report: Report) -> str:
    """Return the text, token by token, coloured by how unexpected each was."""
    spans = []
    for token, nats in zip(report["tokens"], report["predictions"]["surprisal"], strict=True):
        place = min(1.0, _NAT * (nats or 0.0) / _SURPRISE_BITS)
        spans.append(_span(_marked(token["text"]), place))
    spans.append('<span class="t next" role="option" aria-selected="false" tabindex="-1">next</span>')
    return "".join(spans)


def _span(content: str, place: float) -> str:
    deep = " deep" if place > 0.62 else ""
    return (
        f'<span class="t{deep}" role="option" aria-selected="false" tabindex="-1" style="--s:{place:.3f}">'
        f"{content}</span>"
    )


def _marked(text: str) -> str:
    """Return a token as HTML, with what cannot be seen made visible."""
    marks = {"\n": '<span class="mark">↵</span>\n', "\t": '<span class="mark">⇥</span>\t', " ": " "}
    return "".join(marks.get(character) or html.escape(_harmless(character)) for character in text)


def _harmless(text: str) -> str:
    """Return the text with an escape for what is not to be seen, such as a change of direction."""
    return "".join(
        character
        if character.isprintable() or character in "\n\t"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def _data(report: Report) -> str:
    """Return what the script needs as JSON that cannot end its element."""
    influence, memory = report["influence"], report["memory"]
    data = {
        "tokens": [{**token, "text": _harmless(token["text"])} for token in report["tokens"]],
        **{name: report["predictions"][name] for name in ("surprisal", "rank")},
        "likeliest": [
            row and [{**each, "text": _harmless(each["text"])} for each in row]
            for row in report["predictions"]["likeliest"]
        ],
        **{name: [list(map(_short, row)) for row in influence[name]] for name in ("divergence", "gain")},
        "norms": [_together(layer) for layer in memory["norm"]],
        "changes": [_weighted(*layer) for layer in zip(memory["norm"], memory["change"], strict=True)],
    }
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _together(heads: Sequence[Sequence[float]]) -> list[float | None]:
    """Return the size of a layer's memory at each token: the root of the sum of the squares of its heads'."""
    return [_short(math.hypot(*sizes)) for sizes in zip(*heads, strict=True)]


def _weighted(norms: Sequence[Sequence[float]], changes: Sequence[Sequence[float]]) -> list[float | None]:
    """Return how much of a layer's memory each token changed, by the norm of the change."""
    found = []
    for sizes, shares in zip(zip(*norms, strict=True), zip(*changes, strict=True), strict=True):
        change = math.hypot(*(size * share for size, share in zip(sizes, shares, strict=True)))
        found.append(_short(change / (math.hypot(*sizes) or 1.0)))
    return found


def _short(value: float | None) -> float | None:
    """Return three digits of a number, which is more than a page can show."""
    return None if value is None else float(f"{value:.3g}")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
