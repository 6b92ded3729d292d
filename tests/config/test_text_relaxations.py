"""``configs/text_relaxations.yaml``: which ways it compares, on equal terms and without test rows."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import Text, load
from pipeline.report.layout import layout

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "text_relaxations.yaml"


def test_every_way_from_the_same_start_without_test_rows() -> None:
    experiment, found = load(CONFIG), set()
    for cell in experiment.cells:
        method = cell.source.method
        assert isinstance(method, Text)
        assert cell.splits == ("dev",)
        assert (cell.source.parent is not None) == method.asks_language_model
        equal = method.model_copy(update={"relaxation": None, "outer": method.outer.model_copy(update={"lr": 1.0})})
        found.add(repr(equal))
    assert len(found) == 1
    assert [row.method for row in layout(experiment.cells, "table2").rows] == [
        "text (swaps)",
        "text (swaps, fluent)",
        "text (straight-through)",
        "text (projected on the way)",
        "text (mixtures of tokens)",
        "text (ADMM)",
        "text (ADMM, fluent)",
    ]
