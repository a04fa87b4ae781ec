"""A model as it lies in a file: checked, but not in memory.

It stands between the readers, which trust nothing, and whoever wants the model: `load` makes a module of it,
a writer puts it into another file, weight by weight.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from receptance.checkpoints.contents import Contents, Weight, weights
from receptance.checkpoints.generations import GENERATIONS, Generation
from receptance.checkpoints.names import is_wide, tuned_state_shapes, wrapper_prefix
from receptance.errors import CheckpointError
from receptance.models import AnyModel, Config
from receptance.quantization.packed import Format


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """A config, and the weights of its module by name, in shape and order.

    Reading a weight raises CheckpointError where a value in it is not finite.
    """

    config: Config
    weights: Mapping[str, Weight]
    path: Path  # of the file or folder
    format: str
    tuned_state: Mapping[str, Weight] = field(default_factory=dict)  # by official name; most have none
    files: tuple[Path, ...] = ()  # where the weights lie
    tokenizer: str | None = None  # its name, where the file gives one
    metadata: dict[str, str] = field(default_factory=dict)
    name_in_file: Callable[[str], str] = str  # our name of a weight -> the one to show

    @property
    def tensors(self) -> Mapping[str, Weight]:
        """All that a file of the model holds: the weights, and the tuned state if there is one."""
        return {**self.weights, **self.tuned_state}

    def empty(self) -> AnyModel:
        """Return the module without numbers, on the meta device."""
        return empty_model(self.config)

    @property
    def dtype(self) -> torch.dtype:
        """The number format that holds every matrix without loss."""
        return functools.reduce(
            torch.promote_types,
            (weight.dtype for name, weight in self.weights.items() if self.is_matrix(name)),
        )

    def is_matrix(self, name: str) -> bool:
        """Say whether a weight is a matrix, which may be in 16 bits, or a vector, in float32."""
        return GENERATIONS[self.config.generation].model.is_matrix(name, self.weights[name].shape)

    @property
    def formats(self) -> dict[str, Format | torch.dtype]:
        """The number format of each wide matrix: that in which it is packed, or the dtype of its numbers."""
        return {
            name: weight.packed.format if weight.packed else weight.dtype
            for name, weight in self.weights.items()
            if is_wide(name) and self.is_matrix(name)
        }

    @property
    def number_format(self) -> str:
        """The number formats of the wide matrices in words, that of most of them first."""
        counts = Counter(str(kind).removeprefix("torch.") for kind in self.formats.values())
        return ", ".join(name for name, _ in counts.most_common())

    @property
    def description(self) -> str:
        """Where it lies, in which format and in which number format."""
        return f"{self.path} ({self.format}, {self.number_format})"

    def observed(self, report: Callable[[int], None]) -> StoredModel:
        """Return the model with the number of bytes reported of each weight that is read."""

        def observe(weight: Weight) -> Weight:
            def read() -> Tensor:
                tensor = weight.read()
                report(tensor.nbytes)
                return tensor

            return replace(weight, read=read)

        return replace(self, weights={name: observe(weight) for name, weight in self.weights.items()})

    @property
    def num_parameters(self) -> int:
        """Number of trained values."""
        return sum(math.prod(weight.shape) for weight in self.weights.values())

    @property
    def num_bytes(self) -> int:
        """Memory that all weights together take once they are read."""
        return sum(weight.num_bytes for weight in self.weights.values())

    def cast(self, dtype: torch.dtype) -> StoredModel:
        """Return the model as modules and kernels need it: its matrices in the dtype, vectors in float32.

        With float64 matrices the vectors are float64 too. Reading a weight raises CheckpointError where a
        value is too large for the dtype.
        """
        vectors = torch.float64 if dtype == torch.float64 else torch.float32

        def cast(name: str, weight: Weight) -> Weight:
            target = dtype if self.is_matrix(name) else vectors
            place = f"{self.path}: {self.name_in_file(name)!r}"
            return cast_weight(weight, target, place)

        return replace(self, weights={name: cast(name, weight) for name, weight in self.weights.items()})


def empty_model(config: Config) -> AnyModel:
    """Return the module of a config without numbers, on the meta device."""
    build: Callable[[Config], AnyModel] = GENERATIONS[config.generation].model  # takes nothing but its config
    with torch.device("meta"):
        return build(config)


def from_module(
    model: AnyModel,
    tokenizer: str | None = None,
    metadata: Mapping[str, str] | None = None,
    tuned_state: Mapping[str, Weight] | None = None,
) -> StoredModel:
    """Return a model that is in memory as one that lies in a file."""
    state: dict[str, Tensor] = model.state_dict()
    prefix = wrapper_prefix(state)  # of torch.compile and the like
    path = Path("the model in memory")
    return StoredModel(
        config=model.config,
        weights={
            name.removeprefix(prefix): weight.finite(f"{path}: {name!r}")
            for name, weight in weights(state).items()
        },
        path=path,
        format="module",
        tuned_state=tuned_state or {},
        tokenizer=tokenizer,
        metadata=dict(metadata or {}),
    )


def from_contents(contents: Contents, generation: Generation, config: Config) -> StoredModel:
    """Return what a reader found as a model of the config, if it has exactly the weights that this needs.

    A tuned initial state may be among them. Raises CheckpointError, naming the file and the weight.
    """
    model = empty_model(config)
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    state = tuned_state_shapes(config) if contents.weights.keys() & tuned_state_shapes(config) else {}
    found = contents.take(own | state, type(model).__name__, config, unused=generation.unused)
    return StoredModel(
        config=config,
        weights={name: found[name] for name in own},
        tuned_state={name: found[name] for name in state},
        path=contents.path,
        format=contents.format,
        files=contents.files,
        tokenizer=contents.tokenizer,
        metadata=contents.metadata,
        name_in_file=contents.name_in_file,
    )


def cast_weight(weight: Weight, dtype: torch.dtype, place: str) -> Weight:
    """Return a weight in the dtype; reading it raises CheckpointError where a value is too large for that."""
    is_packed_in_it = weight.packed is not None and getattr(torch, weight.packed.format, None) == dtype
    packed = weight.packed if is_packed_in_it else None
    return Weight(weight.shape, dtype, lambda: _cast(weight.read(), dtype, place), packed)


def _cast(tensor: Tensor, dtype: torch.dtype, place: str) -> Tensor:
    """Return a tensor in the dtype, laid out for the kernels, if none of its values is too large for it."""
    if torch.finfo(tensor.dtype).max > torch.finfo(dtype).max:
        largest = max(abs(float(bound)) for bound in torch.aminmax(tensor))
        if largest > torch.finfo(dtype).max:
            raise CheckpointError(
                f"{place} holds values up to {largest:.4g}, too large for {dtype}. "
                "Use torch.bfloat16 or torch.float32."
            )
    tensor = tensor.to(dtype).contiguous()
    # A writer may have put the numbers at an odd address, where compiled kernels cannot read them.
    return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor
