from __future__ import annotations

import math

import pytest
import torch

from receptance.inspection.decays import Decays, decays
from tests.models.examples import example

TEXT = torch.tensor([3, 17, 17, 0, 28, 5, 9])


@pytest.mark.parametrize("generation", ["4", "5.0", "5.1", "5.2"])
def test_half_lives_follow_from_the_weights_alone(generation: str) -> None:
    """e^(-e^theta * h) = 1/2 for h = ln 2 / e^theta."""
    model = example(generation)
    found = decays(model, TEXT)
    assert not found.depends_on_text
    for block, half_lives in zip(model.layers, found.half_lives, strict=True):
        theta = block.att.time_decay.detach()
        expected = (math.log(2) / theta.exp()).reshape(len(half_lives), -1).expand_as(half_lives)
        torch.testing.assert_close(half_lives, expected)
    left = torch.exp(-found.rates[0] * found.half_lives)
    torch.testing.assert_close(left, torch.full_like(left, 0.5))
    for percentile in found.percentiles:
        torch.testing.assert_close(percentile, found.half_lives)


def test_the_distribution_counts_every_channel_at_every_token() -> None:
    found = decays(example("6"), TEXT)
    edges, shares = found.distribution()
    torch.testing.assert_close(shares.sum(-1), torch.ones(len(shares), dtype=shares.dtype))
    each = math.log(2) / found.rates[:, 1]
    for low, high, share in zip(edges[:-1], edges[1:], shares[1], strict=True):
        inside = ((each >= low) & (each < high)).double().mean()
        torch.testing.assert_close(share, inside)


def test_what_never_fades_is_counted_where_the_axis_ends() -> None:
    rates = torch.tensor([0.0, 1e-30, 1.0, 1e9]).view(1, 1, 1, 4)
    edges, shares = Decays(rates=rates, depends_on_text=False).distribution()
    assert (float(edges[0]), float(edges[-1])) == pytest.approx((0.01, 1e7))
    assert float(shares[0, -1]) == 0.5
    assert float(shares[0, 0]) == 0.25


@pytest.mark.parametrize("generation", ["6", "7"])
def test_the_memory_fades_at_the_rates_that_are_told(generation: str) -> None:
    """A channel that nothing is written to holds e^-rate of what it held: seen in the kernel's own state."""
    model = example(generation)
    with torch.no_grad():
        for block in model.layers:
            block.att.key.weight.zero_()
            if generation == "7":
                block.att.k_k.zero_()  # nothing is removed either
    _, start = model(torch.tensor([[1, 2]]))
    held = torch.rand(start.wkv.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
    start = type(start)(time_shift=start.time_shift, channel_shift=start.channel_shift, wkv=held)
    found = decays(model, TEXT, start)
    assert found.depends_on_text
    _, end = model(TEXT[None], start)
    over_keys = -1 if generation == "6" else -2
    left = (end.wkv / held)[:, 0].select(over_keys, 0)
    torch.testing.assert_close(torch.exp(-found.rates.sum(0)), left, rtol=1e-9, atol=1e-12)
    whole = torch.exp(-len(TEXT) * math.log(2) / found.half_lives)
    torch.testing.assert_close(whole, left, rtol=1e-9, atol=1e-12)
    assert float(found.rates.std(0).min()) > 0, "every channel's decay depends on the text"


def test_percentiles_enclose_the_half_lives_of_the_tokens() -> None:
    found = decays(example("7"), TEXT)
    each = math.log(2) / found.rates
    low, middle, high = found.percentiles
    torch.testing.assert_close(middle, each.median(0).values)  # of seven
    assert bool(((each.min(0).values <= low) & (low <= middle) & (middle <= high)).all())
    assert bool((high <= each.max(0).values).all())
