"""The side on which text is padded."""

from __future__ import annotations

import torch
from torch import Tensor


def places(ids: Tensor, *, left: bool) -> Tensor:
    """[rows, longest, rounded up to a multiple of 8] columns of ``ids``, padded on the right, that make up a batch."""
    lengths = (ids >= 0).sum(dim=1, keepdim=True)
    width = min(-(-int(lengths.max()) // 8) * 8, ids.shape[1])
    columns = torch.arange(width, device=ids.device).expand(len(ids), -1)
    return (columns + lengths) % width if left else columns
