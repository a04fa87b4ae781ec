from __future__ import annotations

import ctypes
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from receptance.checkpoints.contents import Weight
from receptance.checkpoints.packed_weights import packed
from receptance.checkpoints.stored_model import StoredModel, from_module
from receptance.errors import ConfigError
from receptance.quantization.packed import FORMATS, Format
from receptance.runtimes.network import Layer7, Network
from receptance.runtimes.packing import pack
from tests.models.examples import EXAMPLES, example


def stored(generation: str) -> StoredModel:
    return from_module(example(generation, torch.float32))


def layers_of(network: Network) -> ctypes.Array[Layer7]:
    return (Layer7 * network.layers).from_address(network.layer)


@pytest.mark.parametrize("generation", EXAMPLES)
def test_every_weight_is_read_once(generation: str) -> None:
    model, names = stored(generation), []

    def reader(name: str, weight: Weight) -> Tensor:
        names.append(name)
        return weight.read()

    weights = {
        name: replace(weight, read=partial(reader, name, weight)) for name, weight in model.weights.items()
    }
    pack(packed(replace(model, weights=weights), "bfloat16"))
    assert sorted(names) == sorted(weights)


@pytest.mark.parametrize("dtype", FORMATS)
def test_thin_matrices_keep_at_least_16_bits(dtype: Format) -> None:
    found = pack(packed(model := stored("7"), dtype))
    layer = layers_of(found.network)[1]
    assert FORMATS[layer.key.format] == dtype
    assert FORMATS[layer.w2.format] == ("float32" if dtype == "float32" else "bfloat16")
    assert (layer.w2.rows, layer.w2.columns) == (model.config.hidden_size, 3)


@pytest.mark.parametrize("dtype", FORMATS)
def test_the_embedding_keeps_at_least_8_bits(dtype: Format) -> None:
    embedding = pack(packed(model := stored("4"), dtype)).network.embedding
    assert FORMATS[embedding.format] == ("int8" if dtype == "int4" else dtype)
    assert (embedding.rows, embedding.columns) == (model.config.vocabulary_size, model.config.hidden_size)


def test_narrow_formats_take_less_memory() -> None:
    sizes = [sum(tensor.nbytes for tensor in pack(packed(stored("4"), dtype)).tensors) for dtype in FORMATS]
    assert sizes == sorted(sizes, reverse=True)


def test_only_the_first_layer_of_rwkv_7_lacks_a_share_of_the_first_values() -> None:
    found = pack(packed(stored("7"), "float32"))
    assert [bool(layer.v1.panels) for layer in layers_of(found.network)] == [False, True, True]
    assert [bool(layer.v0) for layer in layers_of(found.network)] == [False, True, True]


def test_a_model_that_was_not_packed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'blocks\.0\.ffn\.key\.weight' is not packed"):
        pack(stored("4"))
