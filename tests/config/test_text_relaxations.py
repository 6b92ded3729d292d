"""``configs/text_relaxations.yaml``: which ways it compares, on equal terms and without test rows."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import Sentences, Text, load
from pipeline.report.layout import layout

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "text_relaxations.yaml"


def test_every_way_from_the_same_start_without_test_rows() -> None:
    experiment, found = load(CONFIG), set()
    for cell in experiment.cells:
        method = cell.source.method
        assert cell.splits == ("dev",)
        if not isinstance(method, Text):
            assert (method.name, cell.shots) in {("random", 5), ("sentences", 5)}
            continue
        assert (cell.source.parent is not None) == method.asks_language_model
        equal = method.model_copy(update={"relaxation": None, "outer": method.outer.model_copy(update={"lr": 1.0})})
        found.add(repr(equal))
    assert len(found) == 1
    (learned,) = {(cell.source.method.shots, cell.source.method.sequence_length, cell.source.method.initialise)
                  for cell in experiment.cells if isinstance(cell.source.method, Text | Sentences)}  # fmt: skip
    assert learned == (5, 16, "telling")
    assert [row.method for row in layout(experiment.cells, "table2").rows] == [
        "random real",
        "text (not learned: telling sentences)",
        "text (swaps)",
        "text (swaps, fluent)",
        "text (straight-through)",
        "text (projected on the way)",
        "text (mixtures of tokens)",
        "text (ADMM)",
        "text (ADMM, fluent)",
    ]
