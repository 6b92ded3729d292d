"""The estimate of sets of text."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import work
from pipeline.config import load
from pipeline.launch.estimate import estimate
from pipeline.store import Store

Write = Callable[..., Path]
PARENT = {"name": "ddal", "sequence_length": 8, "outer": {"steps": 2, "batch_size": 4}, "validation": {"every": 2}}


@pytest.mark.usefixtures("forks")
@pytest.mark.parametrize(
    "distill",
    [
        {"method": {"name": "text", "sequence_length": 6, "steps": 1, "outer": {"steps": 2, "batch_size": 4}}},
        {"method": {"name": "project"}, "parent": {"method": PARENT}},
    ],
)
def test_both_stages_are_predicted(experiment: Write, tmp_path: Path, distill: dict[str, Any]) -> None:
    evaluate = {"protocol": {"name": "finetune", "steps": 2}}
    plan = load(experiment(distill=distill | {"runtime": {"threads": 1}}, evaluate=evaluate))
    lines = estimate(plan, Store(tmp_path / "ck"), lambda text: None)
    assert {line.stage for line in lines} == {"distill", "evaluate"}
    for line in lines:
        assert line.predicted is not None, line.trouble
        assert all(each.seconds > 0 for each in line.predicted)


@pytest.mark.usefixtures("forks")
def test_students_of_several_encoders_are_counted_each(
    experiment: Write, encoder_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """Two equal ones are twice the work of one, in every part; another one is more by its own."""
    method = {"name": "text", "sequence_length": 6, "steps": 1, "outer": {"steps": 2, "batch_size": 4}}
    twin = shutil.copytree(encoder_folder("bert"), tmp_path / "twin")
    others: list[Any] = [[{"model": str(twin)}], [{"model": str(encoder_folder("albert"))}]]
    evaluate = {"protocol": {"name": "finetune", "steps": 2}}
    plan = load(experiment(method=method, evaluate=evaluate, grids=[{"distill.others": others}]))
    store = Store(tmp_path / "ck")
    lines = estimate(plan, store, lambda text: None)
    assert all(line.predicted for line in lines), [line.trouble for line in lines]
    assert [line.what.partition("tokens")[2] for line in lines][:2] == [" with twin", " with albert"]
    first, second = (cell.source for cell in plan.cells)
    folder = store.cell(first.source).folder
    alone = work.of_distill(first.model_copy(update={"others": ()}), folder)
    assert work.of_distill(first, folder) == alone * 2
    mixed = work.of_distill(second, folder)
    for kind in ("outer", "training", "scoring"):
        assert getattr(alone, kind) > 0
        assert getattr(mixed, kind) > getattr(alone, kind)
        assert getattr(mixed, kind) != pytest.approx(2 * getattr(alone, kind))  # no passes without padding
