from __future__ import annotations

from receptance.training import Progress, Sample, Validation


def test_the_record_of_a_step_is_what_the_log_keeps_and_no_more() -> None:
    progress = Progress(
        step=3,
        tokens=96,
        seconds=1.23456,
        loss=2.5,
        bits_per_byte=1.25,
        learning_rate=1e-3,
        gradient_norm=0.5,
        tokens_per_second=77.77777,
        flops=9600,
        share=0.5,
        seconds_left=9.0,
        validation=Validation(step=3, loss=2.0, bits_per_byte=1.0),
        samples=(Sample(prompt="a", text="b"),),
    )
    assert progress.record() == {
        "kind": "training",
        "step": 3,
        "tokens": 96,
        "seconds": 1.235,
        "loss": 2.5,
        "bits_per_byte": 1.25,
        "learning_rate": 1e-3,
        "gradient_norm": 0.5,
        "tokens_per_second": 77.778,
        "flops": 9600,
    }
