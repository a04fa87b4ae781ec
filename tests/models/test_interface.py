"""What every generation promises, checked on a small model of each."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from receptance.errors import ConfigError
from receptance.kernels.lengths import is_padding
from receptance.models import RWKV4, RWKV5, RWKV6, RWKV7, RWKV4Config, RWKV5Config, RWKV6Config, RWKV7Config
from receptance.models.interface import AnyModel, State

from .examples import EXAMPLES, example

GENERATIONS = sorted(EXAMPLES)
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]])
CONFIG = RWKV4Config(vocabulary_size=20, num_layers=2, hidden_size=8)
PAIR = torch.tensor([[1, 2, 3], [4, 5, 6]])


def loss_of(logits: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits[0, :-1], TOKENS[0, 1:])


def gradients(model: AnyModel) -> dict[str, Tensor]:
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("cuts", [(1,), (14,), tuple(range(1, 15)), (4, 5, 11)])
def test_any_split_gives_the_same_logits_state_and_gradients(generation: str, cuts: tuple[int, ...]) -> None:
    whole_model, split_model = example(generation), example(generation)
    whole, end = whole_model(TOKENS)
    loss_of(whole).backward()
    state, pieces = None, []
    for begin, stop in zip((0, *cuts), (*cuts, TOKENS.shape[1]), strict=True):
        logits, state = split_model(TOKENS[:, begin:stop], state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-10, atol=1e-10)
    assert state is not None
    torch.testing.assert_close(state.tensors(), end.tensors(), rtol=1e-10, atol=1e-10)
    loss_of(torch.cat(pieces, dim=1)).backward()
    assert gradients(whole_model).keys() == dict(whole_model.named_parameters()).keys()
    torch.testing.assert_close(gradients(split_model), gradients(whole_model), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_gradient_reaches_the_initial_state(generation: str) -> None:
    model = example(generation)
    _, state = model(TOKENS)
    start = state.map(lambda tensor: tensor.detach().requires_grad_())
    logits, _ = model(TOKENS, start)
    loss_of(logits).backward()
    for name, tensor in start.tensors().items():
        assert tensor.grad is not None, name
        assert tensor.grad.abs().max() > 0, name


@pytest.mark.parametrize("generation", GENERATIONS)
def test_rows_of_a_batch_do_not_touch_each_other_nor_their_state(generation: str) -> None:
    model = example(generation)
    _, start = model(torch.cat([TOKENS, TOKENS.roll(3)]))
    before = start.clone()
    logits, end = model(torch.cat([TOKENS, TOKENS.flip(1)]), start)
    alone, alone_end = model(TOKENS.flip(1), start.row(1))
    torch.testing.assert_close(logits[1:], alone, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(end.row(1).tensors(), alone_end.tensors(), rtol=1e-10, atol=1e-10)
    assert all(torch.equal(tensor, getattr(before, name)) for name, tensor in start.tensors().items())


def ragged(model: AnyModel, lengths: list[int], padding: int = 0) -> tuple[Tensor, State]:
    """Return tokens in rows of these lengths, and a state that has read something else in each row."""
    tokens = torch.randint(29, (len(lengths), 15), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        _, start = model(tokens.flip(1)[:, :4])
    for row, length in enumerate(lengths):
        tokens[row, length:] = padding
    return tokens, start


@pytest.mark.parametrize("generation", GENERATIONS)
def test_rows_of_any_length_are_read_as_if_alone(generation: str) -> None:
    lengths = [0, 15, 1, 6, 15]
    together, alone = example(generation), example(generation)
    tokens, start = ragged(together, lengths)
    starts = [start.map(lambda tensor: tensor.clone().requires_grad_()) for _ in range(2)]
    logits, end = together(tokens, starts[0], torch.tensor(lengths))
    losses = []
    for row, length in enumerate(lengths):
        expected, expected_end = torch.zeros(0, dtype=torch.float64), starts[1].row(row)
        if length:
            expected, expected_end = alone(tokens[row : row + 1, :length], expected_end)
            torch.testing.assert_close(logits[row : row + 1, :length], expected, rtol=1e-10, atol=1e-10)
        ours, theirs = end.row(row).tensors(), expected_end.tensors()
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
        losses += [x.square().sum() for x in (expected, *theirs.values())]
    assert all(torch.equal(x[:, 0], start.tensors()[name][:, 0]) for name, x in end.tensors().items())
    assert not logits[is_padding(torch.tensor(lengths), 15)].any()

    torch.stack([x.square().sum() for x in (logits, *end.tensors().values())]).sum().backward()
    torch.stack(losses).sum().backward()
    torch.testing.assert_close(gradients(together), gradients(alone), rtol=1e-9, atol=1e-9)
    for name, tensor in starts[0].tensors().items():
        torch.testing.assert_close(tensor.grad, starts[1].tensors()[name].grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_it_does_not_matter_what_the_padding_is(generation: str) -> None:
    model = example(generation, torch.float32)
    lengths = torch.tensor([0, 15, 1, 6])
    results = []
    for padding in (0, 28):
        tokens, start = ragged(model, lengths.tolist(), padding)
        logits, end = model(tokens, start, lengths)
        model.zero_grad()
        (logits.logsumexp(-1).sum() + end.time_shift.sum()).backward()
        results.append((logits, *end.tensors().values(), *gradients(model).values()))
    # Not the same bits: the native WKV-4 picks its way for a span by all the keys that it is given.
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


COMPILE = """
import torch
from tests.models.examples import example
tokens, first, second = torch.arange(24).view(2, 12), torch.tensor([12, 3]), torch.tensor([0, 7])
for generation in ("4", "7"):
    model = example(generation, torch.float32).requires_grad_(False)
    _, start = model(tokens)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens, start)[0], model(tokens, start)[0])
    compiled(tokens, start, first)
    with torch.compiler.set_stance("fail_on_recompile"):
        logits, end = compiled(tokens, start, second)
    expected, expected_end = model(tokens, start, second)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(end.tensors(), expected_end.tensors())
