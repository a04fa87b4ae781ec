"""The operators that RWKV needs: each a contract, a reference that anyone can read, and fast versions."""

from receptance.kernels.cross_entropy import linear_cross_entropy
from receptance.kernels.wkv4 import wkv4
from receptance.kernels.wkv6 import wkv6
from receptance.kernels.wkv7 import wkv7

__all__ = ["linear_cross_entropy", "wkv4", "wkv6", "wkv7"]
