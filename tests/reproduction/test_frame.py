"""A claim is measured once, judged by its data, and shown as what it is, also where it fails."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from reproduction.claim import SCALES, Check, Claim, Data, NotAtHandError
from reproduction.command import main, reproduce
from reproduction.notebook import Notebook
from reproduction.record import Record, records

from reproduction import claims, report

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Settings:
    bound: int = 3


class Measurer:
    """Two parts, of which the second may be interrupted."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.interrupted = False

    def measure(self, notebook: Notebook, settings: Settings) -> Data:
        return {part: notebook.once(part, lambda part=part: self.part(part, settings)) for part in ("a", "b")}

    def part(self, part: str, settings: Settings) -> int:
        self.calls.append(part)
        if part == "b" and self.interrupted:
            raise KeyboardInterrupt
        return settings.bound


def judge(data: Data) -> Sequence[Check]:
    return [Check(states="small | even", paper="below 4", ours=f"{data['a']}", holds=data["a"] < 4)]


@pytest.fixture
def measurer() -> Measurer:
    return Measurer()


@pytest.fixture
def made_claim(measurer: Measurer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Claim:
    monkeypatch.chdir(tmp_path)
    made = Claim(
        name="made",
        says="Things are small",
        where="(nowhere)",
        settings={"tiny": Settings(), "cpu": Settings(bound=5)},
        measure=measurer.measure,
        judge=judge,
        draw=lambda figure, data: None,
        plan=lambda: "It costs 3 EFLOP.",
    )
    monkeypatch.setattr(report, "NAMES", ("made",))
    monkeypatch.setattr(report, "claim", lambda name: made)
    return made


def words(tmp_path: Path, *more: str) -> list[str]:
    return ["--results", str(tmp_path / "results"), *more]


def arguments(tmp_path: Path, **changed: Any) -> Namespace:
    return Namespace(
        **{"scale": "tiny", "again": False, "text": [], "results": tmp_path / "results"} | changed
    )


def test_a_claim_ends_in_a_result_two_pictures_and_a_row(made_claim: Claim, tmp_path: Path) -> None:
    assert main(made_claim, words(tmp_path)) == 0
    assert {file.name for file in (tmp_path / "results" / "tiny").iterdir()} == {
        "made.json",
        "made.png",
        "made.svg",
    }
    page = (tmp_path / "README.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| [Things"))
    assert "below 4" in row
    assert "holds" in row
    assert "`python -m reproduction.made --scale tiny`" in row
    assert "small | even" not in row


def test_an_interrupted_claim_goes_on_and_a_finished_one_is_not_measured_again(
    made_claim: Claim, measurer: Measurer, tmp_path: Path
) -> None:
    measurer.interrupted = True
    assert main(made_claim, words(tmp_path)) == 130
    assert not list(tmp_path.glob("results/**/*"))
    measurer.interrupted = False
    assert main(made_claim, words(tmp_path)) == 0
    assert main(made_claim, words(tmp_path)) == 0
    assert measurer.calls == ["a", "b", "b"]
    assert main(made_claim, words(tmp_path, "--again")) == 0
    assert measurer.calls == ["a", "b", "b", "a", "b"]


def test_what_was_measured_with_other_settings_does_not_count(
    made_claim: Claim, measurer: Measurer, tmp_path: Path
) -> None:
    reproduce(made_claim, arguments(tmp_path))
    found = reproduce(replace(made_claim, settings={"tiny": Settings(bound=2)}), arguments(tmp_path))
    assert found.data == {"a": 2, "b": 2}
    reproduce(made_claim, arguments(tmp_path, text=[Path("other.txt")]))
    assert measurer.calls == ["a", "b"] * 3


def test_a_claim_that_does_not_hold_says_so(made_claim: Claim, tmp_path: Path) -> None:
    assert main(made_claim, words(tmp_path, "--scale", "cpu")) == 0
    page = (tmp_path / "README.md").read_text()
    assert "**does not hold**" in next(line for line in page.splitlines() if line.startswith("| [Things"))


def test_the_paper_s_scale_is_a_plan(made_claim: Claim, measurer: Measurer, tmp_path: Path) -> None:
    assert main(made_claim, words(tmp_path, "--scale", "paper")) == 0
    assert "It costs 3 EFLOP." in (tmp_path / "README.md").read_text()
    assert not measurer.calls


def test_a_gpu_that_is_not_there_is_an_error_and_no_result(
    made_claim: Claim, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(made_claim, words(tmp_path, "--scale", "gpu")) == 1
    assert "choose tiny or cpu" in capsys.readouterr().err
    assert not list(tmp_path.glob("results/**/*.json"))


def test_what_cannot_be_measured_here_says_why(made_claim: Claim, tmp_path: Path) -> None:
    def measure(notebook: Notebook, settings: Settings) -> Data:
        raise NotAtHandError("it needs a lake")

    assert main(replace(made_claim, measure=measure), words(tmp_path)) == 0
    assert "| not measured: it needs a lake |" in (tmp_path / "README.md").read_text()


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    check = Check(states="s", paper="p", ours="o", holds=True)
    record = Record(claim="made", scale="tiny", command="c", seconds=1.5, checks=(check,), data={"a": [1]})
    record.save(tmp_path)
    assert list(records(tmp_path, "tiny")) == [record]


def test_a_claim_that_fails_is_reported_and_the_others_run(tmp_path: Path) -> None:
    code = (
        "import sys, reproduction.__main__ as all_claims\n"
        "all_claims.words_for = lambda name, arguments: "
        "[sys.executable, '-c', f'import sys; sys.exit({7 * (name == \"complexity\")})']\n"
        f"sys.argv[1:] = ['--results', {str(tmp_path / 'results')!r}]\n"
        "sys.exit(all_claims.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert f"[{len(claims.NAMES)}/{len(claims.NAMES)}]" in done.stdout
    assert [record.failure for record in records(tmp_path / "results", "tiny")] == [
        "it ended with exit code 7"
    ]
    assert "**failed**: it ended with exit code 7" in (tmp_path / "README.md").read_text()


def test_behind_an_interrupted_claim_none_begins(tmp_path: Path) -> None:
    code = (
        "import sys, reproduction.__main__ as all_claims\n"
        "all_claims.words_for = lambda name, arguments: [sys.executable, '-c', 'import sys; sys.exit(130)']\n"
        f"sys.argv[1:] = ['--results', {str(tmp_path / 'results')!r}]\n"
        "sys.exit(all_claims.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 130, done.stderr
    assert done.stdout.count("…") == 1
    assert not list(records(tmp_path / "results", "tiny"))


@pytest.mark.parametrize("name", claims.NAMES)
def test_every_claim_is_whole(name: str) -> None:
    found = claims.claim(name)
    assert found.name == name
    assert set(found.settings) == set(SCALES) - {"paper"}
    assert found.plan().endswith(".")
