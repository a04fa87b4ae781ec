"""flash-linear-attention in a process of its own: what it computes from a folder, into a safetensors file.

    python -m tests.checkpoints.huggingface.fla_peer run FOLDER RESULT
    python -m tests.checkpoints.huggingface.fla_peer make GENERATION FOLDER

`run` reads the tokens in RESULT and replaces them; `make` saves a random model. Without a GPU its Triton
kernels are interpreted, which Triton decides when it is imported.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

NUM_STEPS = 10
SIZES: dict[str, dict[str, Any]] = {"6": {"num_heads": 2, "expand_k": 1.0}, "7": {"head_dim": 32}}


class NoDevice:
    """What Triton asks about a device before it chooses a kernel."""

    def get_benchmarker(self) -> Any:
        return lambda kernel, quantiles=None, **_: [0.0] * 3


def prepare() -> str:
    """Import fla, and return the device to run on."""
    warnings.simplefilter("ignore")
    if torch.cuda.is_available():
        device = "cuda"
    else:
        device = "cpu"
        os.environ["TRITON_INTERPRET"] = "1"
        importlib.import_module("triton.runtime.driver").driver.set_active(NoDevice())
    importlib.import_module("fla")
    return device


@torch.inference_mode()
def run(folder: Path, result: Path) -> None:
    """Read the tokens as a sequence, and the first ones one by one."""
    device = prepare()
    transformers = importlib.import_module("transformers")
    tokens = load_file(result)["tokens"].to(device)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(model).__module__.startswith("fla.models")
    model = model.eval().to(device)
    whole = model(tokens, use_cache=True)
    cache, steps = None, []
    for position in range(NUM_STEPS):
        one = model(tokens[:, position : position + 1], past_key_values=cache, use_cache=True)
        cache = one.past_key_values
        steps.append(one.logits)
    layers = [whole.past_key_values[layer] for layer in range(model.config.num_hidden_layers)]
    found: dict[str, Tensor] = {
        "logits": whole.logits,
        "steps": torch.cat(steps, dim=1),
        "wkv": torch.stack([layer["recurrent_state"] for layer in layers]),  # [key, value]
        "time_shift": torch.stack([layer["conv_state"].view(1, -1) for layer in layers]),
        "channel_shift": torch.stack([layer["ffn_state"].view(1, -1) for layer in layers]),
    }
    save_file({name: tensor.float().cpu().contiguous() for name, tensor in found.items()}, result)


def make(generation: str, folder: Path) -> None:
    """Save a model in which every parameter matters, in several parts."""
    prepare()
    models = importlib.import_module("fla.models")
    config = getattr(models, f"RWKV{generation}Config")(
        vocab_size=53, hidden_size=64, num_hidden_layers=2, fuse_norm=False, **SIZES[generation]
    )
    model = getattr(models, f"RWKV{generation}ForCausalLM")(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.2
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder, max_shard_size="100KB")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", folder, result]:
            run(Path(folder), Path(result))
        case ["make", generation, folder]:
            make(generation, Path(folder))
