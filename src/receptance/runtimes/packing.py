"""From a packed model to the structs of the native runtime."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from receptance.checkpoints.contents import Weight
from receptance.checkpoints.stored_model import StoredModel
from receptance.errors import ConfigError
from receptance.models import Config, HeadsConfig, RWKV4Config, RWKV5Config, RWKV6Config, RWKV7Config
from receptance.quantization.packed import FORMATS
from receptance.runtimes.network import ChannelMix, Layer4, Layer6, Layer7, Matrix, Network, Norm


@dataclass(frozen=True)
class PackedNetwork:
    """A network, and the memory that it points to."""

    network: Network
    layers: ctypes.Array[Any]  # Any: each generation's own struct
    tensors: list[Tensor]


class Packer:
    """Turns the weights of a packed model into what the structs point to."""

    def __init__(self, weights: Mapping[str, Weight]) -> None:
        self.weights = weights
        self.kept: list[Tensor] = []
        self.prefix = ""

    def tensor(self, name: str) -> Tensor:
        """Return a vector of the layer that `prefix` names."""
        return self.weights[self.prefix + name].read().detach().cpu()

    def keep(self, tensor: Tensor) -> int:
        """Return the address of a tensor that stays."""
        self.kept.append(tensor)
        return tensor.data_ptr()

    def vector(self, value: str | Tensor) -> int:
        """Return the address of a vector, by name or computed from one."""
        tensor = self.tensor(value) if isinstance(value, str) else value
        return self.keep(tensor.reshape(-1).contiguous().clone())

    def norm(self, name: str) -> Norm:
        """Return a norm."""
        return Norm(weight=self.vector(f"{name}.weight"), bias=self.vector(f"{name}.bias"))

    def matrix(self, name: str) -> Matrix:
        """Return the only matrix of a weight."""
        (matrix,) = self.matrices(name)
        return matrix

    def matrices(self, name: str) -> tuple[Matrix, ...]:
        """Return the matrices of a weight."""
        packed = self.weights[self.prefix + name].packed
        if packed is None:
            raise ConfigError(f"{self.prefix + name!r} is not packed; `NativeModel.pack` does that")
        return tuple(
            Matrix(
                format=FORMATS.index(each.format),
                panels=self.keep(each.data),
                rows=each.rows,
                columns=each.columns,
            )
            for each in packed.read()
        )


def _channel_mix(packer: Packer, mix_k: Tensor, mix_r: Tensor | None) -> ChannelMix:
    mix = ChannelMix(
        norm=packer.norm("ln2"),
        mix_k=packer.vector(mix_k),
        key=packer.matrix("ffn.key.weight"),
        value=packer.matrix("ffn.value.weight"),
    )
    if mix_r is not None:
        mix.mix_r = packer.vector(mix_r)
        mix.receptance = packer.matrix("ffn.receptance.weight")
    return mix


def _of_previous(packer: Packer, name: str) -> Tensor:
    """Return the share of the token before; RWKV-4 and 5 store that of the current token."""
    return 1 - packer.tensor(name)


def _layer4(packer: Packer, config: Config, index: int) -> Layer4:
    mixes = {f"mix_{x}": packer.vector(_of_previous(packer, f"att.time_mix_{x}")) for x in "kvr"}
    return Layer4(
        channel_mix=_channel_mix(
            packer, _of_previous(packer, "ffn.time_mix_k"), _of_previous(packer, "ffn.time_mix_r")
        ),
        norm=packer.norm("ln1"),
        decay=packer.vector(-torch.exp(packer.tensor("att.time_decay"))),
        bonus=packer.vector("att.time_first"),
        **mixes,
        **_projections(packer, "key value receptance output"),
    )


def _layer5(packer: Packer, config: RWKV5Config, index: int) -> Layer6:
    has_gate = config.version != "5.0"
    by_head = (config.num_heads, config.head_size)
    if config.version == "5.2":
        bonus = packer.tensor("att.time_faaaa")
    else:
        bonus = torch.exp(packer.tensor("att.time_first")).view(-1, 1).expand(by_head)
    decay = -torch.exp(packer.tensor("att.time_decay")).view(config.num_heads, -1).expand(by_head)
    mixes = "kvrg" if has_gate else "kvr"
    return Layer6(
        channel_mix=_channel_mix(
            packer, _of_previous(packer, "ffn.time_mix_k"), _of_previous(packer, "ffn.time_mix_r")
        ),
        norm=packer.norm("ln1"),
        head_norm=packer.norm("att.ln_x"),
        decay=packer.vector(decay),
        bonus=packer.vector(bonus),
        **{f"mix_{x}": packer.vector(_of_previous(packer, f"att.time_mix_{x}")) for x in mixes},
        **_projections(packer, "key value receptance output" + " gate" * has_gate),
    )


def _layer6(packer: Packer, config: Config, index: int) -> Layer6:
    return Layer6(
        channel_mix=_channel_mix(packer, packer.tensor("ffn.time_maa_k"), packer.tensor("ffn.time_maa_r")),
        norm=packer.norm("ln1"),
        head_norm=packer.norm("att.ln_x"),
        decay=packer.vector("att.time_decay"),
        bonus=packer.vector("att.time_faaaa"),
        **{f"mix_{x}": packer.vector(f"att.time_maa_{x}") for x in "xwkvrg"},
        mix_one=packer.matrix("att.time_maa_w1"),
        mix_two=(Matrix * 5)(*packer.matrices("att.time_maa_w2")),
        decay_one=packer.matrix("att.time_decay_w1"),
        decay_two=packer.matrix("att.time_decay_w2"),
        **_projections(packer, "key value receptance output gate"),
    )


def _layer7(packer: Packer, config: Config, index: int) -> Layer7:
    low_ranks = "wavg" if index else "wag"  # the first layer's values are what the others mix theirs with
    thin = {f"{x}{n}": packer.matrix(f"att.{x}{n}") for x in low_ranks for n in (1, 2)}
    biases = {f"{x}0": packer.vector(f"att.{x}0") for x in low_ranks if x != "g"}
    return Layer7(
        channel_mix=_channel_mix(packer, packer.tensor("ffn.x_k"), None),
        norm=packer.norm("ln1"),
        head_norm=packer.norm("att.ln_x"),
        **{f"mix_{x}": packer.vector(f"att.x_{x}") for x in "rwkvag"},
        **{name: packer.vector(f"att.{name}") for name in ("k_k", "k_a", "r_k")},
        **biases,
        **thin,
        **_projections(packer, "key value receptance output"),
    )


def _projections(packer: Packer, names: str) -> dict[str, Matrix]:
    return {name: packer.matrix(f"att.{name}.weight") for name in names.split()}


# Any: each generation's own config.
_LAYERS: dict[str, tuple[type[ctypes.Structure], Callable[[Packer, Any, int], ctypes.Structure]]] = {
    "4": (Layer4, _layer4),
    "5": (Layer6, _layer5),
    "6": (Layer6, _layer6),
    "7": (Layer7, _layer7),
}


def _largest_rank(config: Config) -> int:
    if isinstance(config, RWKV6Config):
        return max(config.mix_rank, config.decay_rank)
    if isinstance(config, RWKV7Config):
        return max(config.decay_rank, config.in_context_rank, config.value_rank, config.gate_rank)
    return 1


def pack(model: StoredModel) -> PackedNetwork:
    """Return the network of a packed model, whose matrices stay where they were packed.

    Those in a file stay in its map, which costs nothing to load and is shared by all processes. A copy in
    large pages was decoded no faster than the map: both are bound by the memory.
    """
    config: Any = model.config  # Any: each generation's own config
    packer = Packer(model.weights)
    layer_type, pack_layer = _LAYERS[config.generation]
    layers = (layer_type * config.num_layers)()
    for index in range(config.num_layers):
        packer.prefix = f"blocks.{index}."
        layers[index] = pack_layer(packer, config, index)
    packer.prefix = ""
    epsilon = config.layer_norm_epsilon if isinstance(config, RWKV4Config) else 1e-5
    network = Network(
        generation=int(config.generation),
        layers=config.num_layers,
        channels=config.hidden_size,
        memory_channels=config.attention_size if isinstance(config, RWKV4Config) else config.hidden_size,
        heads=config.num_heads if isinstance(config, HeadsConfig) else 1,
        feed_forward=config.feed_forward_size,
        vocabulary=config.vocabulary_size,
        rank=_largest_rank(config),
        embedding=packer.matrix("emb.weight"),
        embedding_norm=packer.norm("blocks.0.ln0"),
        last_norm=packer.norm("ln_out"),
        epsilon=epsilon,
        last_epsilon=1e-5,
        head_epsilon=config.group_norm_epsilon if isinstance(config, HeadsConfig) else 0.0,
        layer=ctypes.addressof(layers),
        head=packer.matrix("head.weight"),
    )
    return PackedNetwork(network, layers, packer.kept)
