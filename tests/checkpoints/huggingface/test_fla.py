"""The folders of flash-linear-attention: its names and shapes, its one epsilon, and back to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from receptance import checkpoints
from receptance.checkpoints import huggingface
from receptance.checkpoints.load import open_model
from receptance.checkpoints.stored_model import from_module
from receptance.errors import CheckpointError, ConfigError
from receptance.models import RWKV6, RWKV7, AnyModel, RWKV6Config, RWKV7Config
from tests.checkpoints.files import assert_same_weights
from tests.checkpoints.huggingface.folders import change_config, official, small_model

# What `state_dict()` has in fla 0.6.0: vocabulary V, channels C, heads H of size N, feed-forward F; ranks
# W (decay), A (in context), R (value), G (gate) and D5 (five mixes). A star is the number of a layer.
AROUND = """
    model.embeddings.weight V,C  model.norm.weight C  model.norm.bias C  lm_head.weight V,C
    model.layers.0.pre_norm.weight C  model.layers.0.pre_norm.bias C
"""
LAYER = """
    model.layers.*.attn_norm.weight C  model.layers.*.attn_norm.bias C
    model.layers.*.ffn_norm.weight C  model.layers.*.ffn_norm.bias C
    model.layers.*.attn.g_norm.weight C  model.layers.*.attn.g_norm.bias C
    model.layers.*.attn.o_proj.weight C,C  model.layers.*.ffn.value.weight C,F
"""
RWKV7_LAYER = """
    model.layers.*.attn.x_r 1,1,C  model.layers.*.attn.x_w 1,1,C  model.layers.*.attn.x_k 1,1,C
    model.layers.*.attn.x_v 1,1,C  model.layers.*.attn.x_a 1,1,C  model.layers.*.attn.x_g 1,1,C
    model.layers.*.attn.k_k C  model.layers.*.attn.k_a C  model.layers.*.attn.r_k H,N
    model.layers.*.attn.r_proj.weight C,C  model.layers.*.attn.k_proj.weight C,C
    model.layers.*.attn.v_proj.weight C,C
    model.layers.*.attn.w_lora.lora.0.weight W,C  model.layers.*.attn.w_lora.lora.2.weight C,W
    model.layers.*.attn.a_lora.lora.0.weight A,C  model.layers.*.attn.a_lora.lora.2.weight C,A
    model.layers.*.attn.g_lora.lora.0.weight G,C  model.layers.*.attn.g_lora.lora.2.weight C,G
    model.layers.*.attn.w_lora.lora.2.bias C  model.layers.*.attn.a_lora.lora.2.bias C
    model.layers.*.ffn.x_k C  model.layers.*.ffn.key.weight F,C
"""
RWKV7_LATER_LAYER = """
    model.layers.*.attn.v_lora.lora.0.weight R,C  model.layers.*.attn.v_lora.lora.2.weight C,R
    model.layers.*.attn.v_lora.lora.2.bias C
"""
RWKV6_LAYER = """
    model.layers.*.attn.x_bias 5,C  model.layers.*.attn.bonus H,N  model.layers.*.attn.x_proj.0.mu C
    model.layers.*.attn.x_proj.0.linear.weight D5,C  model.layers.*.attn.x_proj.2.weight C,D5
    model.layers.*.attn.w_proj.linear.lora.0.weight W,C  model.layers.*.attn.w_proj.linear.lora.2.weight C,W
    model.layers.*.attn.w_proj.linear.lora.2.bias C  model.layers.*.attn.r_proj.linear.weight C,C
    model.layers.*.attn.k_proj.linear.weight C,C  model.layers.*.attn.v_proj.linear.weight C,C
    model.layers.*.attn.g_proj.linear.weight C,C
    model.layers.*.ffn.key.mu C  model.layers.*.ffn.key.linear.weight F,C
    model.layers.*.ffn.receptance.mu C  model.layers.*.ffn.receptance.linear.weight C,C
