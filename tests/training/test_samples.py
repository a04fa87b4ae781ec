from __future__ import annotations

import torch

from receptance.models import RWKV4, RWKV4Config
from receptance.tokenizers import load_tokenizer
from receptance.training import SamplesConfig
from receptance.training.samples import write_samples


def test_each_prompt_is_continued_greedily_by_the_most_likely_tokens_of_the_model() -> None:
    torch.manual_seed(0)
    model = RWKV4(RWKV4Config(vocabulary_size=256, num_layers=1, hidden_size=16)).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape))
    config = SamplesConfig(prompts=("to be", "x"), max_tokens=4, temperature=0.0)
    samples = write_samples(model, load_tokenizer("bytes"), config, seed=0)
    assert [sample.prompt for sample in samples] == ["to be", "x"]
    for sample in samples:
        tokens = list(sample.prompt.encode())
        for _ in range(4):
            with torch.no_grad():
                logits, _ = model(torch.tensor([tokens]))
            tokens.append(int(logits[0, -1].argmax()))
            if tokens[-1] == 0:  # the end of the text
                break
        written = bytes(token for token in tokens[len(sample.prompt) :] if token)
        assert sample.text == written.decode("utf-8", errors="replace")


def test_the_same_seed_writes_the_same_and_nothing_is_left_of_the_gradients() -> None:
    model = RWKV4(RWKV4Config(vocabulary_size=256, num_layers=1, hidden_size=16))
    config, tokenizer = SamplesConfig(prompts=("",), max_tokens=8), load_tokenizer("bytes")
    first = write_samples(model, tokenizer, config, seed=3)
    torch.rand(5)
    assert write_samples(model, tokenizer, config, seed=3) == first
    assert write_samples(model, tokenizer, config, seed=4) != first
    assert all(parameter.grad is None for parameter in model.parameters())
