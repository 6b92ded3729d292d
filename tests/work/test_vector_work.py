"""The work of cells on vectors, from their configs alone, against what torch counts while they really run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import work
from pipeline.config import load
from pipeline.launch.estimate import estimate
from pipeline.store import Store
from tests.students.flop_counter import counted_stages

TRANSFORMER = {"name": "transformer", "tokens": 4, "width": 16, "layers": 1, "heads": 2, "feed_forward": 32}
BPTT: dict[str, Any] = {"name": "bptt", "steps": 16, "outer": {"steps": 5, "batch_size": 24}}
METHODS: list[dict[str, Any]] = [
    {"shots": 2, "draws": 2, "validation": {"every": 2, "examples": 20, "initialisations": 3, "steps": 20}},
    {"window": 8, "start": "end", "student": TRANSFORMER, "validation": {"split": "none"}},
    {
        "shots": 3,
        "boost": {"stages": [1, 3], "beta": 0.3},
        "validation": {"every": 4},
        "outer": {"hard_mining": {"every": 2}},
    },
    {"shots": 3, "batch_shots": 2, "classes_per_batch": 1, "validation": {"split": "none"}, "estimator": "unroll"},
]


def cell(experiment: Callable[..., Path], method: dict[str, Any], **protocol: Any) -> Any:
    given = {"name": "vectors", "steps": 30, "batch_size": 4} | protocol
    path = experiment(
        prepare={"vectors": "mean"},
        distill={"method": method},
        evaluate={"protocol": given, "initialisations": 3},
    )
    return load(path)


@pytest.mark.parametrize("changes", METHODS)
def test_a_learned_set(experiment: Callable[..., Path], tmp_path: Path, changes: dict[str, Any]) -> None:
    method = BPTT | changes | {"outer": BPTT["outer"] | changes.get("outer", {})}
    distill, evaluate = _compared(cell(experiment, method).cells[0], Store(tmp_path / "root"))
    assert distill == pytest.approx(1, abs=0.08)
    assert evaluate == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("method", [{"name": "random", "shots": 3}, {"name": "full"}])
def test_real_rows(experiment: Callable[..., Path], tmp_path: Path, method: dict[str, Any]) -> None:
    selecting = {"student": TRANSFORMER, "epochs": 3, "steps": 200, "select": {"examples": 10}}
    _, evaluate = _compared(cell(experiment, method, **selecting).cells[0], Store(tmp_path / "root"))
    assert evaluate == pytest.approx(1, abs=0.02)


def test_an_estimate_of_such_a_grid(experiment: Callable[..., Path], tmp_path: Path) -> None:
    """Its slices by interpreters that start anew, as for a user."""
    config, store = (
        cell(experiment, BPTT | {"shots": 3, "boost": {"stages": [1, 3], "beta": 0.3}}),
        Store(tmp_path / "root"),
    )
    lines = estimate(config, store, lambda text: None)
    assert [line.trouble for line in lines] == ["", ""]
    assert all(line.predicted is not None and line.predicted[0].seconds > 0 for line in lines)


def _compared(cell: Any, store: Store) -> tuple[float, float]:
    """What is estimated for stages 2 and 3, over what torch counted."""
    found = counted_stages(cell, store)
    folder = store.cell(cell.source.source).folder
    ours = work.of_distill(cell.source, folder).total, work.of_evaluate(cell, folder).total
    return ours[0] / max(1.0, found[1]), ours[1] / found[2]
