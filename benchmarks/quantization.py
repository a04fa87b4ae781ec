"""What few bits cost: `python -m benchmarks.quantization TEXT MODEL... [--output FILE]`.

Every model is rounded in each way, the rounding fitted to the beginning of the text, and compared with
itself in full over the rest: perplexity, divergence (KL in nats a token), the share of next tokens that stay
the most likely ones, and of 200 greedy tokens those before the two part. Then formats that the package does
not have are tried in torch alone: groups of 64 columns, and integers with an offset (asymmetric).
"""

from __future__ import annotations

import argparse
import copy
import platform
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.report import add_numbers, add_output, line, publish
from receptance.inference import Loaded, load
from receptance.inference.machine import processor
from receptance.inference.quality import agreement
from receptance.inference.quantizing import Texts, compared, rounded

WINDOW = 256
WAYS = {
    "int8, nearest": {"preset": "int8", "to_nearest": True},
    "int4, nearest": {"preset": "int4", "to_nearest": True},
    "int4, fitted": {"preset": "int4"},
    "mixed of 5 bits, fitted": {"preset": "mixed", "bits": 5.0},
    "mixed of 6.5 bits, fitted": {"preset": "mixed", "bits": 6.5},
}


def rows(name: str, lm: Loaded, texts: Texts) -> Iterator[str]:
    """Yield a line for the full model and for each way of rounding it."""
    sizes = {f"{n}.weight": p.weight.numel() for n, p in lm.model.named_modules() if isinstance(p, nn.Linear)}
    full = agreement(lm.runtime, lm.runtime, texts.measured)
    yield line(f"{name}: as it is", "", f"{full.perplexity[0]:.4f}", "", "", "")
    for way, choices in WAYS.items():
        result = rounded(lm, texts=texts, **choices)
        found = compared(lm, result, texts)
        bits = {"int8": 8.5, "int4": 4.5}
        sizes = {
            f"{n}.weight": p.weight.numel() for n, p in lm.model.named_modules() if isinstance(p, nn.Linear)
        }
        mean = sum(bits[result.formats[key]] * size for key, size in sizes.items()) / sum(sizes.values())
        yield line(
            f"{name}: {way}",
            f"{mean:.2f}",
            f"{found.perplexity[1]:.4f}",
            f"{found.divergence:.5f}",
            f"{found.same_choice:.1%}",
            f"{found.greedy_tokens:.0f}",
        )


