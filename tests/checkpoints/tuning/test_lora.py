"""A merged adapter computes what the layers with the adapter beside them do; others are refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from receptance import checkpoints
from receptance.checkpoints import Tuning
from receptance.checkpoints.contents import Contents, Weight, weights
from receptance.checkpoints.stored_model import StoredModel
from receptance.checkpoints.tuning import lora
from receptance.errors import CheckpointError, ConfigError
from receptance.models import AnyModel, RWKV4Config
from tests.checkpoints.files import random_model, random_tokens
from tests.checkpoints.tuning.adapters import (
    ALPHA,
    RANK,
    adapted,
    linears,
    model_file,
    random_lora,
    random_miss,
    saved,
)
from tests.models.examples import example

GENERATIONS = ("4", "5.0", "5.2", "6", "7")
NAME = "blocks.1.ffn.key"


def load(path: Path, dtype: torch.dtype | None = None, **tuning: object) -> AnyModel:
    # A test may set any field.
    return checkpoints.load(path, dtype=dtype, tuning=Tuning(**tuning)).model  # type: ignore[arg-type]


@torch.no_grad()
def logits(model: AnyModel, tokens: Tensor) -> Tensor:
    found: Tensor = model(tokens)[0]
    return found


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("kind", ["LoRA", "MiSS"])
def test_the_merged_model_is_the_model_with_the_adapter_beside_it(
    tmp_path: Path, generation: str, kind: str
) -> None:
    model = example(generation, torch.float32)
    path, tokens = model_file(tmp_path / "model.safetensors", model), random_tokens(model, 20)
    if kind == "LoRA":
        tensors = random_lora(model)
        merged = load(path, lora=saved(tmp_path / "adapter.pth", tensors), lora_alpha=ALPHA)

        def change(name: str, x: Tensor) -> Tensor:
            return ALPHA / RANK * x @ tensors[f"{name}.lora_A"].T @ tensors[f"{name}.lora_B"].T
    else:
        tensors = random_miss(model)
        merged = load(path, lora=saved(tmp_path / "adapter.pth", tensors))

        def change(name: str, x: Tensor) -> Tensor:
            padded = torch.nn.functional.pad(x, (0, -x.shape[-1] % RANK))
            return padded.unflatten(-1, (-1, RANK)).sum(-2) @ tensors[f"{name}.disha"]

    before = logits(model, tokens)
    with adapted(model, change):
        expected = logits(model, tokens)
    assert float((expected - before).abs().max()) > 0.1
    assert float((logits(merged, tokens) - expected).abs().max()) <= 1e-5 * max(
        1, float(expected.abs().max())
    )


def one_weight(tensor: Tensor) -> StoredModel:
    """A model of which only one weight matters here."""
    return StoredModel(
        config=RWKV4Config(vocabulary_size=3, num_layers=1, hidden_size=4),
        weights={"head.weight": Weight.of(tensor)},
        path=Path("model"),
        format="test",
    )


def adapter_of(tensors: dict[str, Tensor], **metadata: str) -> Contents:
    return lora.in_our_spelling(
        Contents(path=Path("adapter"), format="pth", weights=weights(tensors), files=(), metadata=metadata)
    )


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


SIZE = st.integers(1, 9)
few = settings(deadline=None, max_examples=30)


@few
@given(rows=SIZE, columns=SIZE, rank=SIZE, alpha=st.floats(-64, 64), is_root=st.booleans())
def test_lora_adds_alpha_over_rank_times_the_product(
    rows: int, columns: int, rank: int, alpha: float, is_root: bool
) -> None:
    w, a, b = normal(0, rows, columns), normal(1, rank, columns), normal(2, rows, rank)
    adapter = adapter_of(
        {"head.lora_A": a, "head.lora_B": b}, lora_alpha=str(alpha), use_rslora=str(is_root).lower()
    )
    merged = lora.merged(one_weight(w), adapter).weights["head.weight"].read()
    factor = alpha / (math.sqrt(rank) if is_root else rank)
    expected = w + factor * torch.einsum("or,ri->oi", b, a)
    torch.testing.assert_close(merged, expected, rtol=1e-12, atol=1e-12)


@few
@given(rows=SIZE, columns=SIZE, rank=SIZE)
def test_miss_adds_its_matrix_to_every_block_of_columns(rows: int, columns: int, rank: int) -> None:
    w, d = normal(0, rows, columns), normal(1, rank, rows)
    merged = lora.merged(one_weight(w), adapter_of({"head.disha": d})).weights["head.weight"].read()
    expected = torch.tensor(
        [[w[o, i] + d[i % rank, o] for i in range(columns)] for o in range(rows)], dtype=torch.float64
    )
    assert torch.equal(merged, expected)


@few
@given(rows=SIZE, columns=SIZE, rank=SIZE)
def test_pissa_adds_what_was_learnt_since_it_began(rows: int, columns: int, rank: int) -> None:
    w, a, b, a0, b0 = (
        normal(seed, *shape)
        for seed, shape in enumerate([(rows, columns), *2 * [(rank, columns), (rows, rank)]])
    )
    start = adapter_of({"head.init_lora_A": a0, "head.init_lora_B": b0})
    learnt = adapter_of({"head.lora_A": a, "head.lora_B": b})
    merged = lora.merged(one_weight(w), learnt, start=start).weights["head.weight"].read()
    torch.testing.assert_close(merged, w + b @ a - b0 @ a0, rtol=1e-12, atol=1e-12)
    nothing = adapter_of({"head.lora_A": a0, "head.lora_B": b0})
    torch.testing.assert_close(
        lora.merged(one_weight(w), nothing, start=start).weights["head.weight"].read(),
        w,
        rtol=1e-12,
        atol=1e-12,
    )


def test_a_bfloat16_model_is_rounded_once(tmp_path: Path) -> None:
    model = example("7", torch.float32).cast_matrices(torch.bfloat16)
    path = model_file(tmp_path / "model.safetensors", model)
    tensors = random_lora(model, dtype=torch.bfloat16)
    file = saved(tmp_path / "adapter.pth", tensors)
    exact = {
        f"{name}.weight": linear.weight.double()
        + ALPHA / RANK * tensors[f"{name}.lora_B"].double() @ tensors[f"{name}.lora_A"].double()
        for name, linear in linears(model).items()
    }
    merged = load(path, lora=file, lora_alpha=ALPHA).state_dict()
    wide = load(path, torch.float32, lora=file, lora_alpha=ALPHA).state_dict()
    double = load(path, torch.float64, lora=file, lora_alpha=ALPHA).state_dict()
    for name, expected in exact.items():
        assert merged[name].dtype == torch.bfloat16
        assert torch.equal(merged[name], wide[name].bfloat16())
        torch.testing.assert_close(wide[name].double(), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(double[name], expected, rtol=1e-14, atol=1e-14)
    for name in merged.keys() - exact.keys():
        assert torch.equal(merged[name], model.state_dict()[name]), name


def respelled(tensors: dict[str, Tensor], spelling: str) -> dict[str, Tensor]:
    def spelled(name: str, tensor: Tensor) -> tuple[str, Tensor]:
        module, _, part = name.rpartition(".")
        match spelling:
            case "RWKV-PEFT":
                return name, tensor
            case "wrapped by a trainer":
                return f"_forward_module.{name}", tensor
            case "of the weight":
                return f"{module}.weight.{part}", tensor
            case _:  # web-rwkv
                return (f"{module}.lora.0", tensor.T) if part == "lora_A" else (f"{module}.lora.1", tensor)

    return dict(spelled(name, tensor.contiguous()) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("RWKV-PEFT", "adapter.safetensors"),
        ("wrapped by a trainer", "adapter.pth"),
        ("of the weight", "adapter.pth"),
        ("web-rwkv", "adapter.st"),
        ("web-rwkv", "adapter.safetensors"),
    ],
)
def test_every_spelling_says_the_same(tmp_path: Path, spelling: str, name: str) -> None:
    model = example("7", torch.float32)
    path = model_file(tmp_path / "model.safetensors", model)
    tensors = {key: tensor.contiguous() for key, tensor in respelled(random_lora(model), spelling).items()}
    if name.endswith("pth"):
        torch.save(tensors, tmp_path / name)
    else:
        save_file(tensors, tmp_path / name)
    merged = load(path, lora=tmp_path / name, lora_alpha=ALPHA).state_dict()
    plain = load(path, lora=saved(tmp_path / "plain.pth", random_lora(model)), lora_alpha=ALPHA).state_dict()
    for key, tensor in plain.items():
        assert torch.equal(merged[key], tensor), key


def test_whole_tensors_replace_those_of_the_model_and_a_tuned_state_starts_its_texts(tmp_path: Path) -> None:
    model = example("6", torch.float32)
    path = model_file(tmp_path / "model.safetensors", model)
    whole = {
        "blocks.0.att.time_maa_x": torch.randn(1, 1, 16),
        "blocks.2.ln1.bias": torch.randn(16).bfloat16(),
        "head.weight": torch.randn(29, 16),
        **{f"blocks.{layer}.att.time_state": torch.randn(4, 4, 4) for layer in range(3)},
    }
    tensors = random_lora(model)
    file = saved(tmp_path / "adapter.pth", tensors | whole)
    checkpoint = checkpoints.load(path, tuning=Tuning(lora=file, lora_alpha=ALPHA))
    merged = checkpoint.model.state_dict()
    assert torch.equal(merged["blocks.0.att.time_maa_x"], whole["blocks.0.att.time_maa_x"].flatten())
    assert torch.equal(merged["blocks.2.ln1.bias"], whole["blocks.2.ln1.bias"].float())
    # As RWKV-PEFT merges: the product goes on top of the tensor that was trained in full.
    product = ALPHA / RANK * tensors["head.lora_B"] @ tensors["head.lora_A"]
    torch.testing.assert_close(merged["head.weight"], whole["head.weight"] + product)
    assert checkpoint.initial_state is not None
    assert torch.equal(checkpoint.initial_state.wkv[1, 0], whole["blocks.1.att.time_state"].mT)


def test_nothing_says_what_alpha_is_so_it_must_be_given(tmp_path: Path) -> None:
    model = example("7", torch.float32)
    path = model_file(tmp_path / "model.safetensors", model)
    file = saved(tmp_path / "adapter.pth", random_lora(model))
    with pytest.raises(ConfigError, match=r"adapter\.pth: the file does not say what alpha is.*--lora-alpha"):
        load(path, lora=file)
    save_file(random_lora(model), tmp_path / "said.safetensors", {"lora_alpha": "6"})
    said = load(path, lora=tmp_path / "said.safetensors").state_dict()
    given_again = load(path, lora=tmp_path / "said.safetensors", lora_alpha=12.0).state_dict()
    name = f"{NAME}.weight"
    assert torch.equal(said[name], load(path, lora=file, lora_alpha=6.0).state_dict()[name])
    assert torch.equal(given_again[name], load(path, lora=file, lora_alpha=12.0).state_dict()[name])
    for nonsense in ("many", "nan", "inf"):
        save_file(random_lora(model), tmp_path / "wrong.safetensors", {"lora_alpha": nonsense})
        with pytest.raises(ConfigError, match=f"lora_alpha is '{nonsense}', but it must be a finite number"):
            load(path, lora=tmp_path / "wrong.safetensors")


Damage = Callable[[dict[str, Tensor]], object]
A, B = f"{NAME}.lora_A", f"{NAME}.lora_B"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda t: t.pop(B), rf"'{B}' is missing"),
        (lambda t: t.pop(A), rf"'{A}' is missing"),
        (lambda t: t.update({A: torch.zeros(3, 8)}), rf"'{A}' is of another model: it is for \(64, 8\)"),
        (lambda t: t.update({A: torch.zeros(4, 16)}), rf"'{B}' is \(64, 3\), but '{A}' is \(4, 16\)"),
        (lambda t: t.update({A: torch.zeros(16)}), rf"'{A}' is \(16,\), but it must have 2 axes"),
        (lambda t: t.update({A: torch.zeros(0, 16), B: torch.zeros(64, 0)}), rf"'{B}' is \(64, 0\)"),
        (lambda t: t.update({A: torch.zeros(3, 16, dtype=torch.int8)}), rf"'{A}' is of torch\.int8"),
        (lambda t: t[A][1, 2].fill_(torch.nan), rf"'{A}' holds nan at \[1, 2\]"),
        (lambda t: t[B][1, 2].fill_(torch.inf), rf"'{B}' holds inf at \[1, 2\]"),
        (lambda t: t[B].fill_(3e38), rf"the merged '{NAME}\.weight' holds"),
        (
            lambda t: t.update({f"blocks.7.{x}": t[f"blocks.1.{x}"] for x in (A[9:], B[9:])}),
            r"'blocks\.7\.ffn",
        ),
        (
            lambda t: t.update({"blocks.0.ln1.weight": torch.zeros(8)}),
            r"'blocks\.0\.ln1\.weight' is \(8,\), but",
        ),
        (
            lambda t: t.update({"blocks.0.ln9.weight": torch.zeros(16)}),
            r"'blocks\.0\.ln9\.weight' is no tensor",
        ),
        (lambda t: t.update({f"{NAME}.weight.lora_A": t[A]}), rf"'{NAME}\.weight\.lora_A' is there twice"),
        (lambda t: t.update({f"{NAME}.lora_magnitude_vector": torch.zeros(64)}), "is of DoRA"),
        (lambda t: t.update({"emb.lora_embedding_A": torch.zeros(3, 29)}), "is of LoRA of an embedding"),
        (lambda t: t.update({"head.bone": torch.zeros(2, 8, 8)}), "is of the first form of Bone"),
        (
            lambda t: t.update({"emb.disha": torch.zeros(2, 8, 8)}),
            r"'emb\.disha' is of the \"bat\" mode of DiSHA",
        ),
        (lambda t: t.update({"emb.disha": torch.zeros(3, 16)}), r"'emb\.disha' is of another model"),
        (lambda t: t.update({"emb.init_lora_A": torch.zeros(3, 16)}), r"'emb\.init_lora_A' is where a PiSSA"),
        (lambda t: [t.pop(name) for name in list(t) if "lora" in name], "this is no adapter"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_by_name(tmp_path: Path, damage: Damage, says: str) -> None:
    model = example("7", torch.float32)
    tensors = random_lora(model) | {"blocks.0.ln2.weight": torch.zeros(16)}
    damage(tensors)
    path = model_file(tmp_path / "model.safetensors", model)
    with pytest.raises(CheckpointError, match=f"(?s)adapter.pth.*{says}"):
        load(path, lora=saved(tmp_path / "adapter.pth", tensors), lora_alpha=ALPHA)


def test_alpha_is_of_lora_alone_and_pissa_needs_its_beginning(tmp_path: Path) -> None:
    model = example("7", torch.float32)
    path = model_file(tmp_path / "model.safetensors", model)
    miss = saved(tmp_path / "miss.pth", random_miss(model))
    learnt = saved(tmp_path / "learnt.pth", random_lora(model))
    began = {name.replace("lora", "init_lora"): tensor for name, tensor in random_lora(model, seed=6).items()}
    start = saved(tmp_path / "init_pissa.pth", began)
    with pytest.raises(ConfigError, match=r"lora_alpha is 6\.0, but only LoRA has one"):
        load(path, lora=miss, lora_alpha=6.0)
    with pytest.raises(ConfigError, match=r"lora_alpha is 6\.0, but only LoRA has one"):
        load(path, lora=learnt, lora_alpha=6.0, pissa_init=start)
    with pytest.raises(CheckpointError, match=r"init_pissa\.pth: .* is where a PiSSA adapter began"):
        load(path, lora=start, lora_alpha=6.0)
    with pytest.raises(CheckpointError, match=r"learnt\.pth: .* pissa_init must say where that began"):
        load(path, lora=learnt, pissa_init=learnt)
    fewer = saved(tmp_path / "fewer.pth", {name: began[name] for name in list(began)[2:]})
    with pytest.raises(CheckpointError, match=r"fewer\.pth: '.*init_lora_A' is missing"):
        load(path, lora=learnt, pissa_init=fewer)


def test_opening_reads_nothing_and_no_file_changes(tmp_path: Path) -> None:
    model = random_model()
    path = model_file(tmp_path / "model.safetensors", model)
    tensors = random_lora(model)
    tensors["head.lora_A"][0, 0] = torch.nan
    file = saved(tmp_path / "adapter.pth", tensors)
    before = [file.read_bytes() for file in (path, file)]
    stored = Tuning(lora=file, lora_alpha=ALPHA).applied(checkpoints.open_model(path))
    with pytest.raises(CheckpointError, match=r"adapter\.pth: 'head\.lora_A' holds nan"):
        stored.weights["head.weight"].read()
    name = "blocks.0.att.key.weight"
    merged = stored.weights[name].read()
    assert not torch.equal(merged, model.state_dict()[name])
    merged.zero_()
    assert torch.count_nonzero(stored.weights[name].read())
    assert [file.read_bytes() for file in (path, file)] == before


def test_an_adapter_alone_is_no_model(tmp_path: Path) -> None:
    for tensors in (random_lora(random_model()), random_miss(random_model())):
        with pytest.raises(
            CheckpointError, match=r"this is a LoRA adapter or the like, not a whole model.*--lora"
        ):
            checkpoints.load(saved(tmp_path / "adapter.pth", tensors))
