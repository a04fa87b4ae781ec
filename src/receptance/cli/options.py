"""Options that several commands take, and the loading of what they describe."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    import torch

    from receptance.inference import Loaded

Model = Annotated[
    str,
    Parameter(
        help="A checkpoint: a file, a Hugging Face folder, a run folder, or a name on a hub: ORG/NAME, or "
        "ORG/NAME/FILE where it holds several models."
    ),
]
Revision = Annotated[
    str | None,
    Parameter(help="Branch, tag or commit of a model on a hub; its main branch where none is given."),
]
Json = Annotated[
    bool, Parameter(name="--json", negative="", show_default=False, help="Print one JSON object on one line.")
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16", "float64"] | None,
    Parameter(help="Number format of the matrices; that of the file where none is given."),
]
PackedDtypeName = Literal["float32", "bfloat16", "float16", "float64", "int8", "int4"]
PackedDtype = Annotated[
    PackedDtypeName | None,
    Parameter(
        help="Number format of the matrices; that of the file where none is given. int8 and int4 are of the "
        "native runtime."
    ),
]
Runtime = Annotated[
    Literal["auto", "torch", "native"],
    Parameter(help="torch, or native: several times as fast on a CPU; auto is native where that can serve."),
]
Device = Annotated[str, Parameter(help="Where to run: cpu, cuda, cuda:1, …")]
Tokenizer = Annotated[
    str | None,
    Parameter(help="A vocabulary file or a name, such as world; found beside the model where none is given."),
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What was trained on top of the model and lies in files of its own."""

    state: Annotated[
        str | None,
        Parameter(
            help="A file with a tuned state that texts start from, or zero for none; the one that the model "
            "itself carries, if it does, where nothing is given."
        ),
    ] = None
    lora: Annotated[
        str | None, Parameter(help="An adapter to merge into the weights: LoRA, PiSSA or MiSS (DiSHA).")
    ] = None
    lora_alpha: Annotated[
        float | None, Parameter(help="The alpha of the LoRA's training, where its file does not say it.")
    ] = None
    pissa_init: Annotated[
        str | None, Parameter(help="Where a PiSSA adapter began: init_pissa.pth of its training.")
    ] = None


NO_TUNING = Tuning()


def torch_dtype(name: PackedDtypeName | None) -> torch.dtype | Literal["int8", "int4"] | None:
    """Return what the library calls this number format."""
    import torch

    if name is None or name == "int8" or name == "int4":
        return name
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def load(
    model: str,
    revision: str | None,
    dtype: PackedDtypeName | None,
    device: str,
    tokenizer: str | None,
    tuning: Tuning = NO_TUNING,
    runtime: Literal["auto", "torch", "native"] = "torch",
) -> Loaded:
    """Load a model as the options say. Imports torch, so commands call it and do not import it."""
    from receptance import inference

    return inference.load(
        model,
        revision=revision,
        dtype=torch_dtype(dtype),
        device=device,
        tokenizer=tokenizer,
        runtime=runtime,
        **asdict(tuning),
    )
