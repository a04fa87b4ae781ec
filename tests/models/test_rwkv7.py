"""RWKV-7 against a trained model, published sizes and the recipe of its trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from receptance.models import RWKV7, RWKV7Config
from tests.models.trained import assert_reads_as_expected, filled, weights

# Layers, channels, ranks of decay, in-context rate, value and gate, and millions of parameters in use.
SIZES = {
    "0.1B": (12, 768, 64, 64, 32, 128, 191.03),
    "0.4B": (24, 1024, 64, 64, 32, 128, 450.768),
    "1.5B": (24, 2048, 96, 96, 64, 256, 1527.40),
    "2.9B": (32, 2560, 96, 96, 64, 320, 2947.74),
    "7.2B": (32, 4096, 128, 128, 96, 480, 7199.14),
}


def test_a_trained_model_gives_its_logits_and_state(shared: Path) -> None:
    name = "rwkv-7.0-834K"
    ranks = {"decay_rank": 32, "in_context_rank": 32, "value_rank": 32, "gate_rank": 32}
    model = RWKV7(RWKV7Config(vocabulary_size=256, num_layers=12, hidden_size=64, **ranks))
    assert model.num_parameters == 829_888
    assert_reads_as_expected(filled(model, weights(shared, name)), shared, name)


def reverser(path: Path) -> RWKV7:
    """Return the author's model that turns numbers round, as far as it is RWKV-7.

    Its ROSA layers add a constant only. It has no norm after the embedding, and a bias in the head.
    """
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    ranks = {"decay_rank": 8, "in_context_rank": 8, "value_rank": 8, "gate_rank": 8}
    model = RWKV7(RWKV7Config(vocabulary_size=12, num_layers=2, hidden_size=32, head_size=16, **ranks))
    own = model.state_dict()
    names = {"emb": "e", "ln_out": "lno", "head": "o"}
    for layer in (0, 1):
        parts = (("att", "rwkv"), ("ffn", "ffn"))
        names |= {f"blocks.{layer}.{ours}": f"{word}{layer + 1}" for ours, word in parts}
        names |= {
            f"blocks.{layer}.ln{ours}": f"ln{layer + 1}{letter}" for ours, letter in ((1, "a"), (2, "b"))
        }
    for name, tensor in own.items():
        prefix = next((ours for ours in names if name.startswith(f"{ours}.")), None)
        if prefix:
            tensor.copy_(theirs[names[prefix] + name.removeprefix(prefix)].reshape(tensor.shape))
    model.layers[0].ln0.forward = lambda x: x  # type: ignore[method-assign]  # this model has none
    model.head.bias = torch.nn.Parameter(theirs["o.bias"])
    for layer, block in enumerate(model.layers, 1):
        assert not theirs[f"rosa{layer}.rosa_qkv.emb"].any()
        constant = theirs[f"rosa{layer}.o.bias"]
        block.att.register_forward_hook(lambda _, __, out, constant=constant: (out[0] + constant, *out[1:]))
    return model


@torch.no_grad()
def test_the_authors_reverser_gives_its_logits_and_turns_every_number_round(shared: Path) -> None:
    path = shared / "data" / "checkpoints" / "260123_reverse_L2_only_rwkv7"
    model = reverser(path.with_suffix(".pth"))
    reference = np.load(path.with_suffix(".ref.npz"))
    tokens = torch.from_numpy(reference["tokens"]).long()
    logits, _ = model(tokens[:, :-1])
    torch.testing.assert_close(logits, torch.from_numpy(reference["logits"]), rtol=0.0, atol=2e-3)
    comma, end = 10, 11
    for row, found in zip(tokens.tolist(), logits.argmax(-1).tolist(), strict=True):
        start, stop = row.index(comma), row.index(end)
        assert found[start:stop] == [*reversed(row[:start]), end]


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes_have_their_parameter_counts(size: str) -> None:
    layers, c, decay, in_context, value, gate, millions = SIZES[size]
    config = RWKV7Config(
        vocabulary_size=65_536,
        num_layers=layers,
        hidden_size=c,
        decay_rank=decay,
        in_context_rank=in_context,
        value_rank=value,
        gate_rank=gate,
    )
    with torch.device("meta"):
        model = RWKV7(config)
    ranks = decay + in_context + value + gate
    whole = 2 * 65_536 * c + 4 * c + layers * (19 * c + 12 * c**2 + 2 * c * ranks)
    assert model.num_parameters == whole - (c + 2 * c * value)
    assert model.num_parameters / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize(
    ("channels", "ranks"),
    [
        (64, (32, 32, 32, 32)),
        (768, (64, 64, 32, 128)),
        (1024, (64, 64, 64, 160)),  # 80 is rounded to the even multiple of 32
        (4096, (160, 160, 96, 320)),
    ],
)
def test_ranks_of_new_models_follow_the_rule_of_the_trainer(channels: int, ranks: tuple[int, ...]) -> None:
    config = RWKV7Config(vocabulary_size=10, num_layers=1, hidden_size=channels)
    assert (config.decay_rank, config.in_context_rank, config.value_rank, config.gate_rank) == ranks


def test_initial_values_follow_the_recipe() -> None:
    model = RWKV7(RWKV7Config(vocabulary_size=96, num_layers=3, hidden_size=32, head_size=8))
    first, middle, last = model.blocks
    close = torch.testing.assert_close
    for names, power in (("rg", 0.2), ("wa", 0.9), ("kv", 0.7)):
        for name in names:
            close(middle.att.get_parameter(f"x_{name}")[8].item(), 1 - 0.25 ** (power * 2 / 3))
    close(middle.ffn.x_k[8].item(), 1 - 0.25 ** ((2 / 3) ** 4))
    zigzag = ((18 % 8 - 3.5) / 3.5) * abs((18 % 8 - 3.5) / 3.5)
    slope = 18 / 31 - 0.5
    close(first.att.w0[18].item(), -6 + 6 * (18 / 31) + 0.5 + 2.5 * zigzag)
    close(last.att.w0[18].item(), -6 + 6 * (18 / 31) ** 2 + 0.5 + 2.5 * zigzag)
    close(last.att.a0[18].item(), -0.19 + 0.3 * zigzag + 0.4 * slope)
    close(last.att.v0[18].item(), 0.73 - 0.4 * slope)
    close(last.att.k_k[18].item(), 0.71 - 0.1 * slope)
    assert (last.att.k_a == 1.02).all()
    assert (last.att.r_k == -0.04).all()
    assert not any(hasattr(first.att, name) for name in ("v0", "v1", "v2"))
    for name in "wavg":
        assert not last.att.get_parameter(f"{name}1").any()
        two = last.att.get_parameter(f"{name}2")
        rows, columns = two.shape
        gain = 0.1 * max(1.0, (rows / columns) ** 0.5)
        square = two.T @ two if rows >= columns else two @ two.T
        close(square, gain**2 * torch.eye(min(rows, columns)), rtol=1e-4, atol=1e-6)
    for name in ("att.output", "ffn.value"):
        assert not last.get_submodule(name).weight.any()


def test_the_first_layers_values_reach_every_later_one() -> None:
    model = RWKV7(RWKV7Config(vocabulary_size=20, num_layers=3, hidden_size=16, head_size=8))
    with torch.no_grad():
        for block in model.layers[1:]:
            att = block.att
            att.v0.fill_(40.0)  # the share of the first layer's values becomes one
            att.output.weight.copy_(torch.eye(16))
    tokens = torch.arange(12)[None]
    one = model(tokens)[0]
    with torch.no_grad():
        for block in model.layers[1:]:
            block.att.value.weight.normal_()
    torch.testing.assert_close(model(tokens)[0], one)
