from __future__ import annotations

import pytest
import torch

from receptance import kernels
from tests.kernels.matrix_cases import make_inputs


def test_the_reference_is_the_product_of_the_paper() -> None:
    inputs = make_inputs("wkv7", 6, (3, 2), torch.float64, batch=1, head=1)
    r, w, k, v, a, b = (x[0, :, 0] for x in inputs[:-1])
    with kernels.use(wkv7="reference"):
        y, end = kernels.wkv7(*inputs)

    def state(t: int) -> torch.Tensor:
        """The state after t tokens: each change, moved by the transitions of every later token."""
        transitions = [torch.diag(w[i].exp()) + torch.outer(a[i], b[i]) for i in range(t)]
        total, after = torch.zeros(2, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
        for i in reversed(range(t)):
            total += torch.outer(v[i], k[i]) @ after
            after = transitions[i] @ after
        return total + inputs[-1][0, 0] @ after

    for t in range(6):
        torch.testing.assert_close(y[0, t, 0], state(t + 1) @ r[t], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(end[0, 0], state(6), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("implementation", kernels.available("wkv7"))
def test_a_key_that_is_replaced_in_full_holds_its_new_value_alone(implementation: str) -> None:
    _, w, _, v, a, _, state = make_inputs("wkv7", 1, (4, 3))
    kappa = -a
    with kernels.use(wkv7=implementation):
        y, end = kernels.wkv7(kappa, torch.zeros_like(w), kappa, v, a, kappa, state)
    torch.testing.assert_close(y, v, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((end @ kappa[:, 0, :, :, None])[..., 0], v[:, 0], rtol=1e-5, atol=1e-5)
