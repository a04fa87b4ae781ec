"""What RWKV is compared with is of its size, sees no future, and learns from the same tokens."""

from __future__ import annotations

import pytest
import torch
from reproduction.training import Budget, fresh, num_parameters, train

KINDS = ("RWKV-4", "RWKV-5", "RWKV-6", "RWKV-7", "GPT", "LSTM")
SHAPE = {"layers": 3, "channels": 64, "vocabulary": 50, "context": 32}


def test_a_layer_of_the_gpt_has_as_many_weights_in_matrices_as_one_of_rwkv4() -> None:
    sizes = [
        [
            parameter.numel()
            for parameter in fresh("GPT", **SHAPE | {"layers": layers}).parameters()
            if parameter.ndim == 2
        ]
        for layers in (1, 2)
    ]
    assert sum(sizes[1]) - sum(sizes[0]) == 13 * 64**2


def test_the_lstm_is_about_as_large() -> None:
    ours, theirs = (num_parameters(fresh(kind, **SHAPE)) for kind in ("RWKV-4", "LSTM"))
    assert theirs == pytest.approx(ours, rel=0.1)


@pytest.mark.parametrize("channels", [32, 128])
def test_the_gpt_starts_as_pythia_did_whatever_its_width(channels: int) -> None:
    """Logits and what each half of a layer adds are then of about one size in narrow and in wide models."""
    model = fresh("GPT", **SHAPE | {"channels": channels})
    block = model.model.gpt_neox.layers[0]
    for matrix, std in (
        (block.attention.query_key_value.weight, (2 / (5 * channels)) ** 0.5),
        (model.head.weight, (2 / (5 * channels)) ** 0.5),
        (block.attention.dense.weight, 2 / (3 * channels**0.5)),
        (block.mlp.dense_4h_to_h.weight, 2 / (3 * channels**0.5)),
    ):
        assert float(matrix.detach().std()) == pytest.approx(std, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_no_model_sees_the_future(kind: str) -> None:
    model = fresh(kind, **SHAPE).eval()
    tokens = torch.randint(50, (2, 32))
    changed = tokens.clone()
    changed[:, 20:] = torch.randint(50, (2, 12))
    with torch.inference_mode():
        before, after = (model.head(model.features(x)[0])[:, :20] for x in (tokens, changed))
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize("kind", KINDS)
def test_every_model_learns_what_is_in_the_tokens(kind: str) -> None:
    budget = Budget(steps=40, batch=4, context=32, learning_rate=1e-2, warm_up_steps=5)

    def counting(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.randint(50, (budget.batch, 1), generator=torch.Generator().manual_seed(step))
        tokens = (starts + torch.arange(budget.context + 1)) % 50
        return tokens[:, :-1], tokens[:, 1:]

    losses = train(fresh(kind, **SHAPE), counting, budget)["losses"]
    assert losses[0] == pytest.approx(torch.log(torch.tensor(50.0)), abs=0.5)
    assert losses[-1] < 0.5


def test_a_model_is_made_anew_by_its_seed() -> None:
    one, same, other = (fresh("GPT", **SHAPE, seed=seed).head.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
