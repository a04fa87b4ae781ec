"""Adapter folders of the library PEFT: `adapter_config.json` beside `adapter_model.safetensors`.

PEFT names what it adds by the module that it was added to: one of ours, of RWKV-LM or of transformers.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from receptance import atomic
from receptance.checkpoints import huggingface, json_file, pickled, safetensors_file
from receptance.checkpoints.contents import Contents, weights
from receptance.checkpoints.layout import Layout
from receptance.checkpoints.tuning import lora
from receptance.errors import CheckpointError, ConfigError

FORMAT = "peft"
CONFIG_FILE = "adapter_config.json"
WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."

_MODULE = re.compile(r"(?P<module>.+?)(?P<part>\.(lora_|miss_block\b|bone_block\b).*)", re.DOTALL)
_METHODS = ("LORA", "MISS")
# What makes the trained model another one than W + alpha / r * B A, or than W + [D^T D^T ...].
_SETTINGS = (
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
)
_HARMLESS_BEGINNINGS = (
    None,
    True,
    False,
    "gaussian",
    "eva",
    "orthogonal",
)  # others change the frozen weights


def read(folder: Path) -> Contents:
    """Return the adapter in a folder, under the names of RWKV-PEFT.

    Raises CheckpointError, naming the file and the setting, when it is damaged or not known here.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{path}: there is no such file, which says how the adapter beside it is added."
        )
    config = json_file.read(path)
    if config.get("peft_type") not in _METHODS:
        known = " and ".join(_METHODS)
        raise CheckpointError(
            f"{path}: peft_type is {config.get('peft_type')!r}, but receptance merges {known}. Use PEFT."
        )
    for name in _SETTINGS:
        if config.get(name):
            raise CheckpointError(
                f"{path}: {name} is {str(config[name])[:80]!r}, which receptance cannot merge. Use PEFT."
            )
    for name in ("init_lora_weights", "init_weights"):
        if config.get(name) not in _HARMLESS_BEGINNINGS:
            raise CheckpointError(
                f"{path}: {name} is {str(config[name])[:80]!r}, so the frozen weights changed too. Let "
                "PEFT save an ordinary LoRA (path_initial_model_for_weight_conversion)."
            )
    file = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{folder}: there is none of {', '.join(WEIGHT_FILES)}.")
    found = pickled.read_tensors(file) if file.suffix == ".bin" else safetensors_file.read(file)[0]
    names = {_official(name): name for name in found}
    if len(names) != len(found):
        raise CheckpointError(f"{file}: two of its tensors are for the same weight.")
    return lora.in_our_spelling(
        Contents(
            path=folder,
            format=FORMAT,
            weights=weights({_official(name): tensor for name, tensor in found.items()}),
            files=(file,),
            metadata=_metadata(path, config),
            name_in_file=lambda name: names.get(name, name),
        )
    )


def write(folder: Path, adapter: Contents) -> None:
    """Write a LoRA as a folder that PEFT loads onto one of our modules, whole or not at all.

    Raises ConfigError when the folder has something in it, alpha is not known or PEFT cannot hold a tensor.
    """
    ranks: dict[str, int] = {}
    for name in adapter.weights:
        module, _, role = name.rpartition(".")
        if role not in ("lora_A", "lora_B"):
            raise ConfigError(f"{folder}: a LoRA of PEFT has no place for {name!r}.")
        ranks[module] = adapter.shape(f"{module}.lora_A", 2)[0]
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "r": max(ranks.values()),
        "rank_pattern": {} if len(set(ranks.values())) == 1 else ranks,
        "lora_alpha": lora.alpha_of(adapter),
        "use_rslora": adapter.metadata.get(lora.RANK_STABILISED) == "true",
        "target_modules": list(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    with atomic.write_folder(folder) as temporary:
        safetensors_file.write_weights(
            temporary / WEIGHT_FILES[0],
            {f"{PREFIX}{name}.weight": weight for name, weight in adapter.weights.items()},
            {"format": "pt"},
        )
        json_file.write(temporary / CONFIG_FILE, config)


def _metadata(path: Path, config: dict[str, object]) -> dict[str, str]:
    if config["peft_type"] != "LORA":
        return {}
    alpha = config.get("lora_alpha")
    if type(alpha) not in (int, float):
        raise CheckpointError(f"{path}: lora_alpha is {alpha!r}, but it must be a number.")
    return {lora.ALPHA: str(alpha)} | ({lora.RANK_STABILISED: "true"} if config.get("use_rslora") else {})


@functools.cache
def _layouts() -> tuple[Layout, ...]:
    return tuple(dialect.layout({}) for dialect in huggingface.DIALECTS)


def _official(name: str) -> str:
    """Return the name as it is in RWKV-LM, whatever model PEFT was wrapped around."""
    name = name.removeprefix(PREFIX)
    match = _MODULE.fullmatch(name)
    weight, rest = (f"{match['module']}.weight", match["part"]) if match else (name, "")
    for layout in _layouts():
        weight = layout.official_name(weight)
    return weight.removesuffix(".weight") + rest if rest else weight
