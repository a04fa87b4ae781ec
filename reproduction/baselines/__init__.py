"""What RWKV is compared with. Ours and theirs are `features(tokens) -> (hidden, …)` and a `head`."""

from reproduction.baselines.gpt import GPT
from reproduction.baselines.lstm import LSTM

__all__ = ["GPT", "LSTM"]
