"""Official `.pth` files, in both directions: nothing in them is executed."""

from receptance.checkpoints.pickled.pth import read, read_tensors, write, write_weights

__all__ = ["read", "read_tensors", "write", "write_weights"]
