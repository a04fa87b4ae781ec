"""From the weights of a model to the structs of the native runtime."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from receptance.models import Config, HeadsConfig, RWKV4Config, RWKV5Config, RWKV6Config, RWKV7Config
from receptance.quantization.arena import Arena
from receptance.quantization.packed import FORMATS, Format, PackedMatrix
from receptance.runtimes.network import ChannelMix, Layer4, Layer6, Layer7, Matrix, Network, Norm


class Packer:
    """Turns weights into what the structs point to, and keeps that alive."""

    def __init__(self, read: Callable[[str], Tensor], matrices: Format) -> None:
        self.read = read
        self.matrices: Format = matrices
        # Thin matrices are a small part of the weights, and what goes into decays and mixes.
        self.thin_matrices: Format = "float32" if matrices == "float32" else "bfloat16"
        self.arena = Arena()
        self.kept: list[object] = []
        self.num_bytes = 0
        self.prefix = ""

    def tensor(self, name: str) -> Tensor:
        """Return a weight of the layer that `prefix` names, as float32."""
        return self.read(self.prefix + name).detach().to("cpu", torch.float32)

    def keep(self, tensor: Tensor) -> int:
        """Return the address of a tensor that stays."""
        self.kept.append(tensor)
        self.num_bytes += tensor.nbytes
        return tensor.data_ptr()

    def vector(self, value: str | Tensor) -> int:
        """Return the address of a vector, by name or computed from one."""
        tensor = self.tensor(value) if isinstance(value, str) else value
        return self.keep(tensor.reshape(-1).contiguous().clone())

    def norm(self, name: str) -> Norm:
        """Return a norm."""
        return Norm(weight=self.vector(f"{name}.weight"), bias=self.vector(f"{name}.bias"))

    def matrix(self, name: str) -> Matrix:
        """Return a matrix of the full width, `[output, input]`."""
        return self._packed(self.read(self.prefix + name + ".weight"), self.matrices)

    def thin(self, weight: Tensor) -> Matrix:
        """Return a matrix of low rank, which is stored `[input, output]`."""
        return self._packed(weight.T, self.thin_matrices)

    def _packed(self, weight: Tensor, matrix_format: Format) -> Matrix:
        packed = PackedMatrix.pack(weight, matrix_format, self.arena)
        panels = self.keep(packed.data)
        return Matrix(
            format=FORMATS.index(matrix_format), panels=panels, rows=packed.rows, columns=packed.columns
        )


def _channel_mix(packer: Packer, mix_k: Tensor, mix_r: Tensor | None) -> ChannelMix:
    mix = ChannelMix(
        norm=packer.norm("ln2"),
        mix_k=packer.vector(mix_k),
        key=packer.matrix("ffn.key"),
        value=packer.matrix("ffn.value"),
    )
    if mix_r is not None:
        mix.mix_r = packer.vector(mix_r)
        mix.receptance = packer.matrix("ffn.receptance")
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
    mix_two = (packer.thin(weight) for weight in packer.tensor("att.time_maa_w2"))
    return Layer6(
        channel_mix=_channel_mix(packer, packer.tensor("ffn.time_maa_k"), packer.tensor("ffn.time_maa_r")),
        norm=packer.norm("ln1"),
        head_norm=packer.norm("att.ln_x"),
        decay=packer.vector("att.time_decay"),
        bonus=packer.vector("att.time_faaaa"),
        **{f"mix_{x}": packer.vector(f"att.time_maa_{x}") for x in "xwkvrg"},
        mix_one=packer.thin(packer.tensor("att.time_maa_w1")),
        mix_two=(Matrix * 5)(*mix_two),
        decay_one=packer.thin(packer.tensor("att.time_decay_w1")),
        decay_two=packer.thin(packer.tensor("att.time_decay_w2")),
        **_projections(packer, "key value receptance output gate"),
    )


def _layer7(packer: Packer, config: Config, index: int) -> Layer7:
    low_ranks = "wavg" if index else "wag"  # the first layer's values are what the others mix theirs with
    thin = {f"{x}{n}": packer.thin(packer.tensor(f"att.{x}{n}")) for x in low_ranks for n in (1, 2)}
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
    return {name: packer.matrix(f"att.{name}") for name in names.split()}


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


def pack(config: RWKV4Config | HeadsConfig, packer: Packer) -> Network:
    """Return the network of these weights; it lives as long as the packer."""
    layer_type, pack_layer = _LAYERS[config.generation]
    layers = (layer_type * config.num_layers)()
    for index in range(config.num_layers):
        packer.prefix = f"blocks.{index}."
        layers[index] = pack_layer(packer, config, index)
    packer.kept.append(layers)
    packer.prefix = ""
    embedding = packer.read("emb.weight").detach().to("cpu")
    is_wide = packer.matrices == "float32"
    embedding = embedding.to(torch.float32 if is_wide else torch.bfloat16).contiguous()
    epsilon = config.layer_norm_epsilon if isinstance(config, RWKV4Config) else 1e-5
    return Network(
        generation=int(config.generation),
        layers=config.num_layers,
        channels=config.hidden_size,
        memory_channels=config.attention_size if isinstance(config, RWKV4Config) else config.hidden_size,
        heads=config.num_heads if isinstance(config, HeadsConfig) else 1,
        feed_forward=config.feed_forward_size,
        vocabulary=config.vocabulary_size,
        rank=_largest_rank(config),
        embedding_type=0 if is_wide else 1,
        embedding=packer.keep(embedding),
        embedding_norm=packer.norm("blocks.0.ln0"),
        last_norm=packer.norm("ln_out"),
        epsilon=epsilon,
        last_epsilon=1e-5,
        head_epsilon=config.group_norm_epsilon if isinstance(config, HeadsConfig) else 0.0,
        layer=ctypes.addressof(layers),
        head=packer.matrix("head"),
    )
