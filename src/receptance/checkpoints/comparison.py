"""How far two files of what should be one model are apart, without having either whole in memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from receptance.checkpoints.stored_model import StoredModel
from receptance.checkpoints.tuning import tuned_state
from receptance.errors import CheckpointError

NUM_TOKENS = 32
_PIECE = 1 << 22  # values that are compared at a time


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far two models are apart.

    settings  what is not the same in their configs, such as an epsilon: by name, of either
    unequal   for each weight whose values differ, the largest difference
    logits    largest absolute difference of a logit over a few tokens
    scale     largest absolute logit of the first model
    choices   share of the tokens after which both models find the same next token most likely
    """

    num_weights: int
    num_tokens: int
    settings: dict[str, tuple[object, object]]
    unequal: dict[str, float]
    logits: float
    scale: float
    choices: float


def compare(
    one: StoredModel, other: StoredModel, tokens: Int[Tensor, "batch time"] | None = None
) -> Comparison:
    """Compare all settings, all weights, and the logits of some tokens, a few fixed ones if none are given.

    Raises CheckpointError when the two are not of one generation and size.
    """
    if bool(one.tuned_state) != bool(other.tuned_state):
        with_state, without = (one, other) if one.tuned_state else (other, one)
        raise CheckpointError(
            f"{with_state.path} carries a tuned initial state, and {without.path} has none."
        )
    shapes = [{name: weight.shape for name, weight in model.weights.items()} for model in (one, other)]
    if shapes[0] != shapes[1]:
        raise CheckpointError(f"{other.path}: it holds {other.config} and not {one.config}.")
    tokens = fixed_tokens(one.config.vocabulary_size) if tokens is None else tokens
    ours, theirs = (logits(model, tokens, common_dtype(one, other)) for model in (one, other))
    settings = [asdict(model.config) for model in (one, other)]
    return Comparison(
        num_weights=len(one.weights),
        num_tokens=tokens.numel(),
        settings={
            name: (value, settings[1][name])
            for name, value in settings[0].items()
            if value != settings[1][name]
        },
        unequal=unequal_weights(one, other),
        logits=float((ours - theirs).abs().max()),
        scale=float(ours.abs().max()),
        choices=float((ours.argmax(-1) == theirs.argmax(-1)).double().mean()),
    )


def unequal_weights(one: StoredModel, other: StoredModel) -> dict[str, float]:
    """Return the largest difference of each weight that is not equal, value for value, in both models."""
    differences = {}
    for name, weight in one.tensors.items():
        difference = _largest_difference(weight.read(), other.tensors[name].read())
        if difference:
            differences[name] = difference
    return differences


def _largest_difference(one: Tensor, other: Tensor) -> float:
    wide = torch.promote_types(torch.promote_types(one.dtype, other.dtype), torch.float32)
    pieces = zip(*(torch.split(tensor.reshape(-1), _PIECE) for tensor in (one, other)), strict=True)
    return max(
        (float((a.to(wide) - b.to(wide)).abs().max()) for a, b in pieces if not torch.equal(a, b)),
        default=0.0,
    )


@torch.inference_mode()
def logits(
    stored: StoredModel, tokens: Int[Tensor, "batch time"], dtype: torch.dtype | None = None
) -> Float[Tensor, "batch time vocabulary"]:
    """Return the logits over some tokens of the model in a number format, or in its own.

    Each part of a layer is read when its turn comes and forgotten afterwards, so that a model larger than the
    memory runs too.
    """
    stored = stored.cast(dtype or stored.dtype)
    model = stored.empty().eval()
    names = {module: f"{name}." for name, module in model.named_modules()}
    layers = set(model.layers)

    def fill(module: nn.Module, *_: object) -> None:
        prefix = names[module]
        # A layer itself holds no more than its vectors: it asks its halves for their mixes before they run.
        wanted = {
            name.removeprefix(prefix): weight.read()
            for name, weight in stored.weights.items()
            if name.startswith(prefix)
            and not (module in layers and model.is_matrix(name, torch.Size(weight.shape)))
        }
        module.load_state_dict(wanted, assign=True, strict=module not in layers)

    def forget(module: nn.Module, *_: object) -> None:
        module.to("meta")

    fill(model.head)  # the model asks it for its device and its dtype
    tuned, zero = stored.tuned_state, model.initial_state(len(tokens))
    start = tuned_state.as_state(tuned, stored.config, zero) if tuned else None
    for layer in model.layers:
        layer.register_forward_pre_hook(fill)
    for part in (model.emb, *(part for layer in model.layers for part in layer.children()), model.ln_out):
        part.register_forward_pre_hook(fill)
        part.register_forward_hook(forget)
    found: Tensor = model(tokens, start)[0]
    return found.double()


def common_dtype(one: StoredModel, other: StoredModel) -> torch.dtype:
    """Return the number format to run both in, so that only what the files hold makes a difference."""
    return torch.promote_types(one.dtype, other.dtype)


def fixed_tokens(vocabulary_size: int) -> Int[Tensor, "batch time"]:
    """Return the tokens that conversions are checked with, `[1, NUM_TOKENS]`."""
    return (torch.arange(NUM_TOKENS) * 7919 % vocabulary_size).unsqueeze(0)  # a prime stride visits many rows
