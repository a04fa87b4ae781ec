"""Texts of different length in one batch: row `b` holds `lengths[b]` real tokens, then padding.

What is real never sees what follows it, so y needs no care. The state does: it must stay as it was after the
last real token of each row.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from receptance.errors import ConfigError

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_lengths(lengths: Tensor, batch: int, time: int) -> None:
    """Raise ConfigError unless lengths are integers `[batch]` from 0 to time.

    The values are looked at on the CPU alone, outside of compiled graphs; a GPU would have to wait for that.
    """
    if lengths.dtype not in _INTEGERS or lengths.shape != (batch,):
        raise ConfigError(
            f"lengths are {lengths.dtype} of shape {tuple(lengths.shape)}, but they must be integers of "
            f"shape ({batch},): the number of real tokens in each row."
        )
    if batch == 0 or lengths.device.type != "cpu" or torch.compiler.is_compiling():
        return
    wrong = ((lengths < 0) | (lengths > time)).nonzero().flatten().tolist()
    if wrong:
        raise ConfigError(
            f"lengths[{wrong[0]}] is {int(lengths[wrong[0]])}, but it must be from 0 to {time}, "
            "the number of tokens in each row."
        )


def is_padding(lengths: Int[Tensor, " batch"], time: int) -> Bool[Tensor, "batch time"]:
    """Tell the padding from the real tokens."""
    return torch.arange(time, device=lengths.device) >= lengths.unsqueeze(1)
