"""Options that several commands take, and the loading of what they describe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from receptance.inference import Loaded

Model = Annotated[Path, Parameter(help="A checkpoint: a file, a Hugging Face folder or a run folder.")]
Json = Annotated[
    bool, Parameter(name="--json", negative="", show_default=False, help="Print one JSON object on one line.")
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16", "float64"] | None,
    Parameter(help="Number format of the matrices; that of the file where none is given."),
]
Device = Annotated[str, Parameter(help="Where to run: cpu, cuda, cuda:1, …")]
Tokenizer = Annotated[
    str | None,
    Parameter(help="A vocabulary file or a name, such as world; found beside the model where none is given."),
]


def load(model: Path, dtype: str | None, device: str, tokenizer: str | None) -> Loaded:
    """Load a model as the options say. Imports torch, so commands call it and do not import it."""
    import torch

    from receptance import inference

    return inference.load(
        model, dtype=getattr(torch, dtype) if dtype else None, device=device, tokenizer=tokenizer
    )
