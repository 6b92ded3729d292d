"""How robust sets are to their use: what ``robust`` and ``vectors_robust`` scored, as a matrix and one number per set.

The *retention* of a variant is the share of the recipe's worth that is left: (a − m) / (o − m) with the mean accuracy a
of the variant, o of the set's own recipe and m of always answering the split's most frequent class (likewise for other
metrics of a task). The *area* of a factor is the mean over its values of the retention, clipped to 0 … 1; of step size
and number of steps, whose values lie on a line, the area under the retention (trapezoids over the logarithm of the
multiple, the recipe itself at 1, divided by the line's length). The area of a set is the mean over its factors: 1 where
nothing matters, 0 where every change loses everything. Its standard error is the jackknife's (Efron, 1982), over sets
where there are several, otherwise over initialisations. A set whose own recipe is not above the majority (lower end of
the 95 % interval) has neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.config import Evaluate, Robust, RobustOnVectors
from pipeline.errors import InputError
from pipeline.evaluation.results import MAJORITY, OWN
from pipeline.report.archive import name_of
from pipeline.report.collect import Collected
from pipeline.report.finished import Finished
from pipeline.report.layout import Column
from pipeline.report.row import Row
from pipeline.report.statistics.intervals import estimate
from pipeline.report.words.cells import recipe
from pipeline.store import Store

FACTORS = {
    "order": "order of batches",
    "batch": "batch size",
    "optimizer": "optimiser",
    "learning_rate": "step sizes",
    "steps": "number of steps",
    "dropout": "dropout",
    "precision": "precision",
    "attention_labels": "attention labels",
    "student": "student",
}
LINES = ("learning_rate", "steps")
_KEYS = ["cell", "variant", "initialisation", "split", "seconds"]


@dataclass(frozen=True)
class Profile:
    """What became of one set (or of those of several seeds) under all variants.

    Attributes:
        row, column: its place in the tables.
        label: what tables call it.
        recipe: that is varied, in a few words.
        values: variant -> [sets, initialisations] the task's metric on the column's split.
        floor: the metric of always answering the most frequent class.

    """

    row: Row
    column: Column
    label: str
    recipe: str
    values: Mapping[str, np.ndarray]
    floor: float

    @property
    def size(self) -> str:
        """``sets × initialisations``."""
        sets, initialisations = self.values[OWN].shape
        return f"{sets} × {initialisations}"

    @property
    def is_above_majority(self) -> bool:
        """Whether there is anything to retain."""
        own = estimate(self.values[OWN].tolist())
        return (own.mean if own.low is None else own.low) > self.floor

    @property
    def factors(self) -> dict[str, list[str]]:
        """The values of every factor that was varied, in the order of the tables; multiples from small to large."""
        found = {factor: [v for v in self.values if v.startswith(f"{factor}=")] for factor in FACTORS}
        for factor in LINES:
            found[factor].sort(key=multiple)
        return {factor: variants for factor, variants in found.items() if variants}

    def points(self, factor: str) -> list[str]:
        """The variants of a factor; on a line with the recipe in its place."""
        variants = self.factors[factor]
        return sorted([*variants, OWN], key=multiple) if factor in LINES else variants

    def retention(self, variant: str) -> float | None:
        """The share of the recipe's worth that is left, not clipped."""
        return _retention(self._means, variant, self.floor) if self.is_above_majority else None

    @cached_property
    def areas(self) -> dict[str, float]:
        """Of every factor; empty where the recipe itself is not above the majority."""
        return self._areas(self._means) if self.is_above_majority else {}

    @property
    def area(self) -> float | None:
        """The mean over factors."""
        return float(np.mean(list(self.areas.values()))) if self.areas else None

    @property
    def area_error(self) -> float | None:
        """Jackknife standard error of :attr:`area`."""
        axis = 0 if len(self.values[OWN]) > 1 else 1
        n = self.values[OWN].shape[axis]
        if n < 2 or self.area is None:
            return None
        left_out = [{v: np.delete(a, i, axis).mean() for v, a in self.values.items()} for i in range(n)]
        areas = [np.mean(list(self._areas(means).values())) for means in left_out]
        return float(math.sqrt((n - 1) * np.var(areas)))

    @property
    def _means(self) -> dict[str, float]:
        return {variant: float(values.mean()) for variant, values in self.values.items()}

    def _areas(self, means: Mapping[str, float]) -> dict[str, float]:
        kept = {variant: min(1.0, max(0.0, _retention(means, variant, self.floor))) for variant in self.values}
        found = {}
        for factor in self.factors:
            heights = [kept[variant] for variant in self.points(factor)]
            if factor in LINES:
                at = np.log10([multiple(variant) for variant in self.points(factor)])
                found[factor] = float(np.trapezoid(heights, at) / (at[-1] - at[0]))
            else:
                found[factor] = float(np.mean(heights))
        return found


