"""Every claim runs, at sizes that show nothing; and what judges them tells true from false."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from reproduction.notebook import Notebook, Settings
from reproduction.training import Budget, fresh

from reproduction import (
    causal_tracing,
    claims,
    context_length,
    decay_spectra,
    long_range,
    prompt_order,
    scaling_law,
    zero_shot,
)
from tests.models.examples import example

SMALLEST: dict[str, dict[str, Any]] = {
    "parallel_recurrent": {"layers": 2, "channels": 64, "tokens": 24},
    "parameters_flops": {"sizes": ("169M",), "tokens": 1},
    "generation_cost": {
        "size": (1, 64),
        "tokens": 40,
        "window": 10,
        "lengths": (10, 20, 40),
        "sizes": ((1, 64),),
        "tokens_of_sizes": 20,
    },
    "complexity": {"lengths": (64, 128), "channels": 64, "widths": (64, 128), "length": 64, "turns": 1},
    "gradient_bounds": {"lengths": (8, 32), "channels": 4, "seeds": 2},
    "scaling_law": {"sizes": ((1, 16, 2), (2, 16, 4))},
    "context_length": {"steps_of_extension": 1},
    "initialisation": {"seeds": 2},
    "small_embedding": {"seeds": 2, "tokenizer": "bytes"},
    "prompt_order": {"questions": 10},
    "causal_tracing": {"questions": 10, "traced": 4},
    "long_range": {"questions": 10},
    "zero_shot": {"tasks": ("lambada", "piqa"), "limit": 2},
}
SMALL = {"layers": 2, "channels": 16, "validation_tokens": 2000}


def smallest(name: str) -> Settings:
    """Return the settings of a claim that take least."""
    settings = claims.claim(name).settings["tiny"]
    changed = dict(SMALLEST.get(name, {}))
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            changed[field.name] = Budget(steps=2, batch=2, context=16)
        elif field.name in SMALL:
            changed.setdefault(field.name, SMALL[field.name])
    return replace(settings, **changed)


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{number} is followed by {number + 1}.\n" for number in range(2000)))
    return [path]


@pytest.mark.parametrize("name", claims.NAMES)
def test_a_claim_measures_judges_and_draws(
    name: str,
    texts: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    claim, settings = claims.claim(name), smallest(name)
    if name == "zero_shot":
        request.getfixturevalue("shared")
    data = claim.measure(Notebook(tmp_path / "parts", settings, texts=texts), settings)
    assert json.loads(json.dumps(data)) == data
    assert all(check.states and check.ours for check in claim.judge(data))
    figure = Figure()
    claim.draw(figure, data)
    assert figure.axes


def scaled(exponent: float, bend: float = 0.0) -> dict[str, list[dict[str, float]]]:
    """Return models whose loss follows a power law, but for a bend in the last decade."""
    points = []
    for step in range(13):
        flops = 10.0 ** (12 + step / 4)
        nats = 50 * flops**exponent * (1 + bend * max(0, step - 8))
        points.append({"parameters": 1, "tokens": 1, "flops": flops, "nats": nats})
    return {"RWKV-4": points, "GPT": points}


def test_a_power_law_is_found_and_extrapolates() -> None:
    data = scaled(-0.1)
    assert all(check.holds for check in scaling_law.judge(data))
    law = scaling_law.Law.fitted([scaling_law.Point(**one) for one in data["RWKV-4"]])
    assert law.exponent == pytest.approx(-0.1)
    assert law.factor == pytest.approx(50)


def test_a_law_that_ends_before_the_last_decade_does_not_extrapolate() -> None:
    assert [check.holds for check in scaling_law.judge(scaled(-0.1, bend=0.04))[:2]] == [False, False]


def test_optimal_are_the_models_that_no_cheaper_one_beats() -> None:
    points = [
        scaling_law.Point(1, 1, flops, nats) for flops, nats in ((1, 5), (2, 6), (3, 4), (3, 4.5), (4, 4))
    ]
    assert [(p.flops, p.nats) for p in scaling_law.pareto(points)] == [(1, 5), (3, 4)]


def test_a_context_that_does_not_help_does_not_hold() -> None:
    flat = [2.0] * 64
    data = {"context": 8, "stages": {"8": flat, "64": flat}, "control": flat}
    assert [check.holds for check in context_length.judge(data)] == [True, False, False]


def test_the_question_stands_where_the_order_says_and_the_answer_is_right() -> None:
    settings = claims.claim("prompt_order").settings["tiny"]
    for number in range(20):
        (first, answer), (last, same) = (
            prompt_order.draw_question(settings, order)(number) for order in prompt_order.ORDERS
        )
        key, data = first[1], first[2:-1]
        assert last == [*data, prompt_order.ASK, key]
        assert answer == same == dict(zip(data[::2], data[1::2], strict=True))[key]


@pytest.mark.parametrize(
    ("expression", "value"), [("[MAX 2 9 [MIN 4 7 ] 0 ]", 9), ("[SM 5 6 [MED 1 8 3 ] ]", 4)]
)
def test_nested_operations_are_evaluated_as_they_are_written(expression: str, value: int) -> None:
    from reproduction.long_range import OPERATIONS

    stack: list[tuple[str, list[int]]] = []
    result = None
    for symbol in expression.split():
        if symbol.startswith("["):
            stack.append((symbol, []))
            continue
        if symbol == "]":
            operation, values = stack.pop()
            result = OPERATIONS[operation](values)
        else:
            result = int(symbol)
        if stack:
            stack[-1][1].append(result)
    assert result == value


def test_drawn_expressions_have_the_value_that_they_are_said_to_have() -> None:
    import random

    from reproduction.long_range import OPERATIONS, expression

    for seed in range(200):
        symbols, value = expression(random.Random(seed), depth=4, arguments=4)
        text = " ".join(symbols)
        while "[" in text:
            inner = text[text.rindex("[") :]
            inner = inner[: inner.index("]") + 1]
            operation, *arguments = inner.strip("]").split()
            text = text.replace(inner, str(OPERATIONS[operation]([int(x) for x in arguments])), 1)
        assert int(text) == value


def test_passages_are_of_the_same_file_where_the_answer_says_so() -> None:
    question, _ = long_range.retrieval(claims.claim("long_range").settings["tiny"])
    files = [text for name in long_range.PACKAGES for text in long_range.files_of(name)]
    for number in [*range(40), *range(-40, 0)]:
        tokens, answer = question(number)
        border = tokens.index(long_range.BETWEEN)
        one, other = bytes(tokens[:border]), bytes(tokens[border + 1 :])
        holding = [(one in text, other in text) for text in files]
        # What stands in two files, such as blanks, says nothing.
        if sum(first for first, _ in holding) == sum(second for _, second in holding) == 1:
            assert ((True, True) in holding) == bool(answer - long_range.FIRST_CLASS)


def test_no_image_to_test_with_is_learnt_from() -> None:
    question, _ = long_range.image(claims.claim("long_range").settings["tiny"])
    learnt, tested = (
        {tuple(question(number)[0]) for number in span} for span in (range(3000), range(-450, 0))
    )
    assert len(tested) > 440
    assert not learnt & tested
    assert {len(pixels) for pixels in learnt | tested} == {64}


def test_a_score_that_differs_does_not_hold() -> None:
    equal = {"items": 4, "metric": "acc", "ours": 0.5, "theirs": 0.5, "difference": 1e-6}
    assert [check.holds for check in zero_shot.judge({"piqa": equal})] == [True, True]
    other = equal | {"theirs": 0.75, "difference": 0.1}
    assert [check.holds for check in zero_shot.judge({"piqa": equal, "copa": other})] == [False, False]


def test_a_place_that_holds_all_brings_all_back() -> None:
    """After the last layer, the head reads the stream at the last word alone."""
    model = example("4", torch.float32)
    clean, other, answers = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 7, 3, 4]]), torch.tensor([9])
    data = causal_tracing.trace(model, clean, other, answers)
    assert data["whole"] != pytest.approx(data["lost"], abs=1e-4)
    assert data["traced"][-1] == pytest.approx([*[data["lost"]] * 3, data["whole"]], abs=1e-5)
    whole = model(clean)[0][0, -1].log_softmax(-1)[9].detach()
    assert data["whole"] == pytest.approx(float(whole), abs=1e-5)
    # Before the word that differs nothing is lost, so nothing is to be brought back.
    assert data["traced"][0][0] == pytest.approx(data["lost"], abs=1e-5), (
        "before the difference nothing is lost"
    )
    assert data["traced"][0][1] != pytest.approx(data["lost"], abs=1e-5)


def test_an_answer_that_is_held_elsewhere_does_not_hold() -> None:
    traced = [[-9.0, -9.0, -3.0, -9.0, -8.0], [-9.0, -9.0, -8.0, -9.0, -2.0], [-9.0, -9.0, -9.0, -9.0, -1.0]]
    data = {"accuracy": 1.0, "whole": -1.0, "lost": -9.0, "traced": traced}
    assert [check.holds for check in causal_tracing.judge(data)] == [True] * 4
    swapped = data | {"traced": [[row[1], row[0], row[3], row[2], row[4]] for row in traced]}
    assert [check.holds for check in causal_tracing.judge(swapped)] == [True, False, True, False]


def test_layers_that_forget_alike_are_told_apart_from_those_that_do_not() -> None:
    model = fresh("RWKV-4", layers=3, channels=16, vocabulary=10, context=8)
    start = decay_spectra.spectra(model)
    data = {name: {"before training": start, "after training": start} for name in decay_spectra.STARTS}
    assert [check.holds for check in decay_spectra.judge(data)] == [True, True, True]
    decay_spectra.alike(model)
    same = decay_spectra.spectra(model)
    assert same[0] == same[-1]
    data[decay_spectra.ALIKE]["after training"] = same
    data[decay_spectra.PUBLISHED]["before training"] = same
    assert [check.holds for check in decay_spectra.judge(data)] == [False, True, False]
