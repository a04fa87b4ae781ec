"""A model as it lies in a file: checked, but not in memory.

It stands between the readers, which trust nothing, and whoever wants the model: `load` makes a module of it,
a writer puts it into another file, weight by weight.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from receptance.checkpoints.contents import Contents, Weight, weights
from receptance.checkpoints.generations import GENERATIONS, Generation
from receptance.checkpoints.names import without_padding, wrapper_prefix
from receptance.errors import CheckpointError
from receptance.models import AnyModel, Config

FLOAT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_FLOATS = ", ".join(map(str, FLOAT_DTYPES))


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """A config, and the weights of its module by name, in shape and order.

    Reading a weight raises CheckpointError where a value in it is not finite.
    """

    config: Config
    weights: Mapping[str, Weight]
    path: Path  # of the file or folder
    format: str
    files: tuple[Path, ...] = ()  # where the weights lie
    tokenizer: str | None = None  # its name, where the file gives one
    metadata: dict[str, str] = field(default_factory=dict)
    name_in_file: Callable[[str], str] = str  # our name of a weight -> the one to show

    def empty(self) -> AnyModel:
        """Return the module without numbers, on the meta device."""
        return empty_model(self.config)

    @property
    def dtype(self) -> torch.dtype:
        """The number format that holds every matrix without loss."""
        matrices = (weight.dtype for weight in self.weights.values() if len(weight.shape) >= 2)
        return functools.reduce(torch.promote_types, matrices)

    @property
    def description(self) -> str:
        """Where it lies, in which format and in which number format."""
        return f"{self.path} ({self.format}, {str(self.dtype).removeprefix('torch.')})"

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
            target = dtype if len(weight.shape) >= 2 else vectors
            place = f"{self.path}: {self.name_in_file(name)!r}"
            return Weight(weight.shape, target, lambda: _cast(weight.read(), target, place))

        return replace(self, weights={name: cast(name, weight) for name, weight in self.weights.items()})


def empty_model(config: Config) -> AnyModel:
    """Return the module of a config without numbers, on the meta device."""
    with torch.device("meta"):
        return GENERATIONS[config.generation].model(config)


def from_module(
    model: AnyModel, tokenizer: str | None = None, metadata: Mapping[str, str] | None = None
) -> StoredModel:
    """Return a model that is in memory as one that lies in a file."""
    state: dict[str, Tensor] = model.state_dict()
    prefix = wrapper_prefix(state)  # of torch.compile and the like
    path = Path("the model in memory")
    return StoredModel(
        config=model.config,
        weights={
            name.removeprefix(prefix): _finite(weight, f"{path}: {name!r}")
            for name, weight in weights(state).items()
        },
        path=path,
        format="module",
        tokenizer=tokenizer,
        metadata=dict(metadata or {}),
    )


def from_contents(contents: Contents, generation: Generation, config: Config) -> StoredModel:
    """Return what a reader found as a model of the config, if it has exactly the weights that this needs.

    Raises CheckpointError, naming the file and the weight.
    """
    model = empty_model(config)
    expected: dict[str, Tensor] = model.state_dict()
    missing = [contents.name_in_file(name) for name in expected if name not in contents.weights]
    unknown = [
        contents.name_in_file(name)
        for name in contents.weights
        if name not in expected and name not in generation.unused
    ]
    if missing or unknown:
        problems = [
            f"{names[0]!r} is {verdict}" + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
            for names, verdict in ((missing, "missing"), (unknown, f"no tensor of {type(model).__name__}"))
            if names
        ]
        raise CheckpointError(f"{contents.path}: {', and '.join(problems)}.")
    return StoredModel(
        config=config,
        weights={
            name: _checked(contents, name, tuple(parameter.shape), config)
            for name, parameter in expected.items()
        },
        path=contents.path,
        format=contents.format,
        files=contents.files,
        tokenizer=contents.tokenizer,
        metadata=contents.metadata,
        name_in_file=contents.name_in_file,
    )


def _checked(contents: Contents, name: str, shape: tuple[int, ...], config: Config) -> Weight:
    """Return a weight of a file in the shape that the config needs, to be checked when it is read."""
    weight = contents.weights[name]
    if without_padding(weight.shape, shape) != shape:
        raise contents.wrong(name, f"is {weight.shape}, but {config} needs {shape}.")
    if weight.dtype not in FLOAT_DTYPES:
        raise contents.wrong(name, f"is of {weight.dtype}, but weights need one of {_FLOATS}.")
    place = f"{contents.path}: {contents.name_in_file(name)!r}"
    return _finite(weight.map(lambda tensor: tensor.reshape(shape)), place)


def _finite(weight: Weight, place: str) -> Weight:
    """Return the weight with a check, whenever it is read, that all of its values are finite."""

    def read() -> Tensor:
        tensor = weight.read()
        if not all(torch.isfinite(bound) for bound in torch.aminmax(tensor)):  # NaN spreads to both
            first = (~torch.isfinite(tensor)).nonzero()[0].tolist()
            value = float(tensor[tuple(first)])
            raise CheckpointError(f"{place} holds {value} at {first}, but every weight must be finite.")
        return tensor

    return Weight(weight.shape, weight.dtype, read)


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
