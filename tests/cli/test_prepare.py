"""`receptance prepare`: what it prints, where, and how it ends."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from receptance.cli import prepare as command
from receptance.cli.main import main
from receptance.data import open_split, read_description


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.jsonl"
    path.write_text("".join(json.dumps({"text": f"document {i} " * 20}) + "\n" for i in range(100)))
    return path


def test_it_makes_the_folder_and_prints_what_it_holds(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["prepare", str(source), "--output", str(out), "--tokenizer", "bytes"]) == 0
    printed = capsys.readouterr()
    description = read_description(out)
    rows = {line.split()[0]: line.split() for line in printed.out.splitlines()}
    for name, split in description.splits.items():
        assert rows[name][1:3] == [f"{split.documents:,}", f"{split.tokens:,}"]
    assert "tokenizer bytes, 256 ids" in printed.out
    assert "left out" not in printed.out
    assert printed.err == ""


def test_several_sources_are_shown_with_their_weights_and_shares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": f"{name} {i:02}"}) + "\n" for i in range(50))
        )
    arguments = "prepare a.jsonl b.jsonl -o out --tokenizer bytes --weights 1 3 --validation-fraction 0"
    assert main(arguments.split()) == 0
    rows = {words[0]: words for line in capsys.readouterr().out.splitlines() if (words := line.split())}
    assert rows["a.jsonl"][1:4] == ["1", "50", "250"]
    assert rows["b.jsonl"][1:4] == ["3", "150", "750"]
    assert (rows["a.jsonl"][-1], rows["b.jsonl"][-1]) == ("25.0%", "75.0%")
    assert rows["train"][1:3] == ["200", "1,000"]


def test_a_misspelt_option_is_not_taken_for_a_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("text")
    assert main(["prepare", "a.txt", "--dedup", "-o", "out"]) == 1
    assert "--dedup is neither an option (see receptance prepare --help)" in capsys.readouterr().err
    assert not Path("out").exists()


def test_every_option_reaches_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    row = json.dumps({"body": "some words " * 10})
    (folder / "a.rows.jsonl").write_text(f'{row}\n{row}\n{{"body": ""}}\n')
    (folder / "b.rows.jsonl").write_bytes(b'{"body": "\xff"}\n')
    (folder / "c.rows.jsonl").write_text("not JSON")
    (folder / "d.jsonl").write_text("not JSON either")
    monkeypatch.chdir(tmp_path)
    arguments = "prepare in -o out --tokenizer bpe:260 --include *.rows.jsonl --exclude c.* --text-field body"
    arguments += " --errors skip --deduplicate --validation-fraction 0.5"
    assert main(arguments.split()) == 0
    description = read_description("out")
    assert description.vocabulary_size == 260
    assert (description.empty, description.undecodable, description.duplicates) == (1, 1, 1)
    assert "left out: 1 without text, 1 not UTF-8, 1 that had come before" in capsys.readouterr().out
    assert main(arguments.split()) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments.split(), "--overwrite"]) == 0


def test_a_dash_is_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one line\nanother line\n" * 50)))
    assert main(["prepare", "-", "-o", str(tmp_path / "out"), "--tokenizer", "bytes"]) == 0
    assert open_split(tmp_path / "out", "train").documents == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere", "--output", "out"], 1, "error: nowhere: no such file"),
        (["source.jsonl", "--output", "out", "--tokenizer", "bpe:x"], 1, "bpe:4096"),
        (["source.jsonl"], 2, "output"),
        (["--output", "out"], 2, "SOURCES"),
        (["source.jsonl", "--output", "out", "--errors", "ignore"], 2, "ignore"),
    ],
)
def test_a_mistake_is_explained_without_a_traceback(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if "--tokenizer" not in arguments:
        arguments = [*arguments, "--tokenizer", "bytes"]
    assert main(["prepare", *arguments]) == code
    printed = capsys.readouterr()
    assert message in printed.out + printed.err
    assert "Traceback" not in printed.err
    assert not (tmp_path / "out").exists()


def test_without_a_terminal_progress_is_lines(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "SECONDS_BETWEEN_LINES", 0)
    assert main(["prepare", str(source), "-o", str(tmp_path / "out"), "--tokenizer", "bytes"]) == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("tokenising: 100%, 100 documents, ")
    assert last.endswith(" MB/s")


def test_on_a_terminal_progress_is_a_bar(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["prepare", str(source), "-o", str(tmp_path / "out"), "--tokenizer", "bpe:260"]) == 0
    bar = capsys.readouterr().err
    assert "tokenising" in bar
    assert "100 documents" in bar


def test_it_needs_no_torch(tmp_path: Path, source: Path) -> None:
    program = (
        "import sys; from receptance.cli.main import main; code = main(); assert 'torch' not in sys.modules; "
        "sys.exit(code)"
    )
    arguments = ["prepare", str(source), "-o", str(tmp_path / "out"), "--tokenizer", "bytes"]
    root = Path(command.__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, env=environment, capture_output=True
    )
