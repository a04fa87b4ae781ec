from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from receptance import kernels
from receptance.errors import ConfigError, KernelError
from receptance.kernels import cross_entropy, cross_entropy_autograd
from receptance.kernels.cross_entropy import IGNORED
from tests.kernels.ways import Way, native_ways

# Largest difference allowed from the reference in float64, relative to the largest entry of the tensor.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}

FAST = [*native_ways("linear_cross_entropy"), Way("linear_cross_entropy", "torch")]
EVERY = [*FAST, Way("linear_cross_entropy", "reference")]


def make_inputs(
    tokens: int, vocabulary: int, channel: int = 8, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = 2 * torch.randn(tokens, channel, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocabulary, channel, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    return hidden.to(dtype), weight.to(dtype), targets


def run(
    way: Way,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    max_logit_weight: float,
    z_loss_weight: float = 0.01,
    scale: float = 0.37,
) -> list[Tensor]:
    """Return loss, nll and the gradients of scale * loss for hidden and weight."""
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    with way.use():
        loss, nll = kernels.linear_cross_entropy(hidden, weight, targets, max_logit_weight, z_loss_weight)
    return [loss.detach(), nll, *torch.autograd.grad(scale * loss, (hidden, weight))]


def assert_near(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for name, x, y in zip(("loss", "nll", "hidden", "weight"), actual, expected, strict=True):
        found = float((x.double() - y).abs().max()) / (float(y.abs().max()) or 1.0)
        assert found <= tolerance, f"{name}: off by {found:.1e}, allowed {tolerance:.1e}"


@pytest.mark.parametrize(("max_logit_weight", "z_loss_weight"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.1)])
def test_the_reference_is_torch_s_cross_entropy_with_the_penalties_of_the_paper_s_code_and_of_palm(
    max_logit_weight: float, z_loss_weight: float
) -> None:
    hidden, weight, targets = make_inputs(9, 20, dtype=torch.float64)
    targets[2] = IGNORED
    loss, nll = cross_entropy.reference(hidden, weight, targets, max_logit_weight, z_loss_weight)
    logits = hidden @ weight.T
    expected = F.cross_entropy(logits, targets)
    penalty = (
        torch.stack([row.max() ** 2 for row, t in zip(logits, targets, strict=True) if t != IGNORED]).mean()
        / 2
    )
    z = torch.stack([row.exp().sum().log() for row, t in zip(logits, targets, strict=True) if t != IGNORED])
    torch.testing.assert_close(nll, expected)
    torch.testing.assert_close(
        loss, expected + max_logit_weight * penalty + z_loss_weight * z.square().mean()
    )


@pytest.mark.parametrize("way", FAST, ids=str)
@pytest.mark.parametrize(
    ("tokens", "vocabulary"), [(1, 1), (4, 3), (5, 64), (33, 1000), (7, 4099), (3, 50277), (2, 65536)]
)
@pytest.mark.parametrize("penalties", [(0.0, 0.0), (1e-4, 1e-4), (0.1, 0.0), (0.0, 0.1)])
def test_losses_and_gradients_are_those_of_float64(
    way: Way, tokens: int, vocabulary: int, penalties: tuple[float, float]
) -> None:
    hidden, weight, targets = make_inputs(tokens, vocabulary, 5)
    expected = run(
        Way("linear_cross_entropy", "reference"), hidden.double(), weight.double(), targets, *penalties
    )
    assert_near(run(way, hidden, weight, targets, *penalties), expected, 3e-5)
    if way.implementation == "torch":
        actual = run(way, hidden.double(), weight.double(), targets, *penalties)
        assert_near(actual, expected, TOLERANCES[torch.float64])


@pytest.mark.parametrize("way", FAST, ids=str)
@settings(deadline=None, max_examples=15)
@given(data=st.data(), tokens=st.integers(1, 20), vocabulary=st.integers(1, 100), seed=st.integers(0, 99))
def test_ignored_targets_count_for_nothing(
    way: Way, data: st.DataObject, tokens: int, vocabulary: int, seed: int
) -> None:
    hidden, weight, targets = make_inputs(tokens, vocabulary, seed=seed)
    is_ignored = torch.tensor(data.draw(st.lists(st.booleans(), min_size=tokens, max_size=tokens)))
    masked = targets.masked_fill(is_ignored, IGNORED)
    actual = run(way, hidden, weight, masked, 0.1)
    assert not bool(actual[2][is_ignored].any())
    if bool(is_ignored.all()):
        assert not any(bool(x.any()) for x in actual)  # and none is NaN
        return
    kept = hidden[~is_ignored].double(), weight.double(), targets[~is_ignored]
    expected = run(Way("linear_cross_entropy", "reference"), *kept, 0.1)
    expected[2] = torch.zeros_like(hidden, dtype=torch.float64).index_put((~is_ignored,), expected[2])
    assert_near(actual, expected, TOLERANCES[torch.float32])


@pytest.mark.parametrize("way", EVERY, ids=str)
def test_without_a_counted_target_the_loss_and_its_gradients_are_zero(way: Way) -> None:
    hidden, weight, targets = make_inputs(4, 7)
    assert not any(bool(x.any()) for x in run(way, hidden, weight, torch.full_like(targets, IGNORED), 0.1))


@pytest.mark.parametrize("way", FAST, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_good_as_its_logits(way: Way, dtype: torch.dtype) -> None:
    if (way.implementation, dtype) == ("native", torch.float16):
        pytest.skip("compiled for float32 and bfloat16")
    hidden, weight, targets = make_inputs(33, 1001, dtype=dtype)
    logits = (hidden @ weight.T).float()
    epsilon = torch.finfo(dtype).eps
    with way.use():
        loss, nll, gradient = torch.ops.receptance.linear_cross_entropy(
            hidden, weight, targets, 0.0, 0.0, way.implementation, True
        )
    torch.testing.assert_close(nll, F.cross_entropy(logits, targets))
    torch.testing.assert_close(loss, nll)
    expected = torch.softmax(logits, -1) - F.one_hot(targets, 1001)
    torch.testing.assert_close(gradient.float(), expected, rtol=epsilon, atol=1e-7)


@pytest.mark.parametrize("way", FAST, ids=str)
def test_the_penalty_is_scaled_like_the_rest_under_accumulation(way: Way) -> None:
    hidden, weight, targets = make_inputs(8, 50)
    whole = run(way, hidden, weight, targets, 0.1, scale=1.0)
    parts = [run(way, hidden[i : i + 2], weight, targets[i : i + 2], 0.1, scale=0.25) for i in range(0, 8, 2)]
    torch.testing.assert_close(torch.cat([part[2] for part in parts]), whole[2], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sum(part[3] for part in parts), whole[3], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", FAST, ids=str)
def test_large_logits_do_not_overflow(way: Way) -> None:
    hidden = torch.tensor([[3e4], [-3e4], [1.0]])
    weight = torch.tensor([[1.0], [-1.0], [0.5], [0.0]])
    targets = torch.tensor([0, 0, 3])
    expected = run(Way("linear_cross_entropy", "reference"), hidden.double(), weight.double(), targets, 0.0)
    assert_near(run(way, hidden, weight, targets, 0.0), expected, TOLERANCES[torch.float32])


@pytest.mark.parametrize("way", FAST, ids=str)
@pytest.mark.parametrize("vocabulary", [1, 40, 64])
def test_a_nan_is_not_hidden_and_stays_in_its_row(way: Way, vocabulary: int) -> None:
    hidden, weight, targets = make_inputs(3, vocabulary)
    hidden[1, 0] = torch.nan
    loss, nll, grad_hidden, _ = run(way, hidden, weight, targets, 0.1)
    assert bool(loss.isnan())
    assert bool(nll.isnan())
    assert grad_hidden.isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("way", EVERY, ids=str)
def test_without_gradients_the_loss_is_the_same_however_it_is_cut(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight, targets = make_inputs(30, 40)
    expected = run(way, hidden, weight, targets, 0.1)
    monkeypatch.setattr(cross_entropy_autograd, "_LARGEST_PIECE", 7 * 40)
    with way.use():
        actual = kernels.linear_cross_entropy(hidden, weight, targets, 0.1, 0.01)
    torch.testing.assert_close(actual, (expected[0], expected[1]))


@pytest.mark.parametrize("way", FAST, ids=str)
def test_batches_of_any_shape_and_stride_are_flattened(way: Way) -> None:
    hidden, weight, targets = make_inputs(12, 20)
    expected = run(way, hidden, weight, targets, 0.1)
    strided = hidden.view(3, 4, 8).transpose(0, 1)
    actual = run(way, strided, weight, targets.view(3, 4).T.int(), 0.1)
    actual[2] = actual[2].transpose(0, 1).flatten(0, 1)
    assert_near(actual, expected, TOLERANCES[torch.float32])


@pytest.mark.parametrize("way", EVERY, ids=str)
@pytest.mark.parametrize("wrong", [20, -1, -101])
def test_a_target_outside_the_vocabulary_is_named(way: Way, wrong: int) -> None:
    hidden, weight, targets = make_inputs(5, 20)
    targets[3] = wrong
    with (
        way.use(),
        pytest.raises(ConfigError, match=rf"target 3 is {wrong}, but the vocabulary has ids 0 to 19"),
    ):
        kernels.linear_cross_entropy(hidden, weight, targets)


def test_shapes_and_dtypes_that_do_not_fit_are_named() -> None:
    hidden, weight, targets = make_inputs(5, 20)
    with pytest.raises(ConfigError, match=r"got \(5, 8\), \(20, 8\) and \(4,\)"):
        kernels.linear_cross_entropy(hidden, weight, targets[:4])
    with pytest.raises(ConfigError, match=r"got \(5, 8\), \(20, 7\) and \(5,\)"):
        kernels.linear_cross_entropy(hidden, weight[:, :7], targets)
    with pytest.raises(ConfigError, match=r"hidden is torch.bfloat16 and weight torch.float32"):
        kernels.linear_cross_entropy(hidden.bfloat16(), weight, targets)


def test_the_gradient_goes_only_where_it_is_wanted() -> None:
    hidden, weight, targets = make_inputs(5, 20)
    expected = run(Way("linear_cross_entropy", "torch"), hidden, weight, targets, 0.1, scale=1.0)
    for index, leaf in enumerate((hidden, weight)):
        leaf.requires_grad_()
        loss, nll = kernels.linear_cross_entropy(hidden, weight, targets, 0.1, 0.01)
        loss.backward()
        leaf.requires_grad_(False)
        torch.testing.assert_close(leaf.grad, expected[2 + index])
        assert not nll.requires_grad
    assert torch.equal(targets, make_inputs(5, 20)[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_torch_accepts_the_operators(dtype: torch.dtype) -> None:
    hidden, weight, targets = make_inputs(5, 13, dtype=dtype)
    forward, backward = (
        torch.ops.receptance.linear_cross_entropy,
        torch.ops.receptance.linear_cross_entropy_backward,
    )
    torch.library.opcheck(forward, (hidden, weight, targets, 0.1, 0.01, None, False))
    _, _, gradient = forward(hidden, weight, targets, 0.1, 0.01, None, True)
    saved = (torch.tensor(0.5), gradient, hidden, weight, targets)
    torch.library.opcheck(backward, (*saved, True, True))
    torch.library.opcheck(backward, (*saved, False, True))
    leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    torch.library.opcheck(forward, (*leaves, targets, 0.1, 0.01, None, True))


def test_a_compiled_graph_gives_the_same_and_has_no_break() -> None:
    def step(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        loss, nll = kernels.linear_cross_entropy(hidden, weight, targets, 0.1, 0.01)
        return loss / 2, nll

    hidden, weight, targets = make_inputs(6, 13)
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    actual, expected = compiled(*leaves, targets), step(*leaves, targets)
    torch.testing.assert_close(actual, expected)
    gradients = torch.autograd.grad(actual[0], leaves), torch.autograd.grad(expected[0], leaves)
    torch.testing.assert_close(*gradients)
    with pytest.raises(ConfigError, match=r"target 0 is 13"):
        compiled(*leaves, torch.full_like(targets, 13))
    with (
        kernels.use(linear_cross_entropy="reference"),
        pytest.raises(KernelError, match="inside a compiled graph"),
    ):
        compiled(*leaves, targets)


def test_what_cannot_be_differentiated_says_so() -> None:
    hidden, weight, targets = make_inputs(5, 13)
    hidden.requires_grad_()
    loss, _, _ = torch.ops.receptance.linear_cross_entropy(hidden, weight, targets, 0.0, 0.0, None, False)
    with pytest.raises(KernelError, match="keep=False"):
        loss.backward()
    loss, _ = kernels.linear_cross_entropy(hidden, weight, targets)
    (first,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(KernelError, match="only the implementation 'reference' has second derivatives"):
        first.square().sum().backward()
