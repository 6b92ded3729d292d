"""Real sequences as the fused passes read them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """B sequences of at most S tokens; only real tokens, n of them, take part in anything but attention.

    Attributes:
        vectors: [n, E] word embeddings, sequence after sequence.
        size: (B, S).
        places: [n] place of every token in the padded grid of B · S, or ``None`` where the grid has no padding.
        mask: [B, S] true at real tokens, or ``None`` where there is no padding.
        segments: [n] segment ids, or ``None`` where all are 0.
        order: [B] the row of the batch that each sequence is.

    """

    vectors: Tensor
    size: tuple[int, int]
    places: Tensor | None
    mask: Tensor | None
    segments: Tensor | None
    order: Tensor
