"""Train, fine-tune, evaluate, quantise, run and serve RWKV language models."""

__version__ = "0.1.0"
