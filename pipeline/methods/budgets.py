"""How many samples each class gets, and in which order chosen rows stand in a set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.config import Budget
from pipeline.errors import InputError

Integers = np.ndarray[Any, np.dtype[np.int64]]


def per_class(counts: Integers, shots: int, budget: Budget, *, key: str = "shots") -> list[int]:
    """Samples of every class: classes x shots in all, at least one each.

    Args:
        counts: [C] training rows of every class.
        shots: mean number of samples per class.
        budget: ``uniform``, in proportion to the rows (``prior``), or to their square root (``sqrt``).
        key: what the config calls ``shots``.

    Raises:
        InputError: a class has fewer rows than its share.

    """
    weights = {"uniform": np.ones(len(counts)), "prior": counts, "sqrt": np.sqrt(counts)}[budget]
    shares = apportioned(len(counts) * shots, np.asarray(weights, dtype=np.float64), [1] * len(counts))
    for label, (rows, share) in enumerate(zip(counts.tolist(), shares, strict=True)):
        if rows < share:
            asked = f"{key}: {shots}" if budget == "uniform" else f"its {share} samples of {key}: {shots} by {budget}"
            raise InputError(f"class {label} has {rows} training rows, too few for {asked}; lower {key}")
    return shares


def apportioned(total: int, weights: np.ndarray[Any, np.dtype[np.float64]], least: Sequence[int]) -> list[int]:
    """``total`` divided in proportion to ``weights`` by largest remainders, and no part below its ``least``.

    Parts that would be below take their least, and the others share what is left; of equal remainders the first counts.
    """
    assert total >= sum(least)
    floor = np.asarray(least, dtype=np.int64)
    fixed = np.zeros(len(floor), dtype=bool)
    while True:
        free = np.where(fixed, 0.0, weights)
        exact = free * ((total - floor[fixed].sum()) / max(free.sum(), np.finfo(float).tiny))
        below = ~fixed & (exact < floor)
        if not below.any():
            break
        fixed |= below
    parts = np.where(fixed, floor, np.floor(exact + 1e-9).astype(np.int64))
    remainders = np.where(fixed, -1.0, exact - parts)
    parts[np.argsort(-remainders, kind="stable")[: total - parts.sum()]] += 1
    return [int(part) for part in parts]


def interleaved(chosen: Sequence[Integers]) -> Integers:
    """The first row of every class, then the second of those that have one, …

    With equal budgets sample i is of class i mod C, as in every other set.
    """
    longest = max(map(len, chosen))
    rows = [of_class[shot] for shot in range(longest) for of_class in chosen if shot < len(of_class)]
    return np.asarray(rows, dtype=np.int64)
