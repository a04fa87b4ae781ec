"""The structs of `native/network.h`, field by field; what they mean is told there."""

from __future__ import annotations

import ctypes

_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_int64


class Matrix(ctypes.Structure):
    """The struct of that name in native/packed.h."""

    _fields_ = (("format", ctypes.c_int), ("panels", _POINTER), ("rows", _SIZE), ("columns", _SIZE))


def _fields(text: str, kind: type = _POINTER) -> tuple[tuple[str, type], ...]:
    return tuple((name, kind) for name in text.split())


class Norm(ctypes.Structure):
    """A layer norm, or a norm of each head."""

    _fields_ = _fields("weight bias")


class ChannelMix(ctypes.Structure):
    """The feed-forward half of a layer."""

    _fields_ = (("norm", Norm), *_fields("mix_k mix_r"), *_fields("key receptance value", Matrix))


class Layer4(ctypes.Structure):
    """A layer of RWKV-4."""

    _fields_ = (
        ("channel_mix", ChannelMix),
        ("norm", Norm),
        *_fields("decay bonus mix_k mix_v mix_r"),
        *_fields("key value receptance output", Matrix),
    )


class Layer6(ctypes.Structure):
    """A layer of RWKV-5 or 6."""

    _fields_ = (
        ("channel_mix", ChannelMix),
        *_fields("norm head_norm", Norm),
        *_fields("decay bonus mix_x mix_w mix_k mix_v mix_r mix_g"),
        ("mix_one", Matrix),
        ("mix_two", Matrix * 5),
        *_fields("decay_one decay_two key value receptance gate output", Matrix),
    )


class Layer7(ctypes.Structure):
    """A layer of RWKV-7."""

    _fields_ = (
        ("channel_mix", ChannelMix),
        *_fields("norm head_norm", Norm),
        *_fields("mix_r mix_w mix_k mix_v mix_a mix_g w0 a0 v0 k_k k_a r_k"),
        *_fields("w1 w2 a1 a2 v1 v2 g1 g2 receptance key value output", Matrix),
    )


class Network(ctypes.Structure):
    """A whole network."""

    _fields_ = (
        *_fields("generation layers channels memory_channels heads feed_forward vocabulary rank", _SIZE),
        ("embedding", Matrix),
        *_fields("embedding_norm last_norm", Norm),
        *_fields("epsilon last_epsilon head_epsilon", ctypes.c_float),
        ("layer", _POINTER),
        ("head", Matrix),
    )


class States(ctypes.Structure):
    """What a network remembers."""

    _fields_ = (*_fields("time_shift channel_shift"), ("memory", _POINTER * 3))


class Evaluation(ctypes.Structure):
    """One call."""

    _fields_ = (
        ("tokens", _POINTER),
        ("before", States),
        ("after", ctypes.POINTER(States)),
        ("logits", _POINTER),
        *_fields("last_only stepwise", ctypes.c_bool),
        *_fields("batch time", _SIZE),
        ("scratch", _POINTER),
    )