def moments_of(model: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    """Return the second moments of the inputs of each matrix."""
    sums: dict[str, Tensor] = {}

    def add(name: str, x: Tensor) -> None:
        x = x.flatten(0, 1).double()
        sums[name] = sums.get(name, 0) + x.T @ x

    linears = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    handles = [
        part.register_forward_pre_hook(lambda _, x, name=name: add(name, x[0]))
        for name, part in linears.items()
    ]
    with torch.no_grad():
        for part in tokens.split(8):
            model(part)
    for handle in handles:
        handle.remove()
    return sums


def tried(matrix: Tensor, moments: Tensor, group: int, asymmetric: bool) -> Tensor:
    """Return a matrix rounded by GPTQ to 16 steps in groups, with bfloat16 scales; an offset is an integer.

    As many scales are tried in each group as there are shares of its range, and the best is kept.
    """
    damped = moments + 0.01 * moments.diagonal().mean() * torch.eye(len(moments), dtype=moments.dtype)
    root = torch.linalg.cholesky(damped.flip(0, 1)).flip(0, 1)
    inverse = torch.linalg.solve_triangular(root, torch.eye(len(root), dtype=root.dtype), upper=True).float()
    left, result = matrix.clone(), torch.empty_like(matrix)
    for begin in range(0, matrix.shape[1], group):
        columns = slice(begin, min(begin + group, matrix.shape[1]))
        best: tuple[Tensor, Tensor] | None = None
        for share in (1.0, 0.92, 0.85, 0.78):
            scale, offset = grid(left[:, columns] * share, asymmetric)
            numbers, errors = in_order(left[:, columns], inverse[columns, columns], scale, offset)
            if best is None:
                best = numbers, errors
            better = (errors.square().sum(1) < best[1].square().sum(1))[:, None]
            best = torch.where(better, numbers, best[0]), torch.where(better, errors, best[1])
        assert best is not None
        result[:, columns] = best[0]
        left[:, columns.stop :] -= best[1] @ inverse[columns, columns.stop :]
    return result


def grid(weights: Tensor, asymmetric: bool) -> tuple[Tensor, Tensor]:
    """Return scales and offsets [row, 1] of integers from 0 to 15."""
    if asymmetric:
        low, high = weights.amin(1, keepdim=True).clamp(max=0), weights.amax(1, keepdim=True).clamp(min=0)
        scale = ((high - low) / 15).clamp(min=1e-12).bfloat16().float()
        return scale, (-low / scale).round_().clamp_(0, 15)
    largest = weights.gather(1, weights.abs().argmax(1, keepdim=True))
    scale = (largest / -8).bfloat16().float()
    return torch.where(scale == 0, 1e-12, scale), torch.full_like(scale, 8)


def in_order(weights: Tensor, inverse: Tensor, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rounded numbers of a group, and the errors that the columns after it make up for."""
    left, numbers, errors = weights.clone(), torch.empty_like(weights), torch.empty_like(weights)
    for j in range(weights.shape[1]):
        column = left[:, j : j + 1]
        value = ((column / scale + offset).round_().clamp_(0, 15) - offset) * scale
        numbers[:, j : j + 1] = value
        error = (column - value) / inverse[j, j]
        errors[:, j : j + 1] = error
        left[:, j + 1 :] -= error * inverse[j, j + 1 :]
    return numbers, errors


def formats_table(models: dict[str, Loaded], texts: dict[str, Texts]) -> Iterator[str]:
    """Yield what groups of 64 and offsets would bring, all rounded by the same plain GPTQ."""
    yield ""
    yield "## Other int4 formats, in torch alone"
    yield ""
    yield (
        "All by the same plain GPTQ for the full model's inputs, so only the lines of one model compare. An "
        "offset takes 4 bits a group."
    )
    yield ""
    yield line("", "bits", "divergence", "same choice")
    yield "|---|---:|---:|---:|"
    for name, lm in models.items():
        moments = moments_of(lm.model, texts[name].fitted)
        for group in (32, 64):
            for asymmetric in (False, True):
                model = copy.deepcopy(lm.model)
                for key, part in model.named_modules():
                    if isinstance(part, nn.Linear):
                        part.weight.data = tried(part.weight.data, moments[key], group, asymmetric)
                found = agreement(lm.model, model, texts[name].measured)
                kind = "asymmetric" if asymmetric else "symmetric"
                bits = 4 + (20 if asymmetric else 16) / group
                cells = f"{bits:.3g}", f"{found.divergence:.5f}", f"{found.same_choice:.1%}"
                yield line(f"{name}: groups of {group}, {kind}", *cells)


def report(arguments: argparse.Namespace) -> Iterator[str]:
    torch.set_num_threads(arguments.threads)
    names = " ".join(path.name for path in arguments.models)
    yield f"`python -m benchmarks.quantization {arguments.text.name} {names}`"
    yield ""
    yield (
        f"{processor()}; Python {platform.python_version()}, torch {torch.__version__}. Fitted to "
        f"{arguments.windows} windows of {WINDOW} tokens, measured over {arguments.measured} others."
    )
    yield ""
    yield line("", "bits", "perplexity", "divergence", "same choice", "greedy of 200")
    yield "|---|---:|---:|---:|---:|---:|"
    text = arguments.text.read_text(encoding="utf-8")
    models, texts = {}, {}
    for path in arguments.models:
        lm = load(path, dtype=torch.float32, runtime="auto")
        count = arguments.windows + arguments.measured
        tokens = torch.tensor(lm.tokenizer.encode(text)[: count * WINDOW]).view(-1, WINDOW)
        models[path.name] = lm
        texts[path.name] = Texts(tokens[: arguments.windows], tokens[arguments.windows :])
        yield from rows(path.name, lm, texts[path.name])
    yield from formats_table(models, texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("text", type=Path, help="a text file")
    parser.add_argument("models", type=Path, nargs="+", help="checkpoints with a tokenizer")
    add_numbers(parser, {"windows": 32, "measured": 16})
    add_output(parser)
    arguments = parser.parse_args()
    publish("What few bits cost", report(arguments), arguments.output)


if __name__ == "__main__":
    main()
