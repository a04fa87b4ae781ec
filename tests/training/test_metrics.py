from __future__ import annotations

from pathlib import Path

import pytest

from receptance.errors import TrainingError
from receptance.training.metrics import MetricsLog, last_step, read_metrics, rewind_metrics


def test_records_come_back_in_order_and_a_second_session_appends(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.append({"kind": "training", "step": 1, "loss": 0.1 + 0.2})
        assert read_metrics(path) == [
            {"kind": "training", "step": 1, "loss": 0.1 + 0.2}
        ]  # readable meanwhile
    with MetricsLog(path) as log:
        log.append({"kind": "validation", "step": 1})
        log.sync()
    assert [record["kind"] for record in read_metrics(path)] == ["training", "validation"]


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo', encoding="utf-8")
    assert read_metrics(path) == [{"step": 1}]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n', encoding="utf-8")
    with pytest.raises(TrainingError, match=r"metrics\.jsonl: line 2 .*nonsense"):
        read_metrics(path)


def test_rewinding_forgets_what_came_after_a_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 2}\n{"step": 3}\n{"st', encoding="utf-8")
    assert rewind_metrics(path, 2) == [{"step": 1}, {"step": 2}, {"step": 2}]
    assert path.read_text(encoding="utf-8") == '{"step": 1}\n{"step": 2}\n{"step": 2}\n'


def test_the_last_step_of_a_log_is_told_whatever_damage_it_has(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert last_step(path) == 0
    path.write_text('{"step": 1}\nnonsense\n{"step": 3}\n{"st', encoding="utf-8")
    assert last_step(path) == 3


def test_rewinding_a_log_that_is_gone_begins_a_new_one(tmp_path: Path) -> None:
    assert rewind_metrics(tmp_path / "metrics.jsonl", 2) == []
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_record_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics.jsonl") as log, pytest.raises(ValueError, match="JSON"):
        log.append({"loss": float("nan")})
