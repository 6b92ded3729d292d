"""The vocabulary as points: which token of an embedding matrix is nearest to a vector.

What a synthetic sample of input embeddings looks like as text: its nearest tokens, position by position. Deterministic:
distances are taken in float64, equal ones go to the smaller token id.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Measure = Literal["cosine", "l2"]


@dataclass(frozen=True)
class Nearest:
    """The nearest token of every vector.

    Attributes:
        ids: [...] token ids, int64, on the CPU.
        distances: [...] float64; 1 − cosine similarity (0 … 2), or the Euclidean distance in the units of the matrix.

    """

    ids: Tensor
    distances: Tensor


@torch.no_grad()
def nearest_tokens(
    vectors: Tensor, matrix: Tensor, measure: Measure = "cosine", *, without: Collection[int] = (), batch: int = 256
) -> Nearest:
    """Finds the row of ``matrix`` that is nearest to each vector.

    Args:
        vectors: [..., E].
        matrix: [vocabulary, E] word embeddings.
        measure: by which nearest is meant.
        without: token ids that are not looked at, such as special or unused ones.
        batch: vectors that are compared with the whole vocabulary at once.

    """
    table, flat = matrix.detach().double(), vectors.detach().reshape(-1, vectors.shape[-1]).to(matrix.device).double()
    lengths = table.norm(dim=1)
    barred = torch.tensor(sorted(without), dtype=torch.long, device=table.device)
    ids = torch.cat([_nearest(chunk, table, lengths, measure, barred) for chunk in flat.split(batch)])
    found = table[ids]
    if measure == "l2":
        distances = (flat - found).norm(dim=1)  # anew: the expanded square loses the digits of small distances
    else:
        distances = 1 - torch.cosine_similarity(flat, found, dim=1, eps=torch.finfo(torch.float64).tiny)
    shape = vectors.shape[:-1]
    return Nearest(ids.view(shape).cpu(), distances.view(shape).cpu())


def _nearest(chunk: Tensor, table: Tensor, lengths: Tensor, measure: Measure, barred: Tensor) -> Tensor:
    """[n] row of the table; argmin gives the first of equals."""
    products = chunk @ table.T
    # the vector's own length changes neither order
    scores = lengths.square() - 2 * products if measure == "l2" else -products / lengths.clamp_min(1e-12)
    scores[:, barred] = torch.inf
    return scores.argmin(dim=1)
