"""What was trained on top of a model, in files of its own: a state to start from, an adapter to merge."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from receptance.checkpoints import formats
from receptance.checkpoints.contents import Contents
from receptance.checkpoints.stored_model import StoredModel
from receptance.checkpoints.tuning import lora, tuned_state
from receptance.errors import ConfigError

ZERO = "zero"


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Which files go on top of a model.

    state       a tuned initial state; "zero" starts from nothing, even if the model carries one
    lora        an adapter, of LoRA, PiSSA or MiSS (DiSHA): a file of RWKV-PEFT or web-rwkv, a folder of PEFT
    lora_alpha  the alpha of a LoRA, where its file does not say it; no other files ask for one
    pissa_init  where a PiSSA adapter began: the file `init_pissa.pth` of its training
    """

    state: str | Path | None = None
    lora: str | Path | None = None
    lora_alpha: float | None = None
    pissa_init: str | Path | None = None

    def __post_init__(self) -> None:
        """Refuse what belongs to an adapter where there is none."""
        for name in ("lora_alpha", "pissa_init"):
            if getattr(self, name) is not None and self.lora is None:
                raise ConfigError(f"{name} was given, but no lora that it could belong to.")

    def applied(self, model: StoredModel, dtype: torch.dtype | None = None) -> StoredModel:
        """Return the model with all of it; weights that an adapter changes are in `dtype`, or keep theirs.

        Raises CheckpointError when a file is of another model or cannot be read, ConfigError when nothing
        says what alpha is.
        """
        if self.lora is not None:
            start = None if self.pissa_init is None else _adapter(self.pissa_init)
            model = lora.merged(model, _adapter(self.lora), alpha=self.lora_alpha, start=start, dtype=dtype)
        if self.state == ZERO:
            return replace(model, tuned_state={})
        if self.state is not None:
            contents = formats.read(self.state)
            state = tuned_state.of_file(contents, model.config)
            model = replace(model, tuned_state=state, files=(*model.files, *contents.files))
        return model


NONE = Tuning()


def _adapter(path: str | Path) -> Contents:
    return lora.in_our_spelling(formats.read(path))
