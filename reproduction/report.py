"""The one page of all results: `python -m reproduction.report` makes it anew from the files beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from receptance import atomic
from reproduction.claim import MEASURED, SCALES, Claim
from reproduction.claims import NAMES, claim
from reproduction.pictures import save_picture
from reproduction.plan import BASIS
from reproduction.record import FOLDER, Record, records

HEAD = """# The paper's claims, reproduced

Each claim of the RWKV-4 paper ([arxiv.org/abs/2305.13048](https://arxiv.org/abs/2305.13048)) is a script here
that measures it, judges it, and draws it. This page is made from what they wrote. A claim that does not hold
says so: at a small scale some cannot.

```sh
make reproduce                                         # all claims at the scale tiny, and this page
python -m reproduction --scale cpu --text FILE …       # a night, on a text of one's own
python -m reproduction.complexity --scale tiny         # one claim
python -m reproduction.report                          # this page and the pictures from the results alone
```

Scales: {scales}. What is trained, baselines too, is trained by the same loop on the same tokens: Python's own
sources, unless `--text` says otherwise. Where kinds of models are compared, each has the best of three rates
of learning. An interrupted command goes on where it was.
"""


def write_report(folder: Path = FOLDER) -> None:
    """Write `README.md` beside the folder of results."""
    atomic.write_text(folder.parent / "README.md", "\n".join(lines(folder)) + "\n")


def lines(folder: Path) -> Iterator[str]:
    """Yield the page line by line."""
    claims = {name: claim(name) for name in NAMES}
    yield HEAD.format(scales=", ".join(f"`{name}` ({about})" for name, about in SCALES.items()))
    for scale in MEASURED:
        known = {record.claim: record for record in records(folder, scale) if record.claim in claims}
        if known:
            yield from _scale(scale, [(claims[name], known[name]) for name in NAMES if name in known], folder)
    planned = {record.claim: record for record in records(folder, "paper")}
    if planned:
        yield "## Scale `paper`: what it would take"
        yield ""
        yield BASIS
        yield ""
        for name in NAMES:
            if name in planned:
                yield f"- **{claims[name].says}.** {planned[name].plan}"
        yield ""


def _scale(scale: str, results: Sequence[tuple[Claim, Record]], folder: Path) -> Iterator[str]:
    minutes = sum(record.seconds for _, record in results) / 60
    machines = sorted({record.machine for _, record in results if record.machine})
    versions = next((record.versions for _, record in results if record.versions), {})
    yield f"## Scale `{scale}`"
    yield ""
    yield (
        f"{'; '.join(machines)}; {', '.join(f'{name} {version}' for name, version in versions.items())}. "
        f"{minutes:.0f} minutes one after the other; those that measure no time run side by side."
    )
    yield ""
    yield "| claim | the paper | ours | does it hold? | command | time |"
    yield "|---|---|---|---|---|---:|"
    for one, record in results:
        papers = dict.fromkeys(check.paper for check in record.checks if check.paper)
        cells = (
            f"[{one.says}](#{scale}-{one.name.replace('_', '-')}) {one.where}",
            "<br>".join(papers) or "–",
            "<br>".join(check.ours for check in record.checks) or "–",
            verdict(record),
            f"`{record.command}`",
            f"{record.seconds:,.0f} s",
        )
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""
    for one, record in results:
        yield from _details(one, record, folder)


def verdict(record: Record) -> str:
    """Say in a few words whether the claim holds."""
    if record.failure:
        return f"**failed**: {record.failure}"
    if record.missing:
        return f"not measured: {record.missing}"
    held = sum(check.holds for check in record.checks)
    if held == len(record.checks):
        return "holds"
    return "**does not hold**" if not held else f"**in part**: {held} of {len(record.checks)}"


def _details(one: Claim, record: Record, folder: Path) -> Iterator[str]:
    """Yield what was checked, and the picture."""
    yield f"### {record.scale}: {one.name.replace('_', ' ')}"
    yield ""
    if record.failure or record.missing:
        yield f"It failed: {record.failure}." if record.failure else f"Not measured: {record.missing}."
        yield ""
        return
    for check in record.checks:
        paper = f" (paper: {check.paper})" if check.paper else ""
        yield f"- {'holds' if check.holds else '**does not hold**'}: {check.states}: {check.ours}{paper}"
    yield ""
    if one.notes:
        yield one.notes
        yield ""
    place = f"{folder.name}/{record.scale}/{one.name}"
    yield f"![{one.says}]({place}.png)"
    yield ""
    yield f"[figures]({place}.json) · [as SVG]({place}.svg)"
    yield ""


def main() -> None:
    """Judge and draw all results anew, and write the page."""
    from dataclasses import replace

    for scale in MEASURED:
        for record in records(FOLDER, scale):
            if record.claim in NAMES and record.data:
                one = claim(record.claim)
                replace(record, checks=tuple(one.judge(record.data))).save(FOLDER)
                save_picture(one, record, FOLDER)
    write_report()


if __name__ == "__main__":
    main()
