"""The layers that the generations share."""

from __future__ import annotations

import pytest
import torch

from receptance.models.layers import LayerNorm, orthogonal


def test_layer_norm_takes_16_bit_input_with_32_bit_parameters() -> None:
    norm = LayerNorm(64)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 64, dtype=torch.bfloat16)
    assert norm(x).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x).float(), norm(x.float()), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("rows", "columns", "scale"), [(64, 16, 4.0), (16, 16, 1.0)])
def test_orthogonal_widens_by_the_root_of_the_ratio(rows: int, columns: int, scale: float) -> None:
    weight = torch.empty(rows, columns)
    orthogonal(weight, 1.0, torch.Generator().manual_seed(1))
    torch.testing.assert_close(weight.T @ weight, scale * torch.eye(columns), rtol=1e-5, atol=1e-5)


def test_orthogonal_narrowing_keeps_its_rows_orthonormal() -> None:
    weight = torch.empty(16, 64)
    orthogonal(weight, 0.5, None)
    torch.testing.assert_close(weight @ weight.T, 0.25 * torch.eye(16), rtol=1e-5, atol=1e-5)
