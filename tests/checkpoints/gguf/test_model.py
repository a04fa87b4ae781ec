"""RWKV-6 and 7 in GGUF: what llama.cpp demands is in the files, and what it and its tools write is read."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from receptance import checkpoints
from receptance.checkpoints import comparison, gguf, writers
from receptance.checkpoints.gguf import container
from receptance.checkpoints.gguf.container import Array
from receptance.checkpoints.load import open_model
from receptance.checkpoints.stored_model import StoredModel, from_module
from receptance.errors import CheckpointError, ConfigError, TokenizerError
from receptance.models import RWKV6, RWKV7, AnyModel, RWKV6Config, RWKV7Config
from receptance.tokenizers import load_tokenizer
from tests.checkpoints.files import assert_same_weights, random_model
from tests.checkpoints.gguf.gguf_bytes import array, gguf_file, number, text, value
from tests.checkpoints.gguf.test_layout import demands
from tests.models.examples import example
from tests.models.trained import assert_reads_as_expected

package = pytest.importorskip("gguf")

TINY = {"rwkv-6.0-3m-dequantQ5_1": 0.1, "rwkv-7.0-834K": 1e-5}  # and how far upstream's own logits are
QUANTISED = ("receptance", "key", "value", "output", "gate")


def wide(generation: str, **sizes: int) -> AnyModel:
    """Return a model whose rows are whole blocks, and in which every parameter matters."""
    common = {"vocabulary_size": 40, "num_layers": 3, "hidden_size": 64, "head_size": 64, **sizes}
    model: AnyModel = RWKV6(RWKV6Config(**common)) if generation == "6" else RWKV7(RWKV7Config(**common))
    generator = torch.Generator().manual_seed(0)
    model.initialise(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model.eval()


def small(generation: str, dtype: torch.dtype = torch.float32) -> AnyModel:
    """Return a model with a rank of its own for everything."""
    if generation == "6":
        return example("6", dtype)
    ranks = {"decay_rank": 3, "in_context_rank": 4, "value_rank": 5, "gate_rank": 6}
    return wide("7", vocabulary_size=29, **ranks).to(dtype)


def logits(model: StoredModel) -> Tensor:
    tokens = torch.arange(20).reshape(1, -1) * 7 % model.config.vocabulary_size
    return comparison.logits(model, tokens)


def written(path: Path, model: AnyModel, quantization: str | None = None) -> StoredModel:
    """Write a model and return what is read back."""
    writers.write(path, from_module(model), "gguf", quantization)
    return open_model(path)


Change = Callable[[str, np.ndarray, Any], Mapping[str, tuple[np.ndarray, Any]]]


def rewritten(
    source: Path, destination: Path, metadata: Mapping[str, Any] | None = None, change: Change | None = None
) -> Path:
    """Copy a file with the package, but for some metadata (None leaves them out) and tensors."""
    reader = package.GGUFReader(source)
    writer = package.GGUFWriter(destination, "")
    types = {int: package.GGUFValueType.UINT32, float: package.GGUFValueType.FLOAT32}
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and field.types[0] != package.GGUFValueType.ARRAY:
            writer.kv_data[0].pop(key, None)
            writer.add_key_value(key, field.contents(), field.types[0])
    for key, content in (metadata or {}).items():
        writer.kv_data[0].pop(key, None)
        if content is not None:
            kind = package.GGUFValueType.STRING if isinstance(content, str) else types[type(content)]
            writer.add_key_value(key, content, kind)
    for tensor in reader.tensors:
        new = change(tensor.name, tensor.data, tensor.tensor_type) if change else None
        for name, (data, kind) in (new or {tensor.name: (tensor.data, tensor.tensor_type)}).items():
            writer.add_tensor(name, data, raw_dtype=kind)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return destination


@pytest.mark.parametrize("generation", ["6", "7"])
def test_the_package_finds_what_the_loader_of_llama_cpp_demands(tmp_path: Path, generation: str) -> None:
    model = small(generation)
    checkpoints.save(model, tmp_path / "a.gguf", format="gguf")
    reader = package.GGUFReader(tmp_path / "a.gguf")
    assert {tensor.name: tuple(map(int, tensor.shape)) for tensor in reader.tensors} == demands(model.config)
    assert {tensor.tensor_type for tensor in reader.tensors} == {package.GGMLQuantizationType.F32}
    found = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    sizes = {
        "context_length": 1 << 20, "embedding_length": model.config.hidden_size, "block_count": 3,
        "attention.head_count": 0, "wkv.head_size": model.config.head_size, "token_shift_count": 2,
        "attention.layer_norm_epsilon": pytest.approx(1e-5),
        "feed_forward_length": model.config.feed_forward_size,
        **({"time_mix_extra_dim": 3, "time_decay_extra_dim": 5, "rescale_every_n_layers": 0}
        if generation == "6" else {
            "attention.decay_lora_rank": 3, "attention.iclr_lora_rank": 4,
            "attention.value_residual_mix_lora_rank": 5, "attention.gate_lora_rank": 6,
        }),
    }  # fmt: skip
    assert found == {
        "general.architecture": f"rwkv{generation}", "general.type": "model", "general.name": "a",
        "general.file_type": 0, "tokenizer.ggml.model": "rwkv",
        "tokenizer.ggml.tokens": ["<s>", *(f"[PAD{row}]" for row in range(1, 29))],
        "tokenizer.ggml.token_type": [3] + [5] * 28,
        "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 0,
        **{f"rwkv{generation}.{key}": content for key, content in sizes.items()},
    }  # fmt: skip


@pytest.mark.parametrize("name", TINY)
def test_the_tiny_models_keep_every_bit_and_every_logit(tmp_path: Path, shared: Path, name: str) -> None:
    source = shared / "data" / "tiny-models" / f"{name}.safetensors"
    result = checkpoints.convert(source, tmp_path / "model.gguf")
    assert (result.unequal, result.largest_difference) == ({}, 0)
    assert result.destination.dtype == result.source.dtype
    assert result.destination.tokenizer == "bytes"
    back = checkpoints.convert(tmp_path / "model.gguf", tmp_path / "back.gguf")
    metadata = {"general.name": "model"}
    assert (back.unequal, back.source.metadata, back.destination.metadata) == ({}, metadata, metadata)
    assert (tmp_path / "model.gguf").read_bytes() == (tmp_path / "back.gguf").read_bytes()
    model = checkpoints.load(tmp_path / "model.gguf", dtype=torch.float32).model
    assert_reads_as_expected(model, shared, name, first=TINY[name])


@settings(max_examples=20, deadline=None)
@given(
    generation=st.sampled_from(["6", "7"]),
    heads=st.integers(1, 2),
    ranks=st.tuples(*[st.integers(1, 9)] * 4),
    sizes=st.fixed_dictionaries(
        {
            "vocabulary_size": st.integers(2, 40),
            "num_layers": st.integers(1, 3),
            "head_size": st.integers(1, 9),
            "feed_forward_size": st.integers(1, 40),
        }
    ),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_any_sizes_come_back_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory,
    generation: str,
    heads: int,
    ranks: tuple[int, int, int, int],
    sizes: dict[str, int],
    dtype: torch.dtype,
) -> None:
    names = (
        ("mix_rank", "decay_rank")
        if generation == "6"
        else ("decay_rank", "in_context_rank", "value_rank", "gate_rank")
    )
    head_size = sizes["head_size"] if generation == "6" else 64
    sizes = (
        sizes
        | dict(zip(names, ranks, strict=False))
        | {"hidden_size": heads * head_size, "head_size": head_size}
    )
    model = wide(generation, **sizes).cast_matrices(dtype)
    path = tmp_path_factory.mktemp("sizes") / "a.gguf"
    checkpoints.save(model, path, format="gguf")
    loaded = checkpoints.load(path)
    assert loaded.model.config == model.config
    assert_same_weights(loaded.model, model)


@pytest.mark.parametrize("generation", ["6", "7"])
@pytest.mark.parametrize("quantization", ["q8_0", "q4_0"])
def test_large_matrices_alone_are_quantised_and_mean_what_the_package_makes_of_them(
    tmp_path: Path, generation: str, quantization: str
) -> None:
    model = wide(generation)
    found = written(tmp_path / "a.gguf", model, quantization)
    kinds = {
        tensor.name: tensor.tensor_type.name for tensor in package.GGUFReader(tmp_path / "a.gguf").tensors
    }
    assert kinds["output.weight"] == "Q8_0"
    assert kinds["token_embd.weight"] == quantization.upper()
    for name, weight in model.state_dict().items():
        is_large = name in ("emb.weight", "head.weight") or name.endswith(
            tuple(f".{part}.weight" for part in QUANTISED)
        )
        expected = weight
        if is_large:
            kind = package.GGMLQuantizationType[kinds[found.name_in_file(name)]]
            packed = package.quants.quantize(weight.numpy(), kind)
            expected = torch.from_numpy(package.quants.dequantize(packed, kind))
            assert float((expected - weight).abs().max()) < 0.1
        assert torch.equal(found.weights[name].read(), expected), name
    metadata = package.GGUFReader(tmp_path / "a.gguf").fields
    assert metadata["general.file_type"].contents() == {"q8_0": 7, "q4_0": 2}[quantization]
    assert metadata["general.quantization_version"].contents() == 2
    assert float((logits(found) - logits(from_module(model))).abs().max()) < 1


def test_rows_that_are_no_whole_blocks_stay_as_they_are(tmp_path: Path) -> None:
    model = wide("7", feed_forward_size=48).cast_matrices(torch.bfloat16)
    found = written(tmp_path / "a.gguf", model, "q4_0")
    kinds = {
        tensor.name: tensor.tensor_type.name for tensor in package.GGUFReader(tmp_path / "a.gguf").tensors
    }
    assert kinds["blk.1.channel_mix_value.weight"] == "BF16"
    assert kinds["blk.1.time_mix_key.weight"] == "Q4_0"
    assert torch.equal(
        found.weights["blocks.1.ffn.value.weight"].read(), model.state_dict()["blocks.1.ffn.value.weight"]
    )


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"])
def test_every_block_format_of_others_is_read(tmp_path: Path, kind: str) -> None:
    checkpoints.save(
        wide("7", hidden_size=256, head_size=64, num_layers=2), tmp_path / "a.gguf", format="gguf"
    )
    number_of_type = package.GGMLQuantizationType[kind]
    block_size, num_bytes = package.GGML_QUANT_SIZES[number_of_type]
    generator = np.random.default_rng(0)
    raw: dict[str, np.ndarray] = {}

    def quantised(name: str, data: np.ndarray, _: Any) -> dict[str, tuple[np.ndarray, Any]]:
        if not name.endswith("time_mix_key.weight"):
            return {}
        blocks = generator.integers(0, 256, (256, 256 // block_size, num_bytes), dtype=np.uint8)
        scales = (208, 210) if kind == "Q6_K" else (0, 4 if kind[-1] in "1K" else 2)
        blocks[..., slice(*scales)] = np.array([0x66, 0x12] * 2, np.uint8)[: scales[1] - scales[0]]  # small
        raw[name] = blocks.reshape(256, -1)
        return {name: (raw[name], number_of_type)}

    path = rewritten(tmp_path / "a.gguf", tmp_path / "b.gguf", change=quantised)
    found = open_model(path)
    for layer in range(2):
        weight = found.weights[f"blocks.{layer}.att.key.weight"]
        expected = package.quants.dequantize(raw[f"blk.{layer}.time_mix_key.weight"], number_of_type)
        assert torch.equal(weight.read(), torch.from_numpy(expected))
    assert found.dtype == torch.float32
    assert torch.isfinite(logits(found)).all()


@pytest.mark.parametrize("every", [1, 2])
def test_what_is_halved_on_the_way_is_made_whole(tmp_path: Path, every: int) -> None:
    model = small("6")
    checkpoints.save(model, tmp_path / "a.gguf", format="gguf")

    def divided(name: str, data: np.ndarray, kind: Any) -> dict[str, tuple[np.ndarray, Any]]:
        if not name.endswith(("time_mix_output.weight", "channel_mix_value.weight")):
            return {}
        return {name: (data / np.float32(2 ** (int(name.split(".")[1]) // every)), kind)}

    path = rewritten(
        tmp_path / "a.gguf", tmp_path / "b.gguf", {"rwkv6.rescale_every_n_layers": every}, divided
    )
    assert_same_weights(checkpoints.load(path).model, model)


@pytest.mark.parametrize(("generation", "letters"), [("6", "wkvrg"), ("7", "rwkvag")])
def test_old_files_with_the_mixes_one_by_one_are_read(tmp_path: Path, generation: str, letters: str) -> None:
    model = small(generation)
    checkpoints.save(model, tmp_path / "a.gguf", format="gguf")

    def separate(name: str, data: np.ndarray, kind: Any) -> dict[str, tuple[np.ndarray, Any]]:
        if not name.endswith("time_mix_lerp_fused.weight"):
            return {}
        return {
            name.replace("fused", letter): (np.ascontiguousarray(data[index].reshape(-1)), kind)
            for index, letter in enumerate(letters)
        }

    path = rewritten(tmp_path / "a.gguf", tmp_path / "b.gguf", change=separate)
    assert f"blk.2.time_mix_lerp_{letters[0]}.weight" in {t.name for t in package.GGUFReader(path).tensors}
    assert_same_weights(checkpoints.load(path).model, model)


def test_a_group_norm_epsilon_that_a_file_says_is_obeyed(tmp_path: Path) -> None:
    checkpoints.save(small("7"), tmp_path / "a.gguf", format="gguf")
    path = rewritten(tmp_path / "a.gguf", tmp_path / "b.gguf", {"rwkv7.attention.group_norm_epsilon": 1e-5})
    config = checkpoints.load(path).model.config
    assert isinstance(config, RWKV7Config)
    assert config.group_norm_epsilon == 1e-5


def test_name_and_licence_go_along_and_nothing_that_readers_rely_on(tmp_path: Path) -> None:
    metadata = {
        "general.name": "mine", "general.license": "apache-2.0", "note": "x",
        "general.alignment": "1", "general.architecture": "llama", "general.file_type": "9",
    }  # fmt: skip
    checkpoints.save(small("7"), tmp_path / "a.gguf", format="gguf", metadata=metadata)
    loaded = checkpoints.load(tmp_path / "a.gguf")
    assert loaded.metadata == {"general.name": "mine", "general.license": "apache-2.0"}


def test_a_model_of_world_carries_its_vocabulary(tmp_path: Path) -> None:
    try:
        world = load_tokenizer("world")
    except TokenizerError as error:
        pytest.skip(str(error))
    model = wide("7", vocabulary_size=65536, num_layers=1)
    checkpoints.save(model, tmp_path / "a.gguf", format="gguf")
    metadata = container.read(tmp_path / "a.gguf").metadata  # the package needs seconds for such a vocabulary
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    assert isinstance(tokens, Array)
    assert isinstance(types, Array)
    assert tokens.strings()[24281] == world.decode([24281]).encode() == b"User"
    assert struct.unpack("<6i", types.data[65526 * 4 : 65532 * 4]) == (1, 1, 1, 1, 5, 5)
    assert metadata["tokenizer.ggml.eot_token_id"] == 261
    assert "rwkv-world" in str(metadata["tokenizer.chat_template"])
    assert checkpoints.load(tmp_path / "a.gguf").tokenizer == "rwkv_vocab_v20230424"


def test_the_vocabulary_in_a_file_goes_along_where_no_other_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        world = load_tokenizer("world")
    except TokenizerError as error:
        pytest.skip(str(error))
    model = wide("7", vocabulary_size=65536, num_layers=1)
    checkpoints.save(model, tmp_path / "a.gguf", format="gguf")
    monkeypatch.setattr("receptance.tokenizers.load._PACKAGES", ())  # as if none of them were installed
    with pytest.raises(TokenizerError):
        load_tokenizer("world")
    (tmp_path / "new").mkdir()
    result = checkpoints.convert(tmp_path / "a.gguf", tmp_path / "new" / "a.safetensors")
    assert result.tokenizer_file == tmp_path / "new" / "rwkv_vocab_v20230424.txt"
    assert result.destination.tokenizer == "rwkv_vocab_v20230424"
    assert load_tokenizer(result.tokenizer_file).encode("你好") == world.encode("你好")


def test_the_chat_template_writes_what_world_models_were_trained_on(tmp_path: Path) -> None:
    jinja2 = pytest.importorskip("jinja2")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " hi\n"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye."},
    ]
    template = jinja2.Environment().from_string(gguf.CHAT_TEMPLATE)
    expected = "System: Be brief.\n\nUser: hi\n\nAssistant: Hello.\n\nUser: Bye.\n\nAssistant:"
    assert template.render(messages=messages, add_generation_prompt=True) == expected


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general.architecture": "llama"}, "holds 'llama', but receptance reads rwkv6 and rwkv7"),
        ({"general.architecture": "rwkv6qwen2"}, r"this is rwkv6qwen2, a Qwen 2 .*QRWKV"),
        ({"general.architecture": "arwkv7"}, r"this is arwkv7, a Qwen 2 .*ARWKV"),
        ({"general.architecture": "rwkv6"}, r"'rwkv6\.wkv\.head_size' is None"),
        ({"general.architecture": 7}, "holds '7'"),
        ({"general.type": "adapter"}, "holds no model, but 'adapter'"),
        ({"split.count": 3}, "one of several parts.*llama-gguf-split --merge"),
        ({"rwkv7.wkv.head_size": None}, r"'rwkv7\.wkv\.head_size' is None"),
        ({"rwkv7.wkv.head_size": 0}, r"'rwkv7\.wkv\.head_size' is 0"),
        ({"rwkv7.wkv.head_size": 2**32 - 1}, r"'rwkv7\.wkv\.head_size' is 4294967295"),
        ({"rwkv7.wkv.head_size": 4.0}, r"'rwkv7\.wkv\.head_size' is 4\.0"),
        ({"rwkv7.wkv.head_size": 3}, r"'blk\.0\.time_mix_r_k\.weight' cannot be \(64,\)"),
        ({"rwkv7.block_count": 4}, "num_layers = 4, but its tensors have 3"),
        ({"rwkv7.embedding_length": 65}, "hidden_size = 65, but its tensors have 64"),
        ({"rwkv7.embedding_length": "64"}, "hidden_size is '64', but it must be a finite int"),
        ({"rwkv7.feed_forward_length": 65}, "feed_forward_size = 65"),
        ({"rwkv7.attention.gate_lora_rank": 7}, "gate_rank = 7, but its tensors have 6"),
        ({"rwkv7.attention.group_norm_epsilon": float("nan")}, "group_norm_epsilon is nan"),
        ({"rwkv7.attention.layer_norm_epsilon": 1e-6}, r"layer_norm_epsilon' is 9\.9.*e-07, but .* is 1e-05"),
        ({"rwkv7.attention.layer_norm_epsilon": 1}, "layer_norm_epsilon' is 1, but"),
    ],
)
def test_metadata_that_cannot_be_are_refused(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    checkpoints.save(small("7"), tmp_path / "a.gguf", format="gguf")
    path = rewritten(tmp_path / "a.gguf", tmp_path / "b.gguf", metadata)
    with pytest.raises(CheckpointError, match=message) as refusal:
        checkpoints.load(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("every", ["2", 2.0])
def test_a_rescaling_that_is_no_number_is_refused(tmp_path: Path, every: object) -> None:
    checkpoints.save(small("6"), tmp_path / "a.gguf", format="gguf")
    path = rewritten(tmp_path / "a.gguf", tmp_path / "b.gguf", {"rwkv6.rescale_every_n_layers": every})
    with pytest.raises(CheckpointError, match="rescale_every_n_layers' is"):
        checkpoints.load(path)


def test_a_tensor_too_many_is_named_as_in_the_file(tmp_path: Path) -> None:
    checkpoints.save(small("7"), tmp_path / "a.gguf", format="gguf")

    def another(name: str, data: np.ndarray, kind: Any) -> dict[str, tuple[np.ndarray, Any]]:
        return {name: (data, kind), "blk.0.ffn_up.weight": (data, kind)} if name == "output.weight" else {}

    path = rewritten(tmp_path / "a.gguf", tmp_path / "b.gguf", change=another)
    with pytest.raises(CheckpointError, match=r"'blk\.0\.ffn_up\.weight' is no tensor of RWKV7"):
        checkpoints.load(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "holds 'None', but receptance reads rwkv6 and rwkv7"),
        ({"general.architecture": number(6)}, "holds '6'"),
        ({"general.architecture": array(8, ["rwkv7"])}, "an array of 1"),
        (
            {"general.architecture": text("rwkv7"), "rwkv7.wkv.head_size": value(7, True)},
            "head_size' is True",
        ),
        ({"general.architecture": text("rwkv7"), "rwkv7.wkv.head_size": array(4, [64])}, "an array of 1"),
        ({"general.architecture": text("rwkv7"), "rwkv7.wkv.head_size": number(64)}, "no RWKV model"),
        (
            {
                "general.architecture": text("rwkv7"),
                "rwkv7.wkv.head_size": number(64),
                "rwkv7.attention.layer_norm_epsilon": value(12, 1e300),
            },
            r"layer_norm_epsilon' is 1e\+300",
        ),
        ({"general.architecture": text("rwkv7"), "general.type": number(1)}, "holds no model, but '1'"),
    ],
)
def test_a_file_without_a_model_is_refused(tmp_path: Path, metadata: dict[str, bytes], message: str) -> None:
    (tmp_path / "a.gguf").write_bytes(gguf_file(metadata))
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load(tmp_path / "a.gguf")


def test_a_vocabulary_that_is_no_list_of_strings_is_no_vocabulary(tmp_path: Path) -> None:
    checkpoints.save(small("7"), tmp_path / "a.gguf", format="gguf")
    path = rewritten(tmp_path / "a.gguf", tmp_path / "b.gguf", {"tokenizer.ggml.tokens": "a"})
    assert checkpoints.load(path).tokenizer is None
    assert gguf.embedded_tokenizer(path) is None


@pytest.mark.parametrize("generation", ["4", "5.2"])
def test_generations_that_llama_cpp_lacks_are_refused(tmp_path: Path, generation: str) -> None:
    model = random_model() if generation == "4" else example(generation, torch.float32)
    with pytest.raises(ConfigError, match=rf"llama\.cpp has no RWKV-{generation[0]}, only RWKV-6 and 7"):
        checkpoints.save(model, tmp_path / "a.gguf", format="gguf")
    assert list(tmp_path.iterdir()) == []


def test_what_llama_cpp_would_compute_otherwise_is_refused(tmp_path: Path) -> None:
    stored = from_module(small("7"))
    unusual = replace(stored, config=replace(stored.config, group_norm_epsilon=1e-5))
    with pytest.raises(
        ConfigError, match=r"group_norm_epsilon is 1e-05, but llama\.cpp computes with 0\.00064"
    ):
        gguf.write(tmp_path / "a.gguf", unusual)
    with pytest.raises(ConfigError, match=r"head_size is 32, but llama\.cpp computes RWKV-7 in steps of 64"):
        gguf.write(tmp_path / "a.gguf", from_module(wide("7", head_size=32)))
    with pytest.raises(ConfigError, match="the matrices are in float64"):
        gguf.write(tmp_path / "a.gguf", from_module(small("7", torch.float64)))
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"pip install 'receptance\[gguf\]'"):
        gguf.write(tmp_path / "a.gguf", from_module(small("7")))


def test_a_weight_that_is_not_finite_leaves_nothing_behind(tmp_path: Path) -> None:
    model = small("7")
    with torch.no_grad():
        model.get_parameter("blocks.1.att.k_k")[3] = float("nan")
    with pytest.raises(CheckpointError, match=r"'blocks\.1\.att\.k_k' holds nan at \[3\]"):
        checkpoints.save(model, tmp_path / "a.gguf", format="gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_123_tensors_is_not_taken_for_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(gguf_file({}, num_tensors=ord("{")) + bytes(64))
    with pytest.raises(CheckpointError, match="GGUF"):
        checkpoints.load(path)
