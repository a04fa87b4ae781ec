"""Writes the recipes of the published models from the tables below: `make recipes`.

What was published is in the tables with its source; what was not is named in `chosen`, and says so in every
recipe. Sizes, rates and lengths stand here once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).parent

PILE = ("20b", "data/pile")  # tokenizer and folder of the prepared text
MINIPILE = ("20b", "data/minipile")
WORLD = ("world", "data/world")

PILE_TOKENS = 332_115_325_534

Tables = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Size:
    """One model: the name of its size, its shape, and what else is its own."""

    name: str
    num_layers: int
    hidden_size: int
    learning_rate: float
    final_learning_rate: float
    model: Tables = field(default_factory=dict)
    optimizer: Tables = field(default_factory=dict)
    stages: tuple[Tables, ...] = ()
    max_tokens: int = 0  # 0: those of the family
    samples: int = 0


@dataclass(frozen=True, kw_only=True)
class Family:
    """Models that were trained alike."""

    name: str
    about: str
    source: str
    chosen: str = ""  # what was not published, and what stands here instead
    data: tuple[str, str]
    context: int
    max_tokens: int
    samples: int  # of a step
    model: Tables
    optimizer: Tables
    groups: tuple[Tables, ...]
    sizes: tuple[Size, ...]


BONUSES_AND_DECAYS = (
    {"parameters": "*.att.time_decay", "multiplier": 2.0},
    {"parameters": "*.att.time_first", "multiplier": 3.0},
)
DECAYS = ({"parameters": "*.att.time_decay", "multiplier": 2.0},)
DECAYS_7 = ({"parameters": "*.att.w0", "multiplier": 2.0},)

EXPONENTIAL = {"schedule": "exponential", "betas": [0.9, 0.99], "epsilon": 1e-8, "weight_decay": 0.0}
EAGLE = {"schedule": "cosine", "warm_up_steps": 10, "warm_up_start": 0.2, "betas": [0.9, 0.99]}
EAGLE |= {"epsilon": 1e-8, "weight_decay": 0.001}
GOOSE = {"schedule": "cosine", "warm_up_steps": 10, "warm_up_start": 0.01, "betas": [0.9, 0.99]}
GOOSE |= {"epsilon": 1e-18}


def with_plateau(
    name: str, layers: int, width: int, rate: float, mini_epochs: int, final: float = 1e-5
) -> Size:
    """Return an RWKV-4 that keeps its first rate for mini-epochs of 40,320 samples, of 8,043 in all."""
    return Size(
        name=name,
        num_layers=layers,
        hidden_size=width,
        learning_rate=rate,
        final_learning_rate=final,
        optimizer={"plateau": round(mini_epochs / 8043, 7)},
    )


def ranks(decay: int, in_context: int, value: int, gate: int) -> Tables:
    """Return the low ranks of an RWKV-7."""
    return {"decay_rank": decay, "in_context_rank": in_context, "value_rank": value, "gate_rank": gate}


def longer(*stages: tuple[int, int, int]) -> tuple[Tables, ...]:
    """Return stages of (context, samples a step, billions of tokens)."""
    return tuple(
        {"max_tokens": billions * 10**9, "context": context, "batch_size": 1, "accumulation": samples}
        for context, samples, billions in stages
    )


def extension(name: str, stages: tuple[Tables, ...], rate: float) -> Size:
    """Return an RWKV-4 of the Pile that goes on with longer contexts, at the rate with which it ended."""
    initial = {"initial": f"runs/rwkv4-pile-{name}/model.safetensors"}
    context = stages[-1]["context"]
    return Size(
        name=f"{name}-ctx{context}",
        num_layers=0,
        hidden_size=0,
        learning_rate=rate,
        final_learning_rate=rate,
        model=initial,
        stages=stages,
    )


TO_4096 = longer((2048, 64, 10), (4096, 32, 100))
TO_8192 = (*TO_4096, *longer((8192, 16, 100)))

RANKS = {
    "0.1b": ranks(64, 64, 32, 128),
    "0.4b": ranks(64, 64, 32, 128),
    "1.5b": ranks(96, 96, 64, 256),
    "2.9b": ranks(96, 96, 64, 320),
    "7.2b": ranks(128, 128, 96, 480),
    "13.3b": ranks(192, 192, 128, 384),
}

FAMILIES = (
    Family(
        name="rwkv4-pile",
        about="RWKV-4 on the Pile, one pass",
        source="arxiv.org/abs/2305.13048, section 4 and appendix G, and the v4neo trainer where they differ",
        chosen="The runs changed between 128 and 256 samples a step; here they are 128.",
        data=PILE,
        context=1024,
        max_tokens=8043 * 40_320 * 1024,
        samples=128,
        model={"generation": "4"},
        optimizer=EXPONENTIAL,
        groups=BONUSES_AND_DECAYS,
        sizes=(
            with_plateau("169m", 12, 768, 6e-4, 361),
            with_plateau("430m", 24, 1024, 4e-4, 411),
            with_plateau("1.5b", 24, 2048, 3e-4, 443),
            with_plateau("3b", 32, 2560, 1.5e-4, 451),
            with_plateau("7b", 32, 4096, 1.5e-4, 465),
            with_plateau("14b", 40, 5120, 1e-4, 544, final=7e-6),
        ),
    ),
    Family(
        name="rwkv4-pile",
        about="RWKV-4 of the Pile, made to read longer contexts in stages",
        source="arxiv.org/abs/2305.13048, section 5.2",
        chosen="Rate and batch sizes: the last rate of the run before, and as many tokens a step.",
        data=PILE,
        context=1024,
        max_tokens=0,
        samples=1,
        model={"generation": "4"},
        optimizer=EXPONENTIAL,
        groups=BONUSES_AND_DECAYS,
        sizes=(
            extension("1.5b", TO_4096, 1e-5),
            extension("3b", TO_4096, 1e-5),
            extension("7b", TO_8192, 1e-5),
            extension("14b", TO_8192, 7e-6),
        ),
    ),
    Family(
        name="rwkv4-world",
        about="RWKV-4 on World v1",
        source="sizes, context and length: the published files and their cards",
        chosen="All rates and the samples a step, which are those of the Pile's models of the same shape.",
        data=WORLD,
        context=4096,
        max_tokens=600_000_000_000,
        samples=32,
        model={"generation": "4"},
        optimizer=EXPONENTIAL,
        groups=BONUSES_AND_DECAYS,
        sizes=(
            with_plateau("0.1b", 12, 768, 6e-4, 361),
            with_plateau("0.4b", 24, 1024, 4e-4, 411),
            with_plateau("1.5b", 24, 2048, 3e-4, 443),
            with_plateau("3b", 32, 2560, 1.5e-4, 451),
            with_plateau("7b", 32, 4096, 1.5e-4, 465),
        ),
    ),
    Family(
        name="rwkv5-world",
        about='RWKV-5.2 "Eagle" on World v2',
        source="arxiv.org/abs/2404.05892; model.version chooses 5.0 or 5.1 instead",
        chosen="Samples a step, final rates, and the rates of 3B and 7B, which are those of RWKV-4.",
        data=WORLD,
        context=4096,
        max_tokens=1_100_000_000_000,
        samples=128,
        model={"generation": "5", "version": "5.2"},
        optimizer=EAGLE,
        groups=DECAYS,
        sizes=tuple(
            Size(
                name=name, num_layers=layers, hidden_size=width, learning_rate=rate, final_learning_rate=1e-5
            )
            for name, layers, width, rate in (
                ("0.1b", 12, 768, 6e-4),
                ("0.4b", 24, 1024, 4e-4),
                ("1.5b", 24, 2048, 3e-4),
                ("3b", 32, 2560, 1.5e-4),
                ("7b", 32, 4096, 1.5e-4),
            )
        ),
    ),
    Family(
        name="rwkv6-world",
        about='RWKV-6 "Finch" on World v2.1',
        source="arxiv.org/abs/2404.05892; epsilon as RWKV-LM advises since",
        chosen="Samples a step, final rates, and the rates of 3B and 7B, which are those of RWKV-4.",
        data=WORLD,
        context=4096,
        max_tokens=1_400_000_000_000,
        samples=128,
        model={"generation": "6"},
        optimizer=EAGLE | {"epsilon": 1e-18},
        groups=DECAYS,
        sizes=tuple(
            Size(
                name=name,
                num_layers=layers,
                hidden_size=width,
                learning_rate=rate,
                final_learning_rate=1e-5,
                model={"mix_rank": 64, "decay_rank": 128} if width == 4096 else {},
            )
            for name, layers, width, rate in (
                ("0.1b", 12, 768, 6e-4),
                ("0.4b", 24, 1024, 4e-4),
                ("1.6b", 24, 2048, 3e-4),
                ("3b", 32, 2560, 1.5e-4),
                ("7b", 32, 4096, 1.5e-4),
            )
        ),
    ),
    Family(
        name="rwkv7-minipile",
        about='RWKV-7 "Goose" on MiniPile, the demonstration of RWKV-LM',
        source="its README, which gives the losses: 4.876 after 40,320 samples, 4.029 after twice as many",
        data=MINIPILE,
        context=512,
        max_tokens=1_498_226_207,
        samples=16,
        model={"generation": "7", "vocabulary_size": 65536},
        optimizer=GOOSE | {"weight_decay": 0.001},
        groups=DECAYS_7,
        sizes=(
            Size(
                name="0.1b",
                num_layers=12,
                hidden_size=768,
                learning_rate=6e-4,
                final_learning_rate=6e-5,
                model=RANKS["0.1b"],
            ),
        ),
    ),
    Family(
        name="rwkv7-pile",
        about='RWKV-7 "Goose" on the Pile, one pass',
        source="the README of RWKV-LM",
        data=PILE,
        context=4096,
        max_tokens=PILE_TOKENS,
        samples=240,
        model={"generation": "7", "vocabulary_size": 50304},
        optimizer=GOOSE | {"weight_decay": 0.1},
        groups=DECAYS_7,
        sizes=tuple(
            Size(
                name=name,
                num_layers=layers,
                hidden_size=width,
                learning_rate=rate,
                final_learning_rate=final,
                model=RANKS[name],
                samples=samples,
            )
            for name, layers, width, rate, final, samples in (
                ("0.1b", 12, 768, 8e-4, 3e-5, 240),
                ("0.4b", 24, 1024, 6e-4, 2e-5, 240),
                ("1.5b", 24, 2048, 5e-4, 1.5e-5, 360),
            )
        ),
    ),
    Family(
        name="rwkv7-world",
        about='RWKV-7 "Goose" on World v3',
        source="arxiv.org/abs/2503.14456; ranks as in the published files",
        chosen="Samples a step, and where the cosine begins: published are a 'delayed' one and its two ends.",
        data=WORLD,
        context=4096,
        max_tokens=3_100_000_000_000,
        samples=240,
        model={"generation": "7"},
        optimizer=GOOSE | {"weight_decay": 0.1},
        groups=DECAYS_7,
        sizes=tuple(
            Size(
                name=name,
                num_layers=layers,
                hidden_size=width,
                learning_rate=4e-4,
                final_learning_rate=1e-5,
                model=RANKS[name],
                max_tokens=max_tokens,
            )
            for name, layers, width, max_tokens in (
                ("0.1b", 12, 768, 1_000_000_000_000),
                ("0.4b", 24, 1024, 2_000_000_000_000),
                ("1.5b", 24, 2048, 0),
                ("2.9b", 32, 2560, 0),
                ("7.2b", 32, 4096, 0),
                ("13.3b", 61, 4096, 0),
            )
        ),
    ),
)


def batches(samples: int, width: int) -> Tables:
    """Return a step of so many samples in batches: of 8 where the model is small, fewer where it is not."""
    batch_size = {768: 8, 1024: 8, 2048: 4, 2560: 2}.get(width, 1)
    return {"batch_size": batch_size, "accumulation": samples // batch_size}


def recipe(family: Family, size: Size) -> str:
    """Return the text of one recipe."""
    name = f"{family.name}-{size.name}"
    tokenizer, folder = family.data
    shape = {"num_layers": size.num_layers, "hidden_size": size.hidden_size} if size.num_layers else {}
    model = size.model if "initial" in size.model else family.model | shape | size.model
    training: Tables = batches(size.samples or family.samples, size.hidden_size)
    if not size.stages:
        training |= {"max_tokens": size.max_tokens or family.max_tokens}
    training |= {"dtype": "bfloat16", "max_logit_weight": 1e-4, "gradient_clip": 1.0}
    training |= {"validate_every": 1000, "save_every": 500, "log_every": 10}
    rates = {"learning_rate": size.learning_rate, "final_learning_rate": size.final_learning_rate}
    tables: Tables = {
        "run": {"folder": f"runs/{name}"},
        "model": model,
        "data": {"folder": folder, "context": size.stages[-1]["context"] if size.stages else family.context},
        "training": training,
        "optimizer": rates | family.optimizer | size.optimizer,
        "groups": list(family.groups),
    }
    if size.stages:
        tables["stages"] = list(size.stages)
    lines = [f"{family.about}.", f"Source: {family.source}."]
    if family.chosen:
        lines.append(f"Not published, chosen here: {family.chosen}")
    lines += [
        f"Prepare the text: receptance prepare TEXT --tokenizer {tokenizer} --output {folder}",
        "Written by `make recipes` from the tables in published.py; what you change here is lost by that.",
    ]
    head = "".join(f"# {line}\n" for line in lines)
    return "\n".join([head, *(section(name, tables[name]) for name in tables)])


def section(name: str, content: Tables | list[Tables]) -> str:
    """Return one table of a TOML file, or a list of tables."""
    if isinstance(content, list):
        return "\n".join(_table(f"[[{name}]]", one) for one in content)
    return _table(f"[{name}]", content)


def _table(header: str, values: Tables) -> str:
    return "".join(f"{line}\n" for line in (header, *(f"{key} = {_value(values[key])}" for key in values)))


def _value(value: object) -> str:
    """Write a value as a person would: 1_000_000, 6e-4."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, int):
        return f"{value:_}" if value >= 100_000 else str(value)
    return json.dumps(value) if isinstance(value, str) else repr(value).replace("e-0", "e-")


def recipes() -> dict[Path, str]:
    """Return the text of every recipe by its path."""
    return {
        RECIPES / f"{family.name}-{size.name}.toml": recipe(family, size)
        for family in FAMILIES
        for size in family.sizes
    }


if __name__ == "__main__":
    for path, text in recipes().items():
        path.write_text(text, encoding="utf-8")
