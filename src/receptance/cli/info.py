"""`receptance info`: what this installation can do, or what a model is."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from typing import Literal

import receptance
from receptance.cli import options, terminal
from receptance.errors import TokenizerError


def info(
    model: options.Model | None = None,
    /,
    *,
    as_json: options.Json = False,
    revision: options.Revision = None,
) -> None:
    """Describe this installation, or a model.

    Without a model: versions, devices and the native library with its instruction sets. With one: generation,
    sizes, parameters, memory, tokenizer and format. Either way the implementations of each kernel: the first
    that takes a call serves it, and what cannot be used here says why.
    """
    subject = Installation.here() if model is None else Model.at(model, revision)
    kernels = Kernel.all()
    if as_json:
        terminal.print_json(asdict(subject) | {"kernels": [asdict(kernel) for kernel in kernels]})
        return
    terminal.print_facts(subject.title, subject.facts())
    print()
    terminal.print_table(
        ["kernel", "implementation", ""],
        [(kernel.operator, kernel.implementation, kernel.reason or kernel.status) for kernel in kernels],
    )


@dataclass(frozen=True, kw_only=True)
class Installation:
    """What is installed, and what of it works here."""

    version: str
    python: str
    torch: str
    threads: int
    devices: list[str]
    native_level: str | None
    native_levels: list[str]
    native_problem: str | None

    @classmethod
    def here(cls) -> Installation:
        """Ask the machine."""
        import torch

        from receptance import native

        problem = native.unavailable_reason()
        return cls(
            version=receptance.__version__,
            python=platform.python_version(),
            torch=torch.__version__,
            threads=torch.get_num_threads(),
            devices=["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))],
            native_level=None if problem else native.level(),
            native_levels=list(native.levels()),
            native_problem=problem,
        )

    @property
    def title(self) -> str:
        """What is described."""
        return f"receptance {self.version}"

    def facts(self) -> dict[str, str]:
        """Return names and values for a reader."""
        library = self.native_problem or f"at level {self.native_level}, of {', '.join(self.native_levels)}"
        return {
            "Python": self.python,
            "torch": f"{self.torch}, {self.threads} threads",
            "devices": ", ".join(self.devices),
            "native library": library,
        }


@dataclass(frozen=True, kw_only=True)
class Model:
    """What a checkpoint holds."""

    path: str
    format: str
    metadata: dict[str, str]
    generation: str
    config: dict[str, int | float | str]
    parameters: int
    dtype: str
    file_bytes: int
    weight_bytes: int
    state_bytes: int
    has_tuned_state: bool
    tokenizer: str | None
    tokenizer_problem: str | None

    @classmethod
    def at(cls, name: str, revision: str | None) -> Model:
        """Look at a checkpoint. Raises CheckpointError where it cannot be loaded."""
        from receptance import checkpoints
        from receptance.checkpoints import packed_weights
        from receptance.tokenizers import find_tokenizer

        stored = checkpoints.open_model(name, revision=revision)
        tokenizer, problem = None, None
        try:
            tokenizer = find_tokenizer(stored.path, stored.tokenizer, stored.config.vocabulary_size).name
        except TokenizerError as error:
            problem = str(error)
        return cls(
            path=str(stored.path),
            format=stored.format,
            metadata=dict(stored.metadata),
            generation=stored.config.generation,
            config=asdict(stored.config),
            parameters=stored.num_parameters,
            dtype=stored.number_format,
            file_bytes=sum(file.stat().st_size for file in stored.files),
            weight_bytes=packed_weights.bytes_in_memory(stored),
            state_bytes=stored.empty().cast_matrices(stored.dtype).initial_state(1).num_bytes,
            has_tuned_state=bool(stored.tuned_state),
            tokenizer=tokenizer,
            tokenizer_problem=problem,
        )

    @property
    def title(self) -> str:
        """What is described."""
        return self.path

    def facts(self) -> dict[str, str]:
        """Return names and values for a reader."""
        weights, state = terminal.bytes_as_text(self.weight_bytes), terminal.bytes_as_text(self.state_bytes)
        return {
            "generation": f"RWKV-{self.generation}",
            **{
                name.replace("_", " "): value if isinstance(value, str) else f"{value:,}"
                for name, value in self.config.items()
            },
            "parameters": f"{self.parameters:,}",
            "format": f"{self.format}, {terminal.bytes_as_text(self.file_bytes)}",
            "memory": f"{weights} of weights ({self.dtype}), {state} of state for each text",
            **({"texts start from": "a tuned state that the file carries"} if self.has_tuned_state else {}),
            "tokenizer": self.tokenizer or f"none: {self.tokenizer_problem}",
            **(
                {"metadata": ", ".join(f"{k}={v}" for k, v in self.metadata.items())} if self.metadata else {}
            ),
        }


@dataclass(frozen=True)
class Kernel:
    """One implementation of an operator: chosen, available when asked for by name, or unavailable."""

    operator: str
    implementation: str
    status: Literal["chosen", "available", "unavailable"]
    reason: str | None

    @classmethod
    def all(cls) -> list[Kernel]:
        """List those of every operator, the preferred first. The first that takes a call is chosen."""
        from receptance import kernels

        found: list[Kernel] = []
        for row in kernels.implementations():
            is_first = not any(k.operator == row.operator and k.status == "chosen" for k in found)
            usable: Literal["chosen", "available"] = "chosen" if is_first else "available"
            status = "unavailable" if row.unavailable else usable
            found.append(cls(row.operator, row.implementation, status, row.unavailable))
        return found
