"""Adapters: narrow matrices that were trained beside frozen weights W `[out, in]`, and how W takes them in.

    LoRA   W + alpha / r * B A     A [r, in]   B [out, r]                        (arxiv.org/abs/2106.09685)
    PiSSA  W + B A - B0 A0         A0, B0: where A and B began, taken out of W   (arxiv.org/abs/2404.02948)
    MiSS   W + [D^T D^T ...]       D [r, out], repeated over the columns; or DiSHA (arxiv.org/abs/2409.15371)

The names are those of RWKV-PEFT: `blocks.0.att.key.lora_A` belongs to `blocks.0.att.key.weight`. Such a file
may hold whole tensors too, which were trained in full and replace those of the model, or a tuned state.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from receptance.checkpoints.contents import Contents, Weight
from receptance.checkpoints.generations import GENERATIONS
from receptance.checkpoints.names import tuned_state_shapes
from receptance.checkpoints.stored_model import StoredModel, cast_weight
from receptance.errors import CheckpointError, ConfigError

ALPHA = "lora_alpha"  # keys of the metadata
RANK_STABILISED = "use_rslora"  # "true": divide by the root of the rank (arxiv.org/abs/2312.03732)

# Dots match line breaks too, so that no name takes long.
_PART = re.compile(r"(?P<module>.+)\.(?P<role>lora_A|lora_B|init_lora_A|init_lora_B|disha)", re.DOTALL)
# As others spell it: weights that are wrapped themselves, PEFT, and web-rwkv, which transposes the first.
_SPELLING = re.compile(
    r"(?P<module>.+?)(\.weight)?\."
    r"(?P<role>(init_)?lora_[AB](?=(\.default)?(\.weight)?$)|disha$|miss_block$|lora\.[01]$)",
    re.DOTALL,
)
_ROLES = {"miss_block": "disha", "lora.0": "lora_A", "lora.1": "lora_B"}
_REFUSED = {
    "DoRA": re.compile(r"\.lora_magnitude_vector\b"),
    "LoRA of an embedding": re.compile(r"\.lora_embedding_[AB]\b"),
    "the first form of Bone": re.compile(r"\.bone(_block)?$"),
}


def is_adapter(contents: Contents) -> bool:
    """Say whether a file holds parts of an adapter, in whichever spelling."""
    return any(
        _SPELLING.match(name) or any(pattern.search(name) for pattern in _REFUSED.values())
        for name in contents.weights
    )


def in_our_spelling(contents: Contents) -> Contents:
    """Return an adapter under the names and in the shapes of RWKV-PEFT.

    Raises CheckpointError, naming the tensor, when it is no adapter or one of a kind that is not known here.
    """
    named: dict[str, Weight] = {}
    in_file: dict[str, str] = {}
    for name, weight in contents.weights.items():
        for kind, pattern in _REFUSED.items():
            if pattern.search(name):
                raise contents.wrong(name, f"is of {kind}; receptance merges LoRA, PiSSA and MiSS (DiSHA).")
        match = _SPELLING.match(name)
        ours = f"{match['module']}.{_ROLES.get(match['role'], match['role'])}" if match else name
        if ours in named:
            raise contents.wrong(name, f"is there twice, as {contents.shown(in_file[ours])} too.")
        named[ours] = weight.map(_transposed) if name.endswith(".lora.0") else weight
        in_file[ours] = name
    if not any(_PART.fullmatch(name) for name in named):
        raise CheckpointError(
            f"{contents.path}: this is no adapter: it holds no tensors such as 'blocks.0.att.key.lora_A'."
        )
    return replace(
        contents, weights=named, name_in_file=lambda name: contents.name_in_file(in_file.get(name, name))
    )


def alpha_of(adapter: Contents, given: float | None = None) -> int | float:
    """Return the alpha that was given, or else that of the file; raises ConfigError where nothing says it."""
    claimed = adapter.metadata.get(ALPHA) if given is None else str(given)
    if claimed is None:
        raise ConfigError(
            f"{adapter.path}: the file does not say what alpha is, and the weights depend on it. Give the "
            "lora_alpha (--lora-alpha) of its training."
        )
    try:
        alpha = float(claimed)
    except ValueError:
        alpha = math.nan
    if not math.isfinite(alpha):
        raise ConfigError(f"{adapter.path}: lora_alpha is {claimed[:80]!r}, but it must be a finite number.")
    return int(alpha) if alpha.is_integer() else alpha


def merged(
    model: StoredModel,
    adapter: Contents,
    *,
    alpha: float | None = None,
    start: Contents | None = None,
    dtype: torch.dtype | None = None,
) -> StoredModel:
    """Return the model with an adapter in its weights, each computed when it is read; no file changes.

    alpha  of a LoRA; None takes that of the adapter's metadata
    start  where a PiSSA adapter began
    dtype  number format of the weights that change; None keeps theirs. They are rounded once, from float32

    Raises CheckpointError, naming the tensor, when the adapter is of another model; ConfigError when nothing
    says what alpha is.
    """
    modules = _modules(adapter, start)
    factor = _factor(adapter, alpha, is_pissa=start is not None)
    whole, tuned_state = _whole_tensors(model, adapter)
    changed = dict(whole)
    for module in modules:
        name = next((name for name in (f"{module}.weight", module) if name in model.weights), None)
        if name is None:
            raise CheckpointError(
                f"{adapter.path}: it is of another model: it changes {adapter.shown(module)}, unknown to "
                f"{model.config}."
            )
        base, target = whole.get(name, model.weights[name]), dtype or model.weights[name].dtype
        wide = torch.promote_types(torch.promote_types(base.dtype, target), torch.float32)
        total = _sum(base, _terms(adapter, start, module, base.shape, factor), wide)
        place = f"{adapter.path}: the merged {name!r}"
        changed[name] = cast_weight(total.finite(place), target, place)
    return replace(
        model,
        weights={name: changed.get(name, weight) for name, weight in model.weights.items()},
        tuned_state=tuned_state or model.tuned_state,
        files=(*model.files, *adapter.files, *(() if start is None else start.files)),
    )


@dataclass(frozen=True)
class _Product:
    """A narrow matrix times another, times a factor."""

    a: Weight  # [rank, in]
    b: Weight  # [out, rank]
    factor: float

    def added(self, weight: Tensor) -> Tensor:
        a, b = (part.read().to(weight.dtype) for part in (self.a, self.b))
        return torch.addmm(weight, b, a, alpha=self.factor)


@dataclass(frozen=True)
class _Repetition:
    """A narrow matrix beside itself, as often as the weight is wide."""

    d: Weight  # [rank, out]

    def added(self, weight: Tensor) -> Tensor:
        d, columns = self.d.read().to(weight.dtype), weight.shape[1]
        return weight + d.mT.repeat(1, math.ceil(columns / len(d)))[:, :columns]


_Term = _Product | _Repetition


def _sum(base: Weight, terms: Iterable[_Term], dtype: torch.dtype) -> Weight:
    def read() -> Tensor:
        total = base.read().to(dtype)
        for term in terms:
            total = term.added(total)
        return total

    return Weight(base.shape, dtype, read)


def _factor(adapter: Contents, alpha: float | None, *, is_pissa: bool) -> Callable[[int], float]:
    """Return what the product of two matrices of a rank is multiplied by."""
    if is_pissa or not any(name.endswith(".lora_A") for name in adapter.weights):
        if alpha is not None:
            raise ConfigError(f"{adapter.path}: lora_alpha is {alpha}, but only LoRA has one.")
        return lambda rank: 1.0
    numerator = alpha_of(adapter, alpha)
    if adapter.metadata.get(RANK_STABILISED) == "true":
        return lambda rank: numerator / math.sqrt(rank)
    return lambda rank: numerator / rank


def _modules(adapter: Contents, start: Contents | None) -> dict[str, None]:
    """Return the modules that an adapter changes, in the order of the files."""
    modules: dict[str, None] = {}
    for contents in (adapter,) if start is None else (adapter, start):
        for name in contents.weights:
            match = _PART.fullmatch(name)
            if match is None:
                continue
            if contents is adapter and match["role"].startswith("init_"):
                raise contents.wrong(name, "is where a PiSSA adapter began. Give this file as pissa_init.")
            if contents is start and not match["role"].startswith("init_"):
                raise contents.wrong(name, "is trained, but pissa_init must say where that began.")
            modules[match["module"]] = None
    return modules


def _terms(
    adapter: Contents,
    start: Contents | None,
    module: str,
    shape: tuple[int, ...],
    factor: Callable[[int], float],
) -> list[_Term]:
    """Return what an adapter adds to a weight of this shape."""
    terms: list[_Term] = []
    if f"{module}.disha" in adapter.weights:
        terms.append(_repetition(adapter, f"{module}.disha", shape))
    if start is not None or not terms or {f"{module}.lora_A", f"{module}.lora_B"} & adapter.weights.keys():
        terms.append(_product(adapter, f"{module}.lora", shape, factor))
    if start is not None:
        terms.append(_product(start, f"{module}.init_lora", shape, lambda rank: -1.0))
    return terms


def _product(
    contents: Contents, names: str, shape: tuple[int, ...], factor: Callable[[int], float]
) -> _Product:
    a, b = f"{names}_A", f"{names}_B"
    (rank, columns), (rows, inner) = contents.shape(a, 2), contents.shape(b, 2)
    if rank != inner or rank == 0:
        raise contents.wrong(b, f"is {(rows, inner)}, but {contents.shown(a)} is {(rank, columns)}.")
    if (rows, columns) != shape:
        raise contents.wrong(
            a, f"is of another model: it is for {(rows, columns)}, but the weight is {shape}."
        )
    return _Product(contents.checked(a), contents.checked(b), factor(rank))


def _repetition(contents: Contents, name: str, shape: tuple[int, ...]) -> _Repetition:
    if len(contents.weights[name].shape) == 3:
        raise contents.wrong(name, 'is of the "bat" mode of DiSHA; receptance merges the "bone" mode.')
    rank, rows = contents.shape(name, 2)
    if rank == 0 or (rows, *shape[1:]) != shape or len(shape) != 2:
        raise contents.wrong(name, f"is of another model: it is {(rank, rows)}, but the weight is {shape}.")
    return _Repetition(contents.checked(name))


def _whole_tensors(model: StoredModel, adapter: Contents) -> tuple[dict[str, Weight], dict[str, Weight]]:
    """Return the tensors of an adapter that replace some of the model, and its tuned state if it has one."""
    rest = {name: weight for name, weight in adapter.weights.items() if not _PART.fullmatch(name)}
    own = {name: model.weights[name].shape for name in rest if name in model.weights}
    state = tuned_state_shapes(model.config)
    state = state if rest.keys() & state else {}
    unused = GENERATIONS[model.config.generation].unused
    found = replace(adapter, weights=rest).take(
        own | state, f"RWKV-{model.config.generation}", model.config, unused=unused
    )
    return {name: found[name] for name in own}, {name: found[name] for name in state}


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.mT if tensor.ndim >= 2 else tensor
