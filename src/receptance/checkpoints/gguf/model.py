"""RWKV-6 and 7 in GGUF files, as llama.cpp reads and writes them.

The metadata are those that its loader asks for, and the types of the weights those that it computes with and
quantises to (`src/llama-quant.cpp`). Its group norm has an epsilon of 64e-5, whatever a file says.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from receptance import atomic
from receptance.checkpoints.contents import Contents, Weight
from receptance.checkpoints.ggml_blocks import BLOCK_FORMATS
from receptance.checkpoints.gguf import container, vocabulary
from receptance.checkpoints.gguf.container import PLAIN_TYPES, Array, GGUFFile
from receptance.checkpoints.gguf.layout import ARCHITECTURES, FIELDS, layout
from receptance.checkpoints.layout import Layout
from receptance.checkpoints.stored_model import StoredModel
from receptance.errors import CheckpointError, ConfigError, TokenizerError
from receptance.models import RWKV6Config, RWKV7Config
from receptance.models.heads import GROUP_NORM_EPSILON
from receptance.tokenizers import Tokenizer, find_tokenizer, world

FORMAT = "gguf"

T = TypeVar("T")

_RELATIVES = {
    "rwkv6qwen2": "a Qwen 2 with the attention of RWKV-6 (QRWKV)",
    "arwkv7": "a Qwen 2 with the attention of RWKV-7 (ARWKV)",
}
_GENERAL = "general."  # such as the author and the licence
_NOT_METADATA = tuple(
    _GENERAL + key for key in ("architecture", "type", "file_type", "quantization_version", "alignment")
)
_GROUP_NORM = "attention.group_norm_epsilon"
_LAYER_NORM = "attention.layer_norm_epsilon"
_LAYER_NORM_EPSILON = 1e-5  # of all RWKV-6 and 7
_RESCALE = "rescale_every_n_layers"
_TOKENS = "tokenizer.ggml.tokens"
_CONTEXT_LENGTH = 1 << 20  # what llama.cpp's converter says of RWKV, which has no limit
_LARGEST_HEAD = 1 << 16
_HEAD_STEP = 64  # of its kernel on processors with AVX-512, the widest

# llama.cpp takes its own template by the name in the first line; whoever knows Jinja reads the rest.
CHAT_TEMPLATE = """\
{#- rwkv-world -#}
{%- for message in messages -%}
{{- message['role']|capitalize + ': ' + message['content']|trim + '\\n\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}
"""

# The matrices that llama.cpp quantises: not the low-rank ones.
_QUANTISED = re.compile(
    r"token_embd\.weight|output\.weight|.*_mix_(receptance|key|value|gate|output)\.weight"
)
# What it knows in float32 alone, beside whatever has one axis.
_FLOAT32 = re.compile(r".*\.time_mix_(first|lerp_fused)\.weight")


def read(path: Path) -> Contents:
    """Return what a GGUF file of llama.cpp holds, under official names.

    Quantised matrices come as float32, since float16 and bfloat16 have too few digits for the product of a
    scale and an integer.

    Raises CheckpointError, naming the byte, the key or the tensor, when the file is damaged or not of RWKV.
    """
    file = container.read(path)
    architecture = _architecture(path, file)
    config = _config(path, file, architecture)
    names = layout(architecture, config["head_size"])
    return Contents(
        path=path,
        format=FORMAT,
        weights=_unscaled(path, file, architecture, names.to_official(path, file.weights)),
        files=(path,),
        config=config,
        tokenizer=vocabulary.tokenizer_name(_strings(file)),
        metadata={key: value for key, value in _general(file.metadata).items() if isinstance(value, str)},
        name_in_file=names.foreign_name,
    )


def _architecture(path: Path, file: GGUFFile) -> str:
    """Return the name of the architecture, if it is one that can be read whole."""
    architecture = file.metadata.get("general.architecture")
    kind = file.metadata.get("general.type", "model")
    parts = file.metadata.get("split.count", 1)
    if kind != "model":
        raise CheckpointError(f"{path}: this GGUF file holds no model, but {str(kind)[:40]!r}.")
    if architecture in _RELATIVES:
        raise CheckpointError(
            f"{path}: this is {architecture}, {_RELATIVES[str(architecture)]}, not RWKV itself. "
            f"receptance reads {' and '.join(FIELDS)}."
        )
    if architecture not in FIELDS:
        raise CheckpointError(
            f"{path}: this GGUF file holds {str(architecture)[:40]!r}, but receptance reads "
            f"{' and '.join(FIELDS)}."
        )
    if parts not in (0, 1):
        raise CheckpointError(
            f"{path}: this GGUF file is one of several parts. Join them with llama-gguf-split --merge."
        )
    return str(architecture)


def _config(path: Path, file: GGUFFile, architecture: str) -> dict[str, Any]:
    """Return what the file says of the config; the head size is there, since no shape of RWKV-7 tells it."""
    found: dict[str, Any] = {}  # Any: the loader holds them against the fields
    for theirs, ours in (FIELDS[architecture] | {_GROUP_NORM: "group_norm_epsilon"}).items():
        value = file.metadata.get(f"{architecture}.{theirs}")
        if value is not None:
            found[ours] = _shortest(value) if isinstance(value, float) else value
    head_size = found.get("head_size")
    if type(head_size) is not int or not 1 <= head_size <= _LARGEST_HEAD:
        raise CheckpointError(
            f"{path}: '{architecture}.wkv.head_size' is {head_size!r}, but it must be a positive number."
        )
    epsilon = file.metadata.get(f"{architecture}.{_LAYER_NORM}", _LAYER_NORM_EPSILON)
    if not isinstance(epsilon, float) or _shortest(epsilon) != _LAYER_NORM_EPSILON:
        raise CheckpointError(
            f"{path}: '{architecture}.{_LAYER_NORM}' is {epsilon!r}, but that of RWKV-6 and 7 is "
            f"{_LAYER_NORM_EPSILON}."
        )
    return found


def _general(metadata: Mapping[str, T]) -> dict[str, T]:
    """Return what the metadata say of the model that no reader needs."""
    return {
        key: value for key, value in metadata.items() if key.startswith(_GENERAL) and key not in _NOT_METADATA
    }


def _shortest(value: float) -> float:
    """Return the shortest decimal that is this number in float32: 1e-05 for 9.99999974e-06."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))


def _strings(file: GGUFFile) -> list[bytes]:
    """Return the vocabulary; none where it is not one of RWKV."""
    tokens = file.metadata.get(_TOKENS)
    is_rwkv = file.metadata.get("tokenizer.ggml.model") == "rwkv"
    return tokens.strings() if is_rwkv and isinstance(tokens, Array) else []


def _unscaled(
    path: Path, file: GGUFFile, architecture: str, weights: Mapping[str, Weight]
) -> dict[str, Weight]:
    """Return the weights as they are where the activations are not halved after every so many layers."""
    every = file.metadata.get(f"{architecture}.{_RESCALE}", 0) if architecture == "rwkv6" else 0
    if type(every) is not int or every < 0:
        raise CheckpointError(f"{path}: '{architecture}.{_RESCALE}' is {every!r}, but it must be a number.")
    if every == 0:
        return dict(weights)
    return {name: _multiplied(name, weight, every) for name, weight in weights.items()}


def _multiplied(name: str, weight: Weight, every: int) -> Weight:
    found = re.fullmatch(r"blocks\.(\d+)\.(att\.output|ffn\.value)\.weight", name)
    if found is None:
        return weight
    factor = 2.0 ** min(int(found[1]) // every, 1000)  # what overflows is refused when it is read
    return Weight(weight.shape, weight.dtype, lambda: weight.read() * factor)


def embedded_tokenizer(path: Path) -> Tokenizer | None:
    """Return World's tokenizer where it is in a GGUF file; None where another one is, or none."""
    strings = _strings(container.read(path))
    if vocabulary.tokenizer_name(strings) != world.NAME:
        return None
    return world.WorldTokenizer(vocabulary.world_file(strings), Path(world.FILE))


def write(path: Path, model: StoredModel, quantization: str | None = None) -> None:
    """Write a GGUF file that llama.cpp runs, atomically and weight by weight, with the package `gguf`.

    quantization  block format of the large matrices, such as "Q8_0"; None keeps what the model has

    The vocabulary goes along where it is World's, another of that format, or bytes; else llama.cpp can read
    and write token ids alone.

    Raises ConfigError when the package is missing, or llama.cpp could not run the model as it is.
    """
    gguf = _package()
    config = _require_runnable(path, model)
    architecture = ARCHITECTURES[config.generation]
    stored = _stored(model, layout(architecture, config.head_size), quantization)
    with atomic.write(path) as temporary, closing(gguf.GGUFWriter(temporary, architecture)) as writer:
        for key, value in _metadata(path, model, architecture, quantization, gguf).items():
            _add(writer, key, value)
        for name, entry in stored.items():
            shape = (*entry.weight.shape[:-1], entry.row_bytes)
            kind = gguf.GGMLQuantizationType[entry.type]
            writer.add_tensor_info(name, shape, np.dtype(np.uint8), entry.num_bytes, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry in stored.values():
            writer.write_tensor_data(entry.numbers())


QUANTISED = {name.lower(): partial(write, quantization=name) for name in ("Q8_0", "Q4_0")}


def _package() -> Any:  # Any: a module that may be missing
    try:
        return importlib.import_module("gguf")
    except ImportError as error:
        raise ConfigError(
            "writing GGUF files needs the package 'gguf'. Install it: pip install 'receptance[gguf]'"
        ) from error


def _require_runnable(path: Path, model: StoredModel) -> RWKV6Config | RWKV7Config:
    """Return the config of a model whose logits llama.cpp would give."""
    config = model.config
    if not isinstance(config, RWKV6Config | RWKV7Config):
        raise ConfigError(f"{path}: llama.cpp has no RWKV-{config.generation}, only RWKV-6 and 7.")
    if config.group_norm_epsilon != GROUP_NORM_EPSILON:
        raise ConfigError(
            f"{path}: group_norm_epsilon is {config.group_norm_epsilon}, but llama.cpp computes with "
            f"{GROUP_NORM_EPSILON} whatever a file says. Save in another format."
        )
    if isinstance(config, RWKV7Config) and config.head_size % _HEAD_STEP:
        raise ConfigError(
            f"{path}: head_size is {config.head_size}, but llama.cpp computes RWKV-7 in steps of "
            f"{_HEAD_STEP} channels and would go past the end of smaller heads. Save in another format."
        )
    if model.dtype == torch.float64:
        raise ConfigError(
            f"{path}: the matrices are in float64, which llama.cpp does not know. Convert them to float32."
        )
    return config


@dataclass(frozen=True)
class _Stored:
    """A weight as it goes into the file."""

    weight: Weight
    type: str

    @property
    def row_bytes(self) -> int:
        """Size of a row."""
        row = self.weight.shape[-1:]
        block = BLOCK_FORMATS.get(self.type)
        return block.num_bytes(row) if block else row[0] * PLAIN_TYPES[self.type].itemsize

    @property
    def num_bytes(self) -> int:
        """Size of the weight."""
        return self.row_bytes * (self.weight.like().numel() // self.weight.shape[-1])

    def numbers(self) -> npt.NDArray[np.uint8]:
        """Read the weight and return the bytes to write."""
        block = BLOCK_FORMATS.get(self.type)
        if block is None:
            return np.frombuffer(self.weight.numbers(), dtype=np.uint8)
        return np.concatenate(
            [np.frombuffer(piece, np.uint8) for piece in block.quantise(self.weight.read())]
        )


def _stored(model: StoredModel, names: Layout, quantization: str | None) -> dict[str, _Stored]:
    """Return the weights under llama.cpp's names, each in the type that it has in the file."""
    official = dict(model.weights)
    if isinstance(model.config, RWKV7Config):
        # llama.cpp wants these of the first layer too, in this shape, and never looks at them.
        official |= {f"blocks.0.att.v{i}": official[f"blocks.0.att.a{i}"] for i in range(3)}
    return {name: _typed(name, weight, quantization) for name, weight in names.to_foreign(official).items()}


def _typed(name: str, weight: Weight, quantization: str | None) -> _Stored:
    if len(weight.shape) == 1 or _FLOAT32.fullmatch(name):
        return _Stored(Weight(weight.shape, torch.float32, lambda: weight.read().float()), "F32")
    if quantization and _QUANTISED.fullmatch(name):
        # More bits for the head, as in llama.cpp: there Q6_K, which the package cannot write.
        kind = "Q8_0" if name == "output.weight" else quantization
        if weight.shape[-1] % BLOCK_FORMATS[kind].block_size == 0:
            return _Stored(weight, kind)
    return _Stored(weight, next(kind for kind, dtype in PLAIN_TYPES.items() if dtype == weight.dtype))


def _metadata(
    path: Path, model: StoredModel, architecture: str, quantization: str | None, gguf: Any
) -> dict[str, Any]:  # Any: the package, and whatever the metadata may hold
    """Return what llama.cpp's loader asks for, and what the model's own file said."""
    dtype = next(kind for kind, dtype in PLAIN_TYPES.items() if dtype == model.dtype)
    file_type = "ALL_F32" if (quantization or dtype) == "F32" else f"MOSTLY_{quantization or dtype}"
    general = {"type": "model", "name": path.stem, "file_type": int(gguf.LlamaFileType[file_type])}
    if quantization:
        general["quantization_version"] = gguf.GGML_QUANT_VERSION
    sizes = {
        **{key: getattr(model.config, field) for key, field in FIELDS[architecture].items()},
        _LAYER_NORM: _LAYER_NORM_EPSILON,
        "context_length": _CONTEXT_LENGTH,
        "attention.head_count": 0,
        "token_shift_count": 2,
    }
    if architecture == "rwkv6":
        sizes[_RESCALE] = 0
    return {
        **{_GENERAL + key: value for key, value in general.items()},
        **_general(model.metadata),
        **{f"{architecture}.{key}": value for key, value in sizes.items()},
        **_vocabulary(model, path),
    }


def _vocabulary(model: StoredModel, path: Path) -> dict[str, object]:
    tokenizer = _tokenizer(model, path)
    rows = vocabulary.rows(tokenizer, model.config.vocabulary_size)
    normal, control, unused = 1, 3, 5
    types = [unused if vocabulary.is_unused(rows, row) else normal for row in range(len(rows))]
    found = {
        "model": "rwkv",
        "tokens": rows,
        "token_type": [control, *types[1:]],
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    if isinstance(tokenizer, world.WorldTokenizer) and len(turn := tokenizer.encode("\n\n")) == 1:
        found["eot_token_id"] = turn[0]  # what ends a turn of a chat
    metadata = {f"tokenizer.ggml.{key}": value for key, value in found.items()}
    return metadata | ({"tokenizer.chat_template": CHAT_TEMPLATE} if "eot_token_id" in found else {})


def _tokenizer(model: StoredModel, path: Path) -> Tokenizer | None:
    place = path if model.format == "module" else model.path  # beside which the vocabulary lies
    try:
        return find_tokenizer(place, model.tokenizer, model.config.vocabulary_size)
    except TokenizerError:
        return None


def _add(writer: Any, key: str, value: object) -> None:  # Any: a writer of the package
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_array(key, value)
