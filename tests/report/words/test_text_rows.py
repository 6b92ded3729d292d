"""Rows of sets of text: their names, their order, what selected them, and what they cost."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config import Evaluate, Prepare, Text
from pipeline.report.layout import layout
from pipeline.report.words.cells import recipe, selection
from pipeline.report.words.rows import row_of
from pipeline.report.words.text import learned_for
from pipeline.students import flops
from pipeline.students.flops import Sizes
from pipeline.work.text import asked, of_text

SOURCE = {"task": {"name": "t", "source": {"kind": "hub", "id": "a/b"}, "text": ["x"]}, "model": "c/d"}
DDAL = {"name": "ddal", "labels": "unrestricted", "attention_labels": "cls", "validation": {"by": "accuracy"}}


def cell(method: dict[str, Any], parent: dict[str, Any] | None = None) -> Evaluate:
    made: dict[str, Any] = {"source": SOURCE, "method": method}
    if parent is not None:
        made["parent"] = {"source": SOURCE, "method": parent}
    return Evaluate.model_validate({"source": made, "protocol": {"name": "finetune"}})


CELLS = [
    cell({"name": "text", "shots": 5}),
    cell({"name": "text", "shots": 5, "labels": "unrestricted", "relaxation": {"name": "straight_through"}}),
    cell({"name": "text", "shots": 5, "relaxation": {"name": "mixture"}}),
    cell({"name": "text", "shots": 5, "relaxation": {"name": "admm"}}),
    cell({"name": "project"}, DDAL),
    cell({"name": "project", "measure": "l2"}, DDAL),
    cell({"name": "imported", "file": "a/dataset_0.json", "kind": "text", "shots": 5}),
    cell({"name": "random", "shots": 5}),
]


def test_names_and_order() -> None:
    assert [row.method for row in layout(CELLS, "table2").rows] == [
        "random real",
        "SL + AL, nearest tokens (cosine)",
        "SL + AL, nearest tokens (l2)",
        "text (swaps)",
        "text (straight-through), SL",
        "text (mixtures of tokens)",
        "text (ADMM)",
        "imported dataset_0.json",
    ]


def test_what_selected_them() -> None:
    assert [selection(each) for each in (*CELLS[:2], CELLS[4])] == ["dev loss", "dev loss", "dev accuracy"]
    published = cell({"name": "project"}, DDAL | {"validation": {"split": "test"}})
    assert selection(published) == "TEST loss (as published)"
    assert row_of(published).on_test
    assert recipe(CELLS[6]).startswith("finetune (revision 2: AdamW")


def composed(*methods: dict[str, Any]) -> Evaluate:
    return cell({"name": "composed", "parts": [{"of": {"source": SOURCE, "method": method}} for method in methods]})


def test_a_composed_set_is_selected_on_test_where_a_part_is() -> None:
    clean, leaky = {"name": "text", "shots": 5}, {"name": "text", "shots": 5, "validation": {"split": "test"}}
    assert not row_of(composed(clean, clean)).on_test
    found = layout([composed(clean, leaky), CELLS[0]], "table2")
    assert [row.on_test for row in found.rows] == [False, True]
    assert [label.endswith(" [selected on test]") for label in found.labels.values()] == [False, True]
    nested = composed(clean, {"name": "composed", "parts": [{"of": {"source": SOURCE, "method": leaky}}]})
    assert row_of(nested).on_test
    everything = layout([composed(leaky, {"name": "full"}), CELLS[0]], "table2")
    assert [label.endswith(" [selected on test]") for label in everything.labels.values()] == [False, True]


def test_nobody_knows_what_selected_published_sets() -> None:
    assert selection(CELLS[6]) == "not known (published by others)"
    part = {key: value for key, value in CELLS[6].source.method.model_dump(mode="json").items() if key != "revision"}
    assert selection(composed({"name": "text", "shots": 5}, part)) == "dev loss; not known (published by others)"


def test_students_of_other_encoders_are_named() -> None:
    """In the row, beside that of the first encoder alone, in what selected it, and in the card."""
    several = CELLS[0].source.model_copy(
        update={"others": tuple(Prepare.model_validate(SOURCE | {"model": name}) for name in ("e/f", "g/h", "i/j"))}
    )
    whole = CELLS[0].model_copy(update={"source": several})
    assert [row.method for row in layout([whole, *CELLS[:2]], "table2").rows] == [
        "text (swaps)",
        "text (swaps, also for f, h and j)",
        "text (straight-through), SL",
    ]
    assert selection(whole) == "dev loss, mean over 4 encoders"
    assert learned_for(CELLS[0].source) == []
    assert learned_for(several)[0].startswith("It was learned for students of f, h and j, too, who were given its text")


@pytest.mark.parametrize(("relaxation", "tried"), [({"name": "straight_through"}, 0), ({"name": "swaps"}, 6)])
def test_cost_by_hand(relaxation: dict[str, Any], tried: int) -> None:
    """Two draws, three steps; every proposal is a training and a pass over the real rows of its step."""
    method = Text.model_validate({"name": "text", "relaxation": relaxation, "steps": 2, "sequence_length": 8})
    sizes, read = Sizes(2, 32, 64, 4, 2, 32), [5, 7, 9, 6, 4, 8]
    found = of_text(method, sizes, "fused", read, 3, 1, fused=True)
    train = flops.training(sizes, [8, 8], fused=True)
    hyper = 3 * flops.hypergradient(sizes, 2, 8, 2, "fused") + flops.training(sizes, read, fused=True)
    proposals = tried * (3 * 2 * train + flops.forward(sizes, read, fused=True))
    assert found["outer"] == pytest.approx(2 * (hyper + proposals))
    assert found["training"] == pytest.approx(2 * 200 * train)


@pytest.mark.parametrize(
    ("relaxation", "tokens"),
    [
        ({"name": "swaps", "tokens": 2, "sentences": 3, "fluency": 1.0}, 40 * (2 + 3 + 1) * 4 * 8),
        ({"name": "admm", "top_k": 9, "every": 15}, 2 * 4 * (1 + 2 + 3 + 4 + 5 + 6 + 7)),
    ],
)
def test_what_a_language_model_reads_by_hand(relaxation: dict[str, Any], tokens: int) -> None:
    """Two samples for each of two classes, eight tokens, forty steps."""
    method = Text.model_validate({"name": "text", "relaxation": relaxation, "shots": 2, "sequence_length": 8})
    assert asked(method, 2, 40) == tokens
