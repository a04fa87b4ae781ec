from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from receptance import checkpoints
from receptance.errors import ConfigError
from receptance.inference import Loaded, load, quantizing
from receptance.inference.quality_plot import plot_quality
from receptance.quantization.packed import PackedMatrix
from tests.models.examples import example


@pytest.fixture
def lm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    monkeypatch.setattr(quantizing, "_WINDOWS_TO_FIT", 4)
    monkeypatch.setattr(quantizing, "_WINDOWS_TO_MEASURE", 2)
    monkeypatch.setattr(quantizing, "_WINDOW", 64)
    checkpoints.save(example("6", torch.float32), tmp_path / "a.safetensors")
    return load(tmp_path / "a.safetensors", runtime="auto")


def test_what_is_measured_is_not_fitted_to(shared: Path) -> None:
    lm = load(shared / "data/tiny-models/rwkv-4.0-660K.safetensors", runtime="auto")
    text = "".join(chr(65 + number // 256) for number in range(256 * 20))  # a letter a window
    texts = quantizing.texts_of(lm, text)
    assert (texts.fitted.shape, texts.measured.shape) == ((18, 256), (2, 256))
    assert texts.fitted[:, 0].tolist() == list(range(65, 83))
    assert texts.measured[:, 0].tolist() == [83, 84]
    long = quantizing.texts_of(lm, text * 40)
    assert (long.fitted.shape, long.measured.shape) == ((64, 256), (16, 256))
    with pytest.raises(ConfigError, match="has 511 tokens, but at least 512 are needed"):
        quantizing.texts_of(lm, "a" * 511)


def test_a_model_writes_its_own_text_the_same_every_time(lm: Loaded) -> None:
    texts, again = quantizing.texts_of(lm, None), quantizing.texts_of(lm, None)
    assert texts.fitted.shape == (4, 64)
    assert torch.equal(texts.fitted, again.fitted)
    assert not torch.equal(texts.fitted[:2], texts.measured)
    with torch.no_grad():
        logits = lm.model(texts.fitted)[0]
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), texts.fitted[:, 1:].flatten())
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
    assert float(loss) == pytest.approx(float(entropy), rel=0.15)  # drawn as the model finds it likely


def test_presets_give_formats_and_a_report(lm: Loaded, tmp_path: Path) -> None:
    texts = quantizing.texts_of(lm, None)
    nearest = quantizing.rounded(lm, "int4", texts, to_nearest=True)
    weight = lm.model.head.weight.detach()
    assert torch.equal(
        nearest.rounding("head.weight", weight, "int4").data, PackedMatrix.pack(weight, "int4").data
    )
    mixed = quantizing.rounded(lm, "mixed", texts, bits=6.0)
    assert set(mixed.formats.values()) == {"int4", "int8"}
    embedding = lm.model.emb.weight.detach()  # multiplies nothing, so there is nothing to fit it to
    assert torch.equal(
        mixed.rounding("emb.weight", embedding, "int8").data, PackedMatrix.pack(embedding, "int8").data
    )
    found = quantizing.compared(lm, mixed, texts)
    result = checkpoints.quantize(
        lm.checkpoint, tmp_path / "b.safetensors", mixed.formats, rounding=mixed.rounding
    )
    written = load(tmp_path / "b.safetensors", runtime="auto")
    with torch.inference_mode():
        assert torch.equal(written(texts.measured)[0], mixed.runtime(texts.measured)[0])
    report = quantizing.as_report(lm, mixed, found, texts, result.destination)
    assert json.loads(json.dumps(report)) == report
    assert [layer["name"] for layer in report["layers"]] == ["0", "1", "2", "head"]  # type: ignore[attr-defined]
    matrix = report["layers"][1]["matrices"]["att.key"]  # type: ignore[index]
    assert matrix["format"] == mixed.formats["blocks.1.att.key.weight"]
    assert matrix["divergence_alone"]["int4"] > matrix["divergence_alone"]["int8"] > 0
    for name, begin in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml")):
        plot_quality(report, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(begin)
