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

    def features(self, tokens: Tensor) -> tuple[Tensor, None]:
        """Return what the head reads, `[batch, time, channel]`."""
        hidden: Tensor = self.model.gpt_neox(tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
        return hidden, None