def multiple(variant: str) -> float:
    """k of ``learning_rate=xk`` and ``steps=xk``; 1 of the recipe itself."""
    return 1.0 if variant == OWN else float(variant.partition("=x")[2])


def profiles(collected: Collected, runs: pd.DataFrame) -> list[Profile]:
    """Those of all sets that were evaluated by ``robust``, from :func:`variant_runs`."""
    found = []
    for (row, column), entry in collected.entries.items():
        cells = () if entry.chosen is None else tuple(c for c in entry.chosen.cells if _is_robust(c.config))
        frames = [_matrix(runs, cell, column) for cell in cells]
        if frames:
            # what all sets of the place have: with other seeds there may be more initialisations
            columns = [frame.columns for frame in frames]
            shared = [n for n in columns[0] if all(n in each for each in columns)]
            values = {v: np.stack([frame.loc[v, shared] for frame in frames]) for v in frames[0].index if v != MAJORITY}
            label = collected.layout.labels[row]
            floor = float(frames[0].loc[MAJORITY].to_numpy(float)[0])
            found.append(Profile(row, column, label, recipe(cells[0].config), values, floor))
    return found


def variant_runs(collected: Collected, store: Store, archived: pd.DataFrame | None) -> pd.DataFrame:
    """One line per (cell, variant, initialisation, split) with every metric, of all cells evaluated by ``robust``.

    Args:
        collected: the finished cells.
        store: where their ``robustness.csv`` are.
        archived: what this returned before, for cells that are not there any more.

    Raises:
        InputError: a cell is archived, and the archive of variants lacks it.

    """
    frames = []
    for cell, _ in collected.cells:
        if not _is_robust(cell.config):
            continue
        name = name_of(cell.config)
        if not cell.archived:
            frames.append(_wide(name, read_runs(store.cell(cell.config).folder / "robustness.csv")))
        elif archived is not None and name in set(archived["cell"]):
            frames.append(archived[archived["cell"] == name])
        else:
            raise InputError(f"{name}: its variants are not in the archive; restore <experiment>.robustness.runs.csv")
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=_KEYS)


def read_runs(path: Path) -> pd.DataFrame:
    """``robustness.csv`` or the archive of variants, numbers to the last bit."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    numbers = [name for name in frame.columns if name not in ("cell", "variant", "split", "metric")]
    # what was not measured is empty; python's own float knows nan
    found = {name: [float(text) if text else math.nan for text in frame[name]] for name in numbers}
    return frame.assign(**found).astype({"initialisation": int})


def _is_robust(config: Evaluate) -> bool:
    return isinstance(config.protocol, Robust | RobustOnVectors)


def _wide(name: str, runs: pd.DataFrame) -> pd.DataFrame:
    order = list(dict.fromkeys([MAJORITY, *runs["variant"]]))
    ordered = runs.assign(variant=pd.Categorical(runs["variant"], order, ordered=True))
    wide = ordered.pivot(index=_KEYS[1:], columns="metric", values="value").reset_index().rename_axis(columns=None)
    wide.insert(0, "cell", name)
    return wide.astype({"variant": str})


def _matrix(runs: pd.DataFrame, cell: Finished, column: Column) -> pd.DataFrame:
    """[variants, initialisations] of the task's metric on the column's split."""
    mine = runs[(runs["cell"] == name_of(cell.config)) & (runs["split"] == column.split)]
    matrix = mine.pivot(index="variant", columns="initialisation", values=column.metric)
    return matrix.loc[list(dict.fromkeys(mine["variant"]))]


def _retention(means: Mapping[str, float], variant: str, floor: float) -> float:
    worth = means[OWN] - floor
    return (means[variant] - floor) / worth if worth > 0 else 0.0
