"""Which model this is, in 64 characters, without reading it whole.

It is the SHA-256 of the config and, of each weight, its name, shape, dtype and the numbers at both ends.
Training and adapters change all rows of a matrix, or all that belong to tokens that were seen; so another
model, another adapter or another step of a training has another fingerprint, while the same weights have the
same one in every file format. Reading both ends touches two pages of each weight: milliseconds, where the
whole of a large file takes longer than loading it. It is no protection against whoever forges a model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from receptance.models import AnyModel, Config

NUMBERS = 256  # that are taken from each end of a weight


def fingerprint(model: AnyModel) -> str:
    """Return the fingerprint of a model, as hexadecimal digits."""
    return fingerprint_of(model.config, model.state_dict())


def fingerprint_of(config: Config, weights: Mapping[str, Tensor]) -> str:
    """Return the fingerprint of a model of this config with these weights."""
    digest = hashlib.sha256(f"{config.generation} {config}".encode())
    for name, weight in sorted(weights.items()):
        digest.update(f"\n{name} {tuple(weight.shape)} {weight.dtype} ".encode())
        for end in _ends(weight.detach()):
            digest.update(end.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _ends(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first numbers of the first row and the last of the last, however they lie in memory."""
    rows = weight if weight.ndim > 1 else weight[None]
    return rows[0].reshape(-1)[:NUMBERS], rows[-1].reshape(-1)[-NUMBERS:]