"""


def shapes(table: str, sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    words = table.split()
    return {
        name: tuple(sizes.get(axis) or int(axis) for axis in axes.split(","))
        for name, axes in zip(words[::2], words[1::2], strict=True)
    }


def rewrite(folder: Path, change: Any) -> None:
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(
        {name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )


@pytest.fixture(params=["6", "7"])
def generation(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def folder(tmp_path: Path, generation: str) -> Path:
    checkpoints.save(small_model(generation), tmp_path / "fla", format="transformers")
    return tmp_path / "fla"


@pytest.mark.parametrize(
    ("generation", "layer", "later_layer", "own_sizes", "ranks"),
    [
        (
            "7", RWKV7_LAYER, RWKV7_LATER_LAYER,
            {"F": 512, "W": 32, "A": 64, "R": 96, "G": 160},
            {"decay_rank": 32, "in_context_rank": 64, "value_rank": 96, "gate_rank": 160},
        ),
        ("6", RWKV6_LAYER, "", {"F": 448, "D5": 40, "W": 24}, {"mix_rank": 8, "decay_rank": 24}),
    ],
)  # fmt: skip
def test_names_and_shapes_are_those_of_flash_linear_attention(
    tmp_path: Path,
    generation: str,
    layer: str,
    later_layer: str,
    own_sizes: dict[str, int],
    ranks: dict[str, int],
) -> None:
    model = small_model(generation, num_layers=2, **ranks)
    checkpoints.save(model, tmp_path / "fla", format="transformers")
    layers = (LAYER + layer).replace("*", "0") + (LAYER + layer + later_layer).replace("*", "1")
    found = {name: tuple(t.shape) for name, t in load_file(tmp_path / "fla" / "model.safetensors").items()}
    assert found == shapes(AROUND + layers, {"V": 53, "C": 128, "H": 2, "N": 64, **own_sizes})
    assert_same_weights(checkpoints.load(tmp_path / "fla").model, model)


def test_low_rank_matrices_are_transposed_and_biases_are_the_official_vectors(tmp_path: Path) -> None:
    model = small_model("7")
    checkpoints.save(model, tmp_path / "fla", format="transformers")
    theirs, ours = load_file(tmp_path / "fla" / "model.safetensors"), official(model)
    for letter in "wavg":
        lora = f"model.layers.2.attn.{letter}_lora.lora"
        assert torch.equal(theirs[f"{lora}.0.weight"].T, ours[f"blocks.2.att.{letter}1"])
        assert torch.equal(theirs[f"{lora}.2.weight"].T, ours[f"blocks.2.att.{letter}2"])
        if letter != "g":
            assert torch.equal(theirs[f"{lora}.2.bias"], ours[f"blocks.2.att.{letter}0"])


def test_what_depends_on_the_data_in_rwkv6_is_ordered_r_w_k_v_g(tmp_path: Path) -> None:
    model = small_model("6", mix_rank=8)
    checkpoints.save(model, tmp_path / "fla", format="transformers")
    theirs, ours = load_file(tmp_path / "fla" / "model.safetensors"), official(model)
    att, attn = "blocks.1.att", "model.layers.1.attn"
    for place, letter in enumerate("rwkvg"):
        mine = "wkvrg".index(letter)
        assert torch.equal(theirs[f"{attn}.x_bias"][place], ours[f"{att}.time_maa_{letter}"])
        part = slice(8 * place, 8 * place + 8)
        own = slice(8 * mine, 8 * mine + 8)
        assert torch.equal(
            theirs[f"{attn}.x_proj.0.linear.weight"][part].T, ours[f"{att}.time_maa_w1"][:, own]
        )
        assert torch.equal(theirs[f"{attn}.x_proj.2.weight"][:, part].T, ours[f"{att}.time_maa_w2"][mine])


def test_the_config_says_all_that_the_defaults_of_the_program_would_get_wrong(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    generation = config["model_type"][-1]
    expected = {
        "architectures": [f"RWKV{generation}ForCausalLM"],
        "hidden_size": 128, "num_hidden_layers": 3, "vocab_size": 53, "num_heads": 2, "norm_eps": 1e-5,
        "norm_first": True, "norm_bias": True, "fuse_norm": False, "hidden_act": "sqrelu",
        "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "float32",
    }  # fmt: skip
    own: dict[str, dict[str, Any]] = {
        "6": {
            "expand_k": 1.0, "expand_v": 1.0, "intermediate_size": 448, "proj_low_rank_dim": 32,
            "gate_low_rank_dim": 64, "receptance_divisor": 8,
        },
        "7": {
            "head_dim": 64, "intermediate_size": 512, "value_dim": [128] * 3, "decay_low_rank_dim": 32,
            "a_low_rank_dim": 32, "v_low_rank_dim": 32, "gate_low_rank_dim": 64,
        },
    }  # fmt: skip
    assert {key: config.get(key) for key in (expected | own[generation])} == expected | own[generation]


def test_version_1_of_rwkv7_has_its_mixes_in_one_matrix(tmp_path: Path) -> None:
    checkpoints.save(small_model("7"), tmp_path / "fla", format="transformers")

    def fused(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        for layer in range(3):
            mixes = [tensors.pop(f"model.layers.{layer}.attn.x_{letter}").reshape(-1) for letter in "rwkvag"]
            tensors[f"model.layers.{layer}.attn.x_x"] = torch.stack(mixes)
        return tensors

    rewrite(tmp_path / "fla", fused)
    assert_same_weights(checkpoints.load(tmp_path / "fla").model, small_model("7"))
    rewrite(tmp_path / "fla", lambda tensors: tensors | {"model.layers.1.attn.x_x": torch.ones(5, 128)})
    with pytest.raises(CheckpointError, match=r"'model\.layers\.1\.attn\.x_x' cannot be \(5, 128\)"):
        checkpoints.load(tmp_path / "fla")


def test_the_group_norms_epsilon_of_rwkv6_is_kept_by_a_smaller_receptance(tmp_path: Path) -> None:
    model = small_model("6")
    tokens = torch.arange(40).unsqueeze(0)
    checkpoints.save(model, tmp_path / "fla", format="transformers")
    change_config(tmp_path / "fla", receptance_divisor=None)  # as fla, which does not know it, sees the model
    theirs = checkpoints.load(tmp_path / "fla").model
    assert theirs.config.group_norm_epsilon == 1e-5
    ours, scaled = official(model), official(theirs)
    assert torch.equal(scaled["blocks.1.att.receptance.weight"] * 8, ours["blocks.1.att.receptance.weight"])
    with torch.no_grad():
        logits, state = model(tokens)
        same, same_state = theirs(tokens)
        other = type(model)(replace(model.config, group_norm_epsilon=1e-5)).eval()
        other.load_state_dict(ours)
        different, _ = other(tokens)
    torch.testing.assert_close(same, logits, atol=2e-5, rtol=0)
    torch.testing.assert_close(same_state.wkv, state.wkv, atol=1e-4, rtol=1e-5)
    assert float((different - logits).abs().max()) > 1e-3  # without it the model would be another one


def test_a_config_of_the_program_itself_means_its_own_epsilon(folder: Path, generation: str) -> None:
    change_config(folder, receptance_divisor=None)
    epsilon = checkpoints.load(folder).model.config.group_norm_epsilon
    assert epsilon == (1e-5 if generation == "6" else 64e-5)
    assert checkpoints.load(folder, group_norm_epsilon=64e-5).model.config.group_norm_epsilon == 64e-5


@pytest.mark.parametrize("head_size", [8, 16, 32, 128])
def test_heads_of_other_sizes_have_the_epsilon_that_the_program_gives_them(
    tmp_path: Path, head_size: int
) -> None:
    model = small_model("7", head_size=head_size, group_norm_epsilon=head_size * 1e-5)
    checkpoints.save(model, tmp_path / "fla", format="transformers")
    assert checkpoints.load(tmp_path / "fla").model.config == model.config
    change_config(tmp_path / "fla", head_dim=None)  # the number of heads says it too
    assert checkpoints.load(tmp_path / "fla").model.config == model.config
    official_epsilon = small_model("7", head_size=head_size)
    with pytest.raises(ConfigError, match=rf"0\.00064, but for heads of {head_size} channels"):
        checkpoints.save(official_epsilon, tmp_path / "other", format="transformers")


@pytest.mark.parametrize(("epsilon", "divisor"), [(1e-5, 1), (4e-5, 2), (64e-5, 8), (256e-5, 16)])
def test_epsilons_that_differ_by_powers_of_four_can_be_written_for_rwkv6(
    tmp_path: Path, epsilon: float, divisor: int
) -> None:
    model = small_model("6", head_size=32, group_norm_epsilon=epsilon)
    checkpoints.save(model, tmp_path / "fla", format="transformers")
    assert json.loads((tmp_path / "fla" / "config.json").read_text())["receptance_divisor"] == divisor
    read_back = checkpoints.load(tmp_path / "fla").model
    assert read_back.config == model.config
    assert_same_weights(read_back, model)


@pytest.mark.parametrize(
    ("generation", "sizes", "message"),
    [
        ("6", {"group_norm_epsilon": 1e-6}, "1e-06, but .* power of four"),
        ("6", {"group_norm_epsilon": 2e-5}, "2e-05, but .* power of four"),
        ("7", {"group_norm_epsilon": 1e-5}, "1e-05, but for heads of 64 channels .* 0.00064"),
        ("7", {"num_layers": 1}, "num_layers is 1"),
    ],
)
def test_what_the_program_cannot_compute_is_not_written(
    tmp_path: Path, generation: str, sizes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        checkpoints.save(small_model(generation, **sizes), tmp_path / "fla", format="transformers")
    assert list(tmp_path.iterdir()) == []


def test_a_receptance_that_division_would_change_is_not_written(tmp_path: Path) -> None:
    model = small_model("6").cast_matrices(torch.float16)
    with torch.no_grad():
        model.get_parameter("blocks.1.att.receptance.weight")[0, 0] = 2.0**-23
    with pytest.raises(ConfigError, match=r"too small to be divided by 8 in torch\.float16"):
        checkpoints.save(model, tmp_path / "fla", format="transformers")
    assert list(tmp_path.iterdir()) == []
    checkpoints.save(model.cast_matrices(torch.bfloat16), tmp_path / "fla", format="transformers")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_eps": 1e-6}, "norm_eps is 1e-06"),
        ({"norm_first": False}, "norm_first is False"),
        ({"norm_bias": False}, "norm_bias is False"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu'"),
        ({"attn": {"layers": [1], "num_heads": 2}}, r"attn is \{'layers': \[1\]"),
        ({"vocab_size": 54}, "vocabulary_size = 54, but its tensors have 53"),
        ({"num_hidden_layers": 4}, "num_layers = 4, but its tensors have 3"),
        ({"intermediate_size": 100}, "feed_forward_size = 100, but"),
        ({"hidden_size": "128"}, "hidden_size is '128'|hidden_size = 128"),
        ({"gate_low_rank_dim": 7}, "_rank = 7, but its tensors have 64"),
        ({"model_type": "rwkv"}, "model_type is 'rwkv', but the weights do not have the names of transf"),
        ({"model_type": "rwkv6qwen2"}, "model of another kind with RWKV in the place of attention"),
        ({"model_type": "llama"}, r"is 'llama', but receptance reads 'rwkv', 'rwkv5', 'rwkv6', 'rwkv7'\.$"),
    ],
)  # fmt: skip
def test_a_config_that_asks_for_something_else_is_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    change_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load(folder)


@pytest.mark.parametrize(
    ("generation", "changes", "message"),
    [
        ("6", {"expand_k": 0.5}, "expand_k is 0.5"),
        ("6", {"expand_v": 2}, "expand_v is 2"),
        ("6", {"num_heads": 4}, "head_size = 32, but its tensors have 64"),
        ("6", {"proj_low_rank_dim": 16}, "mix_rank = 16, but its tensors have 32"),
        ("7", {"head_dim": 32}, "head_size = 32, but its tensors have 64"),
        ("7", {"v_low_rank_dim": 16}, "value_rank = 16, but its tensors have 32"),
    ],
    indirect=["generation"],
)
def test_a_generation_has_its_own_settings(folder: Path, changes: dict[str, Any], message: str) -> None:
    change_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load(folder)


def test_settings_that_change_no_function_are_free(folder: Path, generation: str) -> None:
    change_config(
        folder, attn_mode="fused_recurrent", fuse_norm=True, use_l2warp=True, num_heads=None, attn=None
    )
    assert_same_weights(checkpoints.load(folder).model, small_model(generation))


def test_the_two_generations_are_told_apart_by_their_names(tmp_path: Path) -> None:
    checkpoints.save(small_model("7"), tmp_path / "fla", format="transformers")
    change_config(tmp_path / "fla", model_type="rwkv6")
    with pytest.raises(CheckpointError, match="model_type is 'rwkv6', but the weights do not have the names"):
        checkpoints.load(tmp_path / "fla")


def test_tied_weights_become_two_parameters(folder: Path, generation: str) -> None:
    rewrite(folder, lambda tensors: {name: t for name, t in tensors.items() if name != "lm_head.weight"})
    with pytest.raises(CheckpointError, match=r"'lm_head\.weight' is missing"):
        checkpoints.load(folder)
    change_config(folder, tie_word_embeddings=True)
    model = checkpoints.load(folder).model
    assert torch.equal(model.head.weight, small_model(generation).emb.weight)
    assert model.head.weight.data_ptr() != model.emb.weight.data_ptr()


def test_weights_of_the_program_without_a_config_are_told_from_ours(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "model.pth")
    (folder / "config.json").unlink()
    for path in (folder, folder / "model.safetensors", folder / "model.pth"):
        with pytest.raises(CheckpointError, match=r"there is no config\.json"):
            checkpoints.load(path)


def test_context_length_and_bfloat16_are_kept(tmp_path: Path, generation: str) -> None:
    model = small_model(generation).cast_matrices(torch.bfloat16)
    checkpoints.save(model, tmp_path / "fla", metadata={"context_length": "4096"}, format="transformers")
    checkpoint = checkpoints.load(tmp_path / "fla")
    assert checkpoint.metadata == {"context_length": "4096"}
    assert_same_weights(checkpoint.model, model)
    config = json.loads((tmp_path / "fla" / "config.json").read_text())
    assert (config["context_length"], config["torch_dtype"]) == (4096, "bfloat16")


@settings(max_examples=20, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 4, 8, 16])),
    st.lists(st.integers(1, 9), min_size=6, max_size=6),
    st.sampled_from(["6", "7"]),
)
def test_every_size_comes_back_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, heads: tuple[int, int], numbers: list[int], generation: str
) -> None:
    (count, size), (vocabulary, wide, *ranks) = heads, numbers
    sizes = {
        "vocabulary_size": vocabulary,
        "num_layers": 2,
        "hidden_size": count * size,
        "head_size": size,
        "feed_forward_size": wide,
    }
    model: AnyModel
    if generation == "6":
        model = RWKV6(RWKV6Config(**sizes, mix_rank=ranks[0], decay_rank=ranks[1], group_norm_epsilon=64e-5))
    else:
        names = ("decay_rank", "in_context_rank", "value_rank", "gate_rank")
        given_ranks = dict(zip(names, ranks, strict=True))
        model = RWKV7(RWKV7Config(**sizes, **given_ranks, group_norm_epsilon=size * 1e-5))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    folder = tmp_path_factory.mktemp("folder") / "fla"
    huggingface.write(folder, from_module(model), max_part_bytes=2_000)
    read_back = checkpoints.load(folder).model
    assert read_back.config == model.config
    assert_same_weights(read_back, model)


@pytest.mark.parametrize("name", ["rwkv-6.0-3m-dequantQ5_1", "rwkv-7.0-834K"])
@pytest.mark.parametrize("format_name", ["transformers", "transformers-native"])
def test_trained_models_keep_their_bits_and_their_logits(
    tmp_path: Path, shared: Path, name: str, format_name: Any
) -> None:
    if format_name == "transformers-native" and "7.0" not in name:
        pytest.skip("only RWKV-7 is prepared for transformers")
    place = shared / "data" / "tiny-models"
    result = checkpoints.convert(place / f"{name}.safetensors", tmp_path / "folder", format=format_name)
    assert result.destination.format == format_name
    assert result.largest_difference == 0
    assert not result.unequal
    original = open_model(place / f"{name}.safetensors").weights
    for name_, weight in open_model(tmp_path / "folder").weights.items():
        assert weight.dtype == original[name_].dtype
        assert torch.equal(weight.read(), original[name_].read())
    reference = np.load(place / f"{name}.ref.npz")
    tokens = torch.from_numpy(reference["tokens"]).long().unsqueeze(0)
    with torch.no_grad():
        logits, _ = checkpoints.load(tmp_path / "folder", dtype=torch.float32).model(tokens)
    torch.testing.assert_close(logits[0], torch.from_numpy(reference["logits"]).float(), atol=3e-5, rtol=0)
