"""Layers of torch's LSTM between an embedding and a head."""

from __future__ import annotations

from torch import Tensor, nn


class LSTM(nn.Module):
    """As many layers as the model it stands beside, and as wide as gives the nearest number of weights."""

    def __init__(self, *, layers: int, channels: int, vocabulary: int) -> None:
        super().__init__()
        wanted = 13 * channels**2 * layers + 2 * vocabulary * channels

        def distance(width: int) -> int:
            return abs(8 * width**2 * layers + 2 * vocabulary * width - wanted)

        width = min(range(8, 4 * channels, 8), key=distance)
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.LSTM(width, width, layers, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def features(self, tokens: Tensor) -> tuple[Tensor, None]:
        """Return what the head reads, `[batch, time, channel]`."""
        return self.norm(self.layers(self.embedding(tokens))[0]), None
