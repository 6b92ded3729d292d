"""Which moment of a training is kept: the one that scored best on dev."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from pipeline.evaluation.results import Epochs


class Moments:
    """What the moments of one initialisation's training scored, written down as they come; the best of them is kept.

    Args:
        epochs: where they are written.
        index: number of the initialisation.
        by: what is compared.

    Attributes:
        kept: number of the best so far, counted from 1, the earliest of equals; 0 before the first.

    """

    def __init__(self, epochs: Epochs, index: int, by: Literal["loss", "accuracy"]) -> None:
        self._epochs, self._index, self._by = epochs, index, by
        self._merits: list[float] = []
        self.kept = 0

    @property
    def last_is_kept(self) -> bool:
        """Whether the latest is the best so far."""
        return self.kept == len(self._merits)

    def add(self, logits: Tensor, labels: Tensor) -> float:
        """One more, by its logits [rows, C] and the true classes [rows]; its merit, of which less is better, no NaN."""
        loss = F.cross_entropy(logits, labels).item()
        accuracy = (logits.argmax(dim=-1) == labels).double().mean().item()
        merit = loss if self._by == "loss" else -accuracy
        self._merits.append(math.inf if math.isnan(loss) else merit)
        self.kept = 1 + self._merits.index(min(self._merits))
        self._epochs.add(self._index, len(self._merits), loss, accuracy, kept=self.kept)
        return self._merits[-1]
