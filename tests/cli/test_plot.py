from __future__ import annotations

import json
from pathlib import Path

import pytest

from receptance.cli.main import main


def a_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    records = (
        {"kind": "training", "step": step, "tokens": 9 * step, "flops": 99 * step, "seconds": float(step)}
        | {"loss": 3 / step, "bits_per_byte": 2 / step}
        for step in range(1, 20)
    )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.mark.parametrize("against", ["tokens", "time", "flops"])
def test_runs_are_drawn_together_and_the_picture_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], against: str
) -> None:
    runs = [str(a_run(tmp_path / name / "run")) for name in ("a", "b")]
    output = tmp_path / "both.svg"
    assert main(["plot", *runs, "--against", against, "--output", str(output), "--log"]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    assert output.read_text(encoding="utf-8").startswith("<?xml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no run is named"),
        (["{tmp}/nothing"], "nothing holds no run: there is no metrics.jsonl"),
        (["{tmp}/run", "{tmp}/../{name}/run"], "a run is named twice"),
        (["{tmp}/run", "--output={tmp}/x.gif"], "a picture is one of png, svg, pdf"),
    ],
)
def test_a_mistake_is_explained_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    a_run(tmp_path / "run")
    assert main(["plot", *(word.format(tmp=tmp_path, name=tmp_path.name) for word in words)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