"""


def test_a_compiled_model_is_one_graph_and_serves_all_lengths() -> None:
    # In a process of its own: torch's compiler cannot follow what checks the shapes in this one.
    subprocess.run([sys.executable, "-c", COMPILE], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("wrong", [torch.tensor([1]), torch.tensor([0, 4]), torch.tensor([1.0, 2.0])])
def test_lengths_that_no_batch_can_have_are_refused(wrong: Tensor) -> None:
    with pytest.raises(ConfigError, match="lengths"):
        RWKV4(CONFIG)(PAIR, None, wrong)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_state_is_float32_where_it_sums_and_constant_in_size(generation: str) -> None:
    model = example(generation, torch.float32).cast_matrices(torch.bfloat16)
    state = model.initial_state(2)
    _, after = model(TOKENS.repeat(2, 9), state)
    assert after.num_bytes == state.num_bytes
    for name, tensor in after.tensors().items():
        shift = name in {"time_shift", "channel_shift"}
        assert tensor.dtype == (torch.bfloat16 if shift else torch.float32)
        assert tensor.isfinite().all()


@pytest.mark.parametrize("generation", GENERATIONS)
def test_initialisation_is_reproducible_and_every_block_starts_silent(generation: str) -> None:
    model = EXAMPLES[generation]()
    model.initialise(torch.Generator().manual_seed(7))
    first = {name: value.clone() for name, value in model.state_dict().items()}
    model.initialise(torch.Generator().manual_seed(7))
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())
    assert all(value.isfinite().all() for value in first.values())
    logits, _ = model(TOKENS)
    alone = model.head(model.ln_out(model.layers[0].ln0(model.emb(TOKENS))))
    torch.testing.assert_close(logits, alone, rtol=1e-6, atol=1e-6)


FRESH = {
    "4": lambda v, n: RWKV4(RWKV4Config(vocabulary_size=v, num_layers=n, hidden_size=64)),
    "5": lambda v, n: RWKV5(RWKV5Config(vocabulary_size=v, num_layers=n, hidden_size=64)),
    "6": lambda v, n: RWKV6(RWKV6Config(vocabulary_size=v, num_layers=n, hidden_size=64)),
    "7": lambda v, n: RWKV7(RWKV7Config(vocabulary_size=v, num_layers=n, hidden_size=64)),
}


@pytest.mark.parametrize("generation", FRESH)
@pytest.mark.parametrize(("vocabulary", "layers"), [(1_000, 1), (4_096, 4)])
def test_first_loss_is_ln_v_and_an_eighth(generation: str, vocabulary: int, layers: int) -> None:
    torch.manual_seed(0)
    model = FRESH[generation](vocabulary, layers)
    tokens = torch.randint(vocabulary, (64, 65))
    logits, _ = model(tokens[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(loss.item() - math.log(vocabulary) - 0.125) < 0.05


@pytest.mark.parametrize(
    ("generation", "vocabulary", "published"),
    [("4", 50_277, 10.95), ("5", 65_536, 11.2), ("6", 65_536, 11.2), ("7", 65_536, 11.2)],
)
@torch.no_grad()
def test_the_first_loss_over_a_published_vocabulary_is_the_published_one(
    generation: str, vocabulary: int, published: float
) -> None:
    torch.manual_seed(0)
    logits, _ = FRESH[generation](vocabulary, 1)(torch.randint(vocabulary, (1, 256)))
    loss = (logits.logsumexp(-1) - logits.mean(-1)).mean()  # the mean over every target
    assert loss.item() == pytest.approx(published, abs=0.03)


def test_a_state_maps_clones_and_gives_its_rows() -> None:
    _, state = RWKV4(CONFIG)(PAIR)
    doubled = state.map(lambda tensor: 2 * tensor)
    assert torch.equal(doubled.numerator, 2 * state.numerator)
    copy = state.clone()
    copy.numerator.data.zero_()
    assert state.numerator.any()
    assert torch.equal(state.row(1).denominator, state.denominator[:, 1:])
    assert list(state.tensors()) == ["time_shift", "channel_shift", "numerator", "denominator", "exponent"]


def test_a_detached_state_cuts_the_gradient_and_nothing_else() -> None:
    _, state = RWKV4(CONFIG)(PAIR)
    assert state.numerator.requires_grad
    assert not state.detach().numerator.requires_grad
    assert torch.equal(state.detach().numerator, state.numerator)


VECTORS_BY_HEAD = {"4": set(), "5.0": set(), "5.1": set(), "5.2": {"time_decay", "time_faaaa"}}
VECTORS_BY_HEAD |= {"6": {"time_faaaa"}, "7": {"r_k"}}


@pytest.mark.parametrize("generation", GENERATIONS)
def test_casting_the_matrices_leaves_the_vectors_and_the_sums_in_float32(generation: str) -> None:
    model = example(generation, torch.float32).cast_matrices(torch.bfloat16)
    for name, parameter in model.named_parameters():
        is_vector = parameter.ndim == 1 or name.rpartition(".")[2] in VECTORS_BY_HEAD[generation]
        assert parameter.dtype == (torch.float32 if is_vector else torch.bfloat16), name
        assert model.is_matrix(name, parameter.shape) != is_vector
    assert model.dtype == torch.bfloat16
    logits, state = model(TOKENS)
    assert logits.dtype == torch.bfloat16
    assert state.time_shift.dtype == torch.bfloat16
    memory = list(state.tensors().values())[2:]
    assert all(tensor.dtype == torch.float32 for tensor in memory)


def test_decays_near_one_survive_where_matrices_are_bfloat16() -> None:
    model = RWKV5(RWKV5Config(vocabulary_size=20, num_layers=1, hidden_size=16, head_size=4, version="5.2"))
    slow = torch.tensor([1 - 1e-4, 1 - 1.003e-4])  # equal where the logarithm of -ln w has 8 bits
    stored = torch.log(-torch.log(slow.double()))
    assert stored[0].bfloat16() == stored[1].bfloat16()
    att = model.blocks[0].att
    with torch.no_grad():
        att.time_decay.copy_(stored.repeat(8).view(4, 4))
    model.cast_matrices(torch.bfloat16)
    decays = torch.exp(att.log_decay(torch.float32))[0, :2].double()
    torch.testing.assert_close(decays, slow.double(), rtol=0.0, atol=1e-7)
    assert decays[0] > decays[1]


def test_on_the_meta_device_a_model_has_sizes_and_no_memory() -> None:
    with torch.device("meta"):
        model = RWKV4(CONFIG)
    assert model.device.type == "meta"
    assert model.num_parameters == RWKV4(CONFIG).num_parameters
