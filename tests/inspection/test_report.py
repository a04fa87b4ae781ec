from __future__ import annotations

import json
import math

import pytest
import torch

from receptance.inspection import Inspection, as_report, inspect
from receptance.inspection.report import shown
from receptance.models import AnyModel
from receptance.tokenizers import load_tokenizer
from tests.inference.models import as_loaded, random_model
from tests.models.examples import EXAMPLES, example

TEXT = torch.tensor([3, 17, 17, 0, 28, 5, 9])
BYTES = load_tokenizer("bytes")


def reported(model: AnyModel, **settings: int) -> tuple[Inspection, dict]:
    lm = as_loaded(model, BYTES)
    found = inspect(lm, TEXT, **settings)
    return found, as_report(found, lm, "example")


@pytest.mark.parametrize("generation", EXAMPLES)
def test_every_number_of_an_inspection_is_in_its_report(generation: str) -> None:
    model = example(generation)
    found, report = reported(model)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["model"]["generation"] == generation
    assert report["model"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert [token["id"] for token in report["tokens"]] == TEXT.tolist()
    for name in ("divergence", "gain"):
        rows, expected = report["influence"][name], getattr(found.influence, name)
        assert len(rows) == len(TEXT) + (name == "divergence")
        for j, row in enumerate(rows):
            assert len(row) == j
            values = [math.nan if value is None else value for value in row]
            assert values == pytest.approx(expected[j, :j].tolist(), rel=1e-4, nan_ok=True)
    heads = getattr(model.config, "num_heads", 1)
    for name, tensor in (("norm", found.memory.norms), ("change", found.memory.changes)):
        layers = report["memory"][name]
        assert (len(layers), len(layers[0]), len(layers[0][0])) == (3, heads, len(TEXT))
        assert layers[1][-1] == pytest.approx(tensor[:, 1, -1].tolist(), rel=1e-4)
    half_lives = report["half_lives"]
    assert half_lives["over_text"][2][0] == pytest.approx(found.decays.half_lives[2, 0].tolist(), rel=1e-4)
    assert ("percentile_90" in half_lives) == (generation in ("6", "7"))


def test_predictions_are_told_with_what_was_likeliest() -> None:
    _, report = reported(random_model())
    predictions = report["predictions"]
    assert predictions["surprisal"][0] is predictions["rank"][0] is predictions["likeliest"][0] is None
    assert len(predictions["likeliest"]) == len(TEXT) + 1
    for j in range(1, len(TEXT)):
        likeliest, came = predictions["likeliest"][j], int(TEXT[j])
        probabilities = [each["probability"] for each in likeliest]
        assert probabilities == sorted(probabilities, reverse=True)
        if predictions["rank"][j] <= 5:
            at = likeliest[predictions["rank"][j] - 1]
            assert (at["id"], at["probability"]) == (
                came,
                pytest.approx(math.exp(-predictions["surprisal"][j]), rel=1e-3),
            )
    known = predictions["surprisal"][1:]
    assert report["summary"]["bits_per_token"] == pytest.approx(
        sum(known) / len(known) / math.log(2), rel=1e-4
    )


def test_what_was_read_before_predicts_the_first_token_shown() -> None:
    _, report = reported(random_model(), limit=3)
    assert report["tokens_before"] == 4
    assert None not in report["predictions"]["surprisal"]
    assert report["influence"]["divergence"][1] != [None]


def test_a_channel_that_never_forgets_has_no_half_life() -> None:
    model = random_model()
    with torch.no_grad():
        model.layers[0].att.time_decay[0] = -1000.0
    _, report = reported(model)
    assert report["half_lives"]["over_text"][0][0][0] is None
    assert report["summary"]["slowest_half_life"] is None


def test_reach_is_where_the_share_of_the_mean_influence_is_reached() -> None:
    found, report = reported(random_model())
    means = report["influence"]["divergence_by_distance"]
    for back in range(1, len(TEXT)):
        column = [
            float(found.influence.divergence[j, j - back]) for j in range(back + (back == 1), len(TEXT) + 1)
        ]
        assert means[back - 1] == pytest.approx(sum(column) / len(column), rel=1e-4)
    reach = report["summary"]["tokens_back_for_half_of_all_influence"]
    assert sum(means[: reach - 1]) < 0.5 * sum(means) <= sum(means[:reach]) * (1 + 1e-4)


@pytest.mark.parametrize(("token", "text"), [(65, "A"), (10, "\n"), (0xC3, "\\xc3"), (300, "⟨300⟩")])
def test_a_token_is_shown_as_its_text_or_what_stands_for_it(token: int, text: str) -> None:
    assert shown(token, BYTES) == text


def test_a_token_without_text_is_shown_by_its_id() -> None:
    assert shown(0, load_tokenizer("world")) == "⟨0⟩"
