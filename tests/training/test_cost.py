from __future__ import annotations

import pytest
import torch

from receptance.checkpoints.stored_model import empty_model
from receptance.errors import ConfigError
from receptance.models import RWKV4Config, RWKV6Config, RWKV7Config
from receptance.training import flops_per_token, matmul_peak


@pytest.mark.parametrize(
    ("layers", "width", "forward"),  # of the RWKV-4 paper, table 2
    [(12, 768, 2.613e8), (24, 1024, 7.573e8), (24, 2048, 2.823e9), (40, 5120, 2.778e10)],
)
def test_an_rwkv4_takes_three_times_the_published_flops_of_the_way_forward(
    layers: int, width: int, forward: float
) -> None:
    model = empty_model(RWKV4Config(vocabulary_size=50277, num_layers=layers, hidden_size=width))
    assert flops_per_token(model) == pytest.approx(3 * forward, rel=2e-4)


def test_later_generations_count_their_low_rank_matrices_too() -> None:
    # RWKV-7: L (12 C^2 + 2 C sum of the ranks) + V C multiplications; the first layer has no value ranks.
    model = empty_model(RWKV7Config(vocabulary_size=65536, num_layers=12, hidden_size=768))
    ranks = 12 * (64 + 64 + 32 + 128) - 32
    assert flops_per_token(model) == 6 * (12 * 12 * 768**2 + 2 * 768 * ranks + 65536 * 768)
    # RWKV-6: L (13 C^2 + 448 C) + V C.
    model6 = empty_model(RWKV6Config(vocabulary_size=65536, num_layers=12, hidden_size=768))
    assert flops_per_token(model6) == 6 * (12 * (13 * 768**2 + 448 * 768) + 65536 * 768)


def test_the_peak_is_a_rate_that_a_machine_can_have() -> None:
    assert 1e8 < matmul_peak(torch.float32) < 1e17


def test_a_device_that_is_not_there_is_named_by_its_key() -> None:
    with pytest.raises(ConfigError, match=r"run\.device is 'nonsense', which torch cannot use"):
        matmul_peak(torch.float32, "nonsense")
