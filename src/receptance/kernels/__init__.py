"""The operators that RWKV needs: each a contract, a reference that anyone can read, and fast versions."""

from receptance.kernels.adamw import adamw
from receptance.kernels.allocator import tune_allocator
from receptance.kernels.cross_entropy import linear_cross_entropy
from receptance.kernels.dispatch import Row, available, implementations, use
from receptance.kernels.norm import norm
from receptance.kernels.norm_mix import norm_mix
from receptance.kernels.wkv4 import wkv4
from receptance.kernels.wkv6 import wkv6
from receptance.kernels.wkv7 import wkv7

__all__ = [
    "Row",
    "adamw",
    "available",
    "implementations",
    "linear_cross_entropy",
    "norm",
    "norm_mix",
    "tune_allocator",
    "use",
    "wkv4",
    "wkv6",
    "wkv7",
]
