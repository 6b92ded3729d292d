"""What stage 3 left of one cell: its runs and its predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from pipeline.config import Evaluate, inputs
from pipeline.config.chain import STAGE_NAMES
from pipeline.evaluation.predictions import Predicted, read
from pipeline.report import outer_losses
from pipeline.store import Cell, Store

RESULTS = ["initialisation", "split", "metric", "value", "seconds"]
NUMBERS = {"initialisation": int, "value": float, "seconds": float}  # from text: to the last bit


@dataclass(frozen=True)
class Problem:
    """A cell without results: the stage that stopped it, that stage's state and, where it failed, the reason."""

    slug: str
    stage: str
    state: str
    reason: str | None


@dataclass(frozen=True)
class Finished:
    """A finished cell.

    Attributes:
        config: of the cell.
        identity: what it counts as, with what its files counted as.
        runs: as in ``results.csv``: initialisation, split, metric, value, seconds.
        distill_seconds: that its set took, None where it, or that of a parent, is not known.
        predictions: of a split, None where there are none: the cell was evaluated before they were stored.
        losses: of its set, over the outer steps (``outer_losses``); None where its log is gone or holds none.
        archived: whether it was found in the committed files, not in the store.
        parent_seconds: name -> what each parent took that the set goes back to; sets may have them in common.

    """

    config: Evaluate
    identity: Any
    runs: pd.DataFrame
    distill_seconds: float | None
    predictions: Callable[[str], Predicted | None]
    losses: Callable[[], outer_losses.Points | None]
    archived: bool = False
    parent_seconds: Mapping[str, float] = field(default_factory=dict)


def in_store(config: Evaluate, store: Store) -> Finished | Problem:
    """A cell of the store, or why it has no results.

    Raises:
        InputError: it was made with another default, or a local file of the config does not exist.

    """
    cell = store.cell(config)
    if cell.state != "done":
        blamed = _blamed(cell, store)
        return Problem(config.slug, STAGE_NAMES[type(blamed.config)], blamed.state, blamed.failure())
    cell.check()
    results = cell.folder / "results.csv"
    try:
        frame = pd.read_csv(results, dtype=str, keep_default_na=False)[RESULTS].astype(NUMBERS)
    except (OSError, ValueError, KeyError) as error:
        reason = f"{results}: {error}; remove the folder and run stage 3 again"
        return Problem(config.slug, "evaluate", "unreadable", reason)
    metric = config.prepared.task.metric
    if metric not in set(frame["metric"]):
        return Problem(config.slug, "evaluate", "unreadable", f"{results} has no rows of {metric}")
    identity = store.identity(config)["config"]
    took = {one.folder.name: one.seconds() for one in map(store.cell, config.source.chain)}
    parents = {name: seconds for name, seconds in list(took.items())[1:] if seconds is not None}
    own = None if len(parents) + 1 < len(took) else next(iter(took.values()))
    predictions, log = cell.folder / "predictions.h5", store.cell(config.source).folder / "log.csv"
    files = (lambda split: read(predictions, split)), (lambda: outer_losses.read(log))
    return Finished(config, identity, frame, own, *files, parent_seconds=parents)


def _blamed(cell: Cell, store: Store) -> Cell:
    """The earliest artifact that holds the cell up: one whose own inputs are there."""
    for config in reversed(inputs(cell.config)):
        earlier = store.cell(config)
        if earlier.state != "done":
            return _blamed(earlier, store)
    return cell
