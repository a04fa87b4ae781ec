"""A transformer in the shape of Pythia: GPT-NeoX of transformers, with rotary positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM


class GPT(nn.Module):
    """Its feed-forward half is 4.5 times as wide as the rest, so a layer has the 13 D² weights of RWKV-4."""

    def __init__(self, *, layers: int, channels: int, vocabulary: int, context: int) -> None:
        super().__init__()
        self.model = GPTNeoXForCausalLM(
            GPTNeoXConfig(
                vocab_size=vocabulary,
                hidden_size=channels,
                num_hidden_layers=layers,
                num_attention_heads=max(1, channels // 32),
                intermediate_size=9 * channels // 2,
                max_position_embeddings=context,
                bos_token_id=0,
                eos_token_id=0,
                use_cache=False,
            )
        )
        self.head: nn.Linear = self.model.get_output_embeddings()
        self._start(layers, channels)

    @torch.no_grad()
    def _start(self, layers: int, channels: int) -> None:
        """Draw the matrices as Pythia's were; those of transformers, N(0, 0.02), are for wide models.

        Small init (arxiv.org/abs/1910.05895), and 2 / (layers √channels) for what goes back to the stream:
        `init_method: small_init` and `output_layer_init_method: wang_init` of GPT-NeoX.
        """
        for name, parameter in self.model.named_parameters():
            if parameter.ndim == 2:
                goes_back = name.endswith(("attention.dense.weight", "mlp.dense_4h_to_h.weight"))
                nn.init.normal_(
                    parameter, std=2 / (layers * channels**0.5) if goes_back else (2 / (5 * channels)) ** 0.5
                )

    def features(self, tokens: Tensor) -> tuple[Tensor, None]:
        """Return what the head reads, `[batch, time, channel]`."""
        hidden: Tensor = self.model.gpt_neox(tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
        return hidden, None
