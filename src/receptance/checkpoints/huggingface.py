"""Folders of Hugging Face transformers (`RwkvForCausalLM`), in both directions.

Values are the same as in official files; only names and the config differ. A folder that transformers saved
after running its model in eval mode holds divided weights (`rescale_every`), and nothing in it says so: let
transformers save before it runs, or after `model.train()` and one forward pass.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from receptance import atomic
from receptance.checkpoints import pickled, safetensors_file
from receptance.checkpoints.contents import Contents, weights
from receptance.checkpoints.layout import Layout, Row
from receptance.checkpoints.names import published_shape
from receptance.checkpoints.stored_model import StoredModel
from receptance.errors import CheckpointError, ConfigError
from receptance.models import RWKV4Config

FORMAT = "transformers"
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
MAX_JSON_BYTES = 50_000_000
DEFAULT_CONTEXT_LENGTH = 1024  # of the published models; transformers refuses longer texts on a GPU

# `RwkvForCausalLM` of transformers: other words for the same values, nothing is transposed.
RWKV4_LAYOUT = Layout(
    [
        Row("emb.weight", "rwkv.embeddings.weight"),
        *(
            Row(f"blocks.{{}}.{ours}.{part}", f"rwkv.blocks.{{}}.{theirs}.{part}")
            for ours, theirs in (("ln0", "pre_ln"), ("ln1", "ln1"), ("ln2", "ln2"))
            for part in ("weight", "bias")
        ),
        *(
            Row(f"blocks.{{}}.att.{name}", f"rwkv.blocks.{{}}.attention.{name}")
            for name in ("time_decay", "time_first")
        ),
        *(
            Row(f"blocks.{{}}.{ours}.time_mix_{word[0]}", f"rwkv.blocks.{{}}.{theirs}.time_mix_{word}")
            for ours, theirs, words in (
                ("att", "attention", ("key", "value", "receptance")),
                ("ffn", "feed_forward", ("key", "receptance")),
            )
            for word in words
        ),
        *(
            Row(f"blocks.{{}}.{ours}.{name}.weight", f"rwkv.blocks.{{}}.{theirs}.{name}.weight")
            for ours, theirs, names in (
                ("att", "attention", ("key", "value", "receptance", "output")),
                ("ffn", "feed_forward", ("key", "receptance", "value")),
            )
            for name in names
        ),
        Row("ln_out.weight", "rwkv.ln_out.weight"),
        Row("ln_out.bias", "rwkv.ln_out.bias"),
    ]
)

_FIELDS = {
    "vocab_size": "vocabulary_size",
    "num_hidden_layers": "num_layers",
    "hidden_size": "hidden_size",
    "attention_hidden_size": "attention_size",
    "intermediate_size": "feed_forward_size",
    "layer_norm_epsilon": "layer_norm_epsilon",
}


def read(folder: Path) -> Contents:
    """Return what a folder of transformers holds, under official names and without copying tensors.

    Raises CheckpointError, naming the file and the tensor, when something is missing, damaged or not RWKV-4.
    """
    config_path = folder / CONFIG_FILE
    if not config_path.is_file():
        raise CheckpointError(
            f"{folder}: there is no {CONFIG_FILE}, which transformers writes beside the weights."
        )
    config = _read_json(config_path)
    if config.get("model_type") != "rwkv":
        raise CheckpointError(
            f"{config_path}: model_type is {config.get('model_type')!r}, but of those of transformers this "
            "version of receptance reads only 'rwkv' (RWKV-4)."
        )
    files = _weight_files(folder)
    tensors = _read_weights(files)
    if config.get("tie_word_embeddings") is True and "rwkv.embeddings.weight" in tensors:
        # Ours are two parameters, which training may take apart.
        tensors.setdefault("head.weight", tensors["rwkv.embeddings.weight"].clone())
    context_length = config.get("context_length")
    return Contents(
        path=folder,
        format=FORMAT,
        weights=RWKV4_LAYOUT.to_official(folder, weights(tensors)),
        files=files,
        config={ours: config[theirs] for theirs, ours in _FIELDS.items() if config.get(theirs) is not None},
        tokenizer=TOKENIZER_FILE if (folder / TOKENIZER_FILE).is_file() else None,
        metadata={} if context_length is None else {"context_length": str(context_length)},
        name_in_file=RWKV4_LAYOUT.foreign_name,
    )


def write(folder: Path, model: StoredModel) -> None:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` loads, whole or not at all.

    Raises ConfigError when the folder has something in it, or transformers could not run the model.
    """
    config = model.config
    if not isinstance(config, RWKV4Config):
        raise ConfigError(f"transformers has no model for RWKV-{config.generation}; it has one for RWKV-4.")
    if config.attention_size != config.hidden_size:
        raise ConfigError(
            f"attention_size is {config.attention_size} and hidden_size {config.hidden_size}, but "
            "transformers runs only models where they are equal."
        )
    if config.num_layers == 1:
        raise ConfigError(
            "num_layers is 1, but transformers builds only models with more: it divides by zero."
        )
    dtype = model.weights["head.weight"].dtype
    context_length = model.metadata.get("context_length", "")
    settings = {
        "architectures": ["RwkvForCausalLM"],
        "model_type": "rwkv",
        **{theirs: getattr(config, ours) for theirs, ours in _FIELDS.items()},
        "context_length": int(context_length) if context_length.isdecimal() else DEFAULT_CONTEXT_LENGTH,
        # Halving the stream keeps float16 from overflowing; elsewhere it only costs accuracy.
        "rescale_every": 6 if dtype == torch.float16 else 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
        "use_cache": True,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    named = RWKV4_LAYOUT.to_foreign(
        {name: weight.map(partial(published_shape, name)) for name, weight in model.weights.items()}
    )
    with atomic.write_folder(folder) as temporary:
        safetensors_file.write_weights(temporary / WEIGHT_FILES[0], named, {"format": "pt"})
        for name, content in (
            (CONFIG_FILE, settings),
            ("generation_config.json", {"bos_token_id": 0, "eos_token_id": 0}),
        ):
            (temporary / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the files with the weights: one, or the parts that an index lists."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return (folder / name,)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _parts(index)
    raise CheckpointError(f"{folder}: there are no weights: none of {', '.join(WEIGHT_FILES)}, and no index.")


def _parts(index: Path) -> tuple[Path, ...]:
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index}: 'weight_map' must give a file name for each tensor.")
    names = sorted(set(places.values()))
    for name in names:
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise CheckpointError(f"{index}: {name!r} is not the name of a file in this folder.")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index}: {name!r} is listed, but it is not there.")
    return tuple(index.parent / name for name in names)


def _read_weights(files: tuple[Path, ...]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in files:
        part = pickled.read_tensors(path) if path.suffix == ".bin" else safetensors_file.read(path)[0]
        for name in part.keys() & tensors.keys():
            raise CheckpointError(f"{path}: {name!r} is in another part too.")
        tensors |= part
    return tensors


def _read_json(path: Path) -> dict[str, object]:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise CheckpointError(f"{path}: it has more than {MAX_JSON_BYTES:,} bytes.")
    try:
        content = json.loads(path.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: it is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: it is a JSON {type(content).__name__}, but it must be an object.")
    return content
