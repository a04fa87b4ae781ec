"""`receptance plan`: what a recipe will take, before anything runs."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from receptance.cli.terminal import bytes_as_text, print_facts, print_json, print_table
from receptance.cli.training_view import amount, duration
from receptance.errors import ConfigError

if TYPE_CHECKING:
    from receptance.training.plan import Plan, StagePlan


def plan(
    recipe: Path,
    /,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True)],
    processes: int = 1,
    memory: float | None = None,
    flops: float | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Say how much memory, disk and time a recipe takes, before anything runs.

    The memory is that of all tensors of a step when they are the most, counted on a model without numbers;
    on a CPU also of the gaps that the C library keeps between them, and of the program, so that it is about
    the most that the process will have: up to a quarter more with activation checkpointing. On a GPU the
    program and its allocator take more. The time of a step is an estimate: with --flops that of the matrix
    products alone, the least that it can be, otherwise what one and two layers take here for some seconds.

    The text need not be there yet; one that is there is checked against the recipe and the model, as before
    a run.

    Parameters
    ----------
    recipe
        A recipe, such as recipes/demo.toml.
    overrides
        Keys of the recipe to set otherwise, after the recipe: --training.batch_size=4
    processes
        How many share the samples of a step, each with the whole model, as torchrun starts them: one a GPU.
    memory
        Bytes that each process has, such as 80e9, to be told whether the run fits.
    flops
        Floating-point operations a second that each process does in large matrix products, such as 400e12.
    json
        Print everything as one JSON object.
    """
    import torch

    from receptance import kernels, training

    for name, value in {"processes": processes, "memory": memory, "flops": flops}.items():
        if value is not None and not value > 0:
            raise ConfigError(f"--{name} is {value}, but it must be above 0.")
    config = training.load_config(recipe, overrides)
    if config.run.tune_allocator:
        kernels.tune_allocator()
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    found = training.plan(config, processes=processes, flops=flops)
    if json:
        print_json(_as_json(found, memory))
        return
    sizes = found.sizes
    print_facts(f"RWKV-{sizes.generation}, {sizes.num_layers} layers of {sizes.hidden_size}", _facts(found))
    print()
    columns = [_stage(part, processes) for part in found.stages]
    titles = [f"stage {number}" for number in range(1, len(columns) + 1)] if len(columns) > 1 else ["run"]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    print_table(["", *titles], rows, numbers=titles)
    if memory is not None:
        print(_verdict(max(part.memory.peak for part in found.stages), memory))


def _facts(found: Plan) -> dict[str, str]:
    """Return what holds for the whole run."""
    disk, snapshot = map(bytes_as_text, (found.disk_bytes, found.snapshot_bytes))
    return {
        "parameters": f"{found.parameters:,}",
        "steps": "as many as its minutes allow" if found.steps is None else f"{found.steps:,}",
        "tokens": "?" if found.tokens is None else amount(found.tokens),
        "FLOPs": "?" if found.flops is None else amount(found.flops),
        "FLOPs a token": amount(found.flops_per_token),
        "time": "?" if found.seconds is None else duration(found.seconds),
        "disk": f"{disk}, of which a snapshot is {snapshot}",
        "text": "there, and it fits the model" if found.has_text else "not there yet, so not checked",
    }


def _stage(part: StagePlan, processes: int) -> dict[str, str]:
    """Return what one stage takes."""
    stage, memory, seconds = part.stage, part.memory, part.seconds_per_step
    share = " of each process" if processes > 1 else ""
    return {
        "context": f"{stage.context:,}",
        "samples a step": f"{stage.samples_per_step:,}",
        **{f"{field.name}{share}": bytes_as_text(getattr(memory, field.name)) for field in fields(memory)},
        f"memory{share}": bytes_as_text(memory.peak),
        "seconds a step": "?" if seconds is None else f"{seconds:.3g}",
        "tokens a second": "?" if seconds is None else amount(stage.tokens_per_step / seconds),
    }


def _verdict(peak: int, memory: float) -> str:
    """Say whether a run fits, and what to do where it does not."""
    needed, there = bytes_as_text(peak), bytes_as_text(memory)
    if peak <= memory:
        return f"It fits: {needed} of {there}."
    return (
        f"It does not fit: it needs {needed}, and there are {there}. Less is taken with a smaller "
        "training.batch_size and more training.accumulation, with training.activation_checkpointing, or with "
        "training.chunk."
    )


def _as_json(found: Plan, memory: float | None) -> dict[str, object]:
    """Return a plan for programs."""
    peak = max(part.memory.peak for part in found.stages)
    fits = {} if memory is None else {"fits": peak <= memory}
    stages = [
        {
            **asdict(part.stage),
            "memory": asdict(part.memory) | {"peak": part.memory.peak},
            "seconds_per_step": part.seconds_per_step,
        }
        for part in found.stages
    ]
    whole = {
        name: getattr(found, name) for name in ("parameters", "flops_per_token", "steps", "tokens", "flops")
    }
    whole |= {name: getattr(found, name) for name in ("seconds", "snapshot_bytes", "disk_bytes")}
    sizes = {"generation": found.sizes.generation, **asdict(found.sizes)}
    return {"model": sizes, "has_text": found.has_text, **whole, "peak": peak, **fits, "stages": stages}
