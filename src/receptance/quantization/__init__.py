"""Weights in fewer bits, and in the order in which the native runtime reads them."""
