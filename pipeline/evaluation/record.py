"""The files of a cell, which agree on what is done whenever the process is killed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.evaluation.metrics import decisions, measure
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.results import MAJORITY, OWN, Results, Scores, VariantResults

_NONE: Mapping[Any, Mapping[str, float]] = {}


class Record:
    """``results.csv`` and ``predictions.h5``: an initialisation counts when it is in both.

    Args:
        out: the cell's folder.
        labels: [rows] true classes of every split.
        classes: C.

    """

    def __init__(self, out: Path, labels: Mapping[Any, Tensor], classes: int) -> None:
        self.labels, self.classes = labels, classes
        self._results = Results(out / "results.csv", tuple(labels))
        self._predictions = Predictions(out / "predictions.h5", labels, classes)
        self._results.keep(self._predictions.done)
        self._predictions.keep(self._results.done)

    @property
    def initialisations(self) -> set[int]:
        """Those that are in both files."""
        return self._results.done

    def write(
        self, index: int, logits: Mapping[Any, Tensor], seconds: float, more: Mapping[Any, Mapping[str, float]] = _NONE
    ) -> dict[Any, dict[str, float]]:
        """Adds an initialisation by its logits [rows, C] on every split; returns its scores, with ``more`` of them."""
        scores = {
            split: measure(logits[split], true) | dict(more.get(split, {})) for split, true in self.labels.items()
        }
        self._add(index, {split: each.argmax(dim=-1) for split, each in logits.items()}, scores, seconds)
        return scores

    def write_answers(self, index: int, answers: Mapping[Any, Tensor]) -> None:
        """Adds an initialisation that learned nothing by the classes [rows] that it answered on every split."""
        scores = {split: decisions(answers[split], true, self.classes) for split, true in self.labels.items()}
        self._add(index, answers, scores, 0.0)

    def _add(self, index: int, answers: Mapping[Any, Tensor], scores: Scores, seconds: float) -> None:
        """To the predictions first, so that what is in the results is in both."""
        self._predictions.add(index, answers)
        self._results.add(index, scores, seconds)


class VariantRecord(Record):
    """The same, and ``robustness.csv`` with every variant; arguments as for :class:`Record`."""

    def __init__(self, out: Path, labels: Mapping[Any, Tensor], classes: int) -> None:
        super().__init__(out, labels, classes)
        self._variants = VariantResults(out / "robustness.csv", tuple(labels))
        if (MAJORITY, 0) not in self._variants.done:
            constant = {split: torch.full_like(true, int(true.mode().values)) for split, true in labels.items()}
            worth = {split: decisions(constant[split], true, classes) for split, true in labels.items()}
            self._variants.add(MAJORITY, 0, worth, 0.0)

    @property
    def done(self) -> set[tuple[str, int]]:
        """Name of the variant and number of the initialisation."""
        found = {key for key in self._variants.done if key[0] not in (OWN, MAJORITY)}
        return found | {(OWN, index) for index in self.initialisations if (OWN, index) in self._variants.done}

    def add(self, variant: str, index: int, logits: Mapping[Any, Tensor], seconds: float) -> None:
        """Adds what one student scored."""
        scores = {split: measure(logits[split], true) for split, true in self.labels.items()}
        self._variants.add(variant, index, scores, seconds)
        if variant == OWN:
            self.write(index, logits, seconds)
