"""The estimate of sets of text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
