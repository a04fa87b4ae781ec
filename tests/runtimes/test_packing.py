from __future__ import annotations

import pytest
import torch
from torch import Tensor

from receptance.quantization.packed import FORMATS, Format
from receptance.runtimes.network import Layer7
from receptance.runtimes.packing import Packer, pack
from tests.models.examples import EXAMPLES, example


@pytest.mark.parametrize("generation", EXAMPLES)
def test_every_weight_is_read_once(generation: str) -> None:
    model = example(generation, torch.float32)
    weights, read = dict(model.named_parameters()), []

    def reader(name: str) -> Tensor:
        read.append(name)
        return weights[name]

    pack(model.config, Packer(reader, "bfloat16"))
    assert sorted(read) == sorted(weights)


@pytest.mark.parametrize("dtype", FORMATS)
def test_thin_matrices_keep_at_least_16_bits(dtype: Format) -> None:
    model = example("7", torch.float32)
    network = pack(model.config, packer := Packer(dict(model.named_parameters()).__getitem__, dtype))
    layers = (Layer7 * model.config.num_layers).from_address(network.layer)
    assert FORMATS[layers[1].key.format] == dtype
    assert FORMATS[layers[1].w2.format] == ("float32" if dtype == "float32" else "bfloat16")
    assert (layers[1].w2.rows, layers[1].w2.columns) == (model.config.hidden_size, model.config.decay_rank)
    assert packer.num_bytes > 0


def test_narrow_formats_take_less_memory() -> None:
    sizes = []
    for dtype in FORMATS:
        packer = Packer(dict(example("4", torch.float32).named_parameters()).__getitem__, dtype)
        pack(example("4").config, packer)
        sizes.append(packer.num_bytes)
    assert sizes == sorted(sizes, reverse=True)


def test_only_the_first_layer_of_rwkv_7_lacks_a_share_of_the_first_values() -> None:
    model = example("7", torch.float32)
    packer = Packer(dict(model.named_parameters()).__getitem__, "float32")
    layers = (Layer7 * model.config.num_layers).from_address(pack(model.config, packer).layer)
    assert [bool(layer.v1.panels) for layer in layers] == [False, True, True]
    assert [bool(layer.v0) for layer in layers] == [False, True, True]
