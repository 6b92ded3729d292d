"""A set for a terminal."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.distilled import DistilledSet, Recipe
from pipeline.distilled.shown import readable

STEP = {"step": 4, "accuracy": 0.75}


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"selection": {"split": "dev"} | STEP}, "selected on dev: outer step 4, accuracy 75.0 %"),
        ({"selection": {"split": "test"}}, "selected on test"),
        ({"imported": {"format": "ddal"}}, "selected on an unknown split, if on any (published by others)"),
        ({"selection": {"split": "none", "step": 4}}, None),
    ],
)
def test_what_selected_it(about: dict[str, Any], said: str | None) -> None:
    one = torch.eye(2)
    lines = list(readable(DistilledSet(one, torch.tensor([0, 1]), Recipe("vectors"), vectors=one, about=about), None))
    assert [line for line in lines if line.startswith("selected")] == ([said] if said else [])
