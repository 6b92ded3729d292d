"""What tables say of sets that a language model is shown, and what they cost."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config import Evaluate
from pipeline.report.collect import Sample
from pipeline.report.figures.scores import _references
from pipeline.report.layout import layout
from pipeline.report.pairs import same_budget
from pipeline.report.words.cells import recipe
from pipeline.report.words.prompts import left_out
from pipeline.report.words.rows import row_of
from pipeline.stage1_prepare import run as prepare
from pipeline.work import prompts as prompt_work
from tests.language_stand_in import byte_folder, byte_model

TASK = {"name": "mine", "source": {"kind": "files", "train": "a.csv"}, "text": ["text"]}
RANDOM: dict[str, Any] = {"name": "random", "shots": 4}


def cell(method: dict[str, Any] = RANDOM, protocol: dict[str, Any] | None = None, **changes: Any) -> Evaluate:
    source = {"source": {"task": TASK, "model": "bert"}, "method": method}
    data = {"task": TASK, "model": {"name": "gpt2", "head": "language"}}
    whole = {"source": source, "data": data, "protocol": {"name": "prompting"} | (protocol or {})}
    return Evaluate.model_validate(whole | changes)


def test_rows_say_how_the_model_was_asked() -> None:
    named = {
        "zero-shot": cell({"name": "empty"}),
        "zero-shot, calibrated": cell({"name": "empty"}, {"calibration": ["N/A"]}),
        "random real, prompted, 4 shots": cell(),
        "random real, prompted, 2 shots": cell(prefix=2),
        "random real, prompted, mean over tokens, 4 shots": cell(protocol={"scoring": "mean"}),
        "random real, prompted, DiLM's prompt, 4 shots": cell(protocol={"name": "dilm_prompting"}),
        "herding, prompted, made with bert, 4 shots": cell({"name": "herding", "shots": 4}),
    }
    plan = layout(list(named.values()), "table2")
    assert [plan.labels[row] for row, _ in plan.places] == list(named)
    assert [row.kind for row in plan.rows[:2]] == ["zero-shot", "zero-shot"]
    assert not any(row.competes for row in plan.rows[:2])


def test_only_those_that_are_asked_alike_are_compared() -> None:
    chosen = row_of(cell({"name": "herding", "shots": 4}))
    assert same_budget(chosen, row_of(cell()))
    assert not same_budget(chosen, row_of(cell(prefix=2)))
    assert not same_budget(chosen, row_of(cell(protocol={"calibration": ["N/A"]})))


def test_other_numbers_of_rows_are_other_columns() -> None:
    plan = layout([cell(), cell(protocol={"examples": 50}), cell(protocol={"examples": 90})], "table2")
    assert [column.title for column in plan.columns] == ["mine (all rows)", "mine (50 rows)", "mine (90 rows)"]
    assert [column.examples for column in plan.columns] == [None, 50, 90]
    assert [column.title for column in layout([cell(protocol={"examples": 50})], "table2").columns] == ["mine"]


def test_the_caption_says_what_was_done() -> None:
    text = recipe(cell(protocol={"calibration": ["N/A", ""], "examples": 50, "precision": "bf16"}))
    for words in ("prompting (revision 1: nothing is trained", "bf16 weights", "'N/A', ''", "50 rows drawn", "order"):
        assert words in text
    assert recipe(cell({"name": "empty"})).endswith("of its name after the query alone)")


def test_zero_shot_is_a_line_of_the_figure() -> None:
    """Beside chance; one for every way to ask."""
    plan = layout([cell({"name": "empty"}), cell({"name": "empty"}, {"calibration": ["N/A"]})], "table2")
    scores = [(row, Sample(((value,),))) for row, value in zip(plan.rows, (0.7, 0.8), strict=True)]
    nothing: Any = SimpleNamespace(
        reference=lambda *_: None, classes=lambda _: 2, references=lambda kind, _: scores if kind == "zero-shot" else []
    )
    drawn: dict[str, tuple[float, str]] = {}
    panel = SimpleNamespace(axvline=lambda at, label, linestyle, **_: drawn.update({label: (at, linestyle)}))
    _references(panel, nothing, plan.columns[0])
    assert drawn == {"chance": (50, "--"), "zero-shot": (70, "-"), "zero-shot, calibrated": (80, "-.")}


def test_what_did_not_fit_is_said() -> None:
    assert left_out(8.0, 0.0, 0.0) == ""
    assert left_out(5.25, 2.75, 0.0) == "5.2 of 8 examples fit, on average"
    assert left_out(0.0, 8.0, 0.031) == "0.0 of 8 examples fit, on average and 3.1 % of the queries were cut"


def test_work_is_that_of_all_tokens(tmp_path: Path, corpus_file: Path) -> None:
    """2 FLOPs per weight and token, 4 per layer, width and token that is looked at; the examples are read once."""
    data = {
        "task": TASK | {"source": {"kind": "files", "train": str(corpus_file)}},
        "model": {"name": str(byte_folder(tmp_path / "model")), "head": "language"},
        "dev": 20,
        "test": 30,
    }
    source = {"source": data | {"model": "bert"}, "method": {"name": "random", "shots": 3}}
    named = {"name": "prompting", "labels": ["bad", "good"]}
    found = Evaluate.model_validate({"source": source, "data": data, "protocol": named, "splits": ["test"]})
    assert found.data is not None
    prepare(found.data, tmp_path / "made")
    from pipeline.data.prepared import Prepared

    splits = {name: Prepared(tmp_path / "made").split(name).lengths for name in ("train", "test")}
    weights = sum(parameter.numel() for parameter in byte_model("gpt2").parameters())
    shown = 2 * 3 * (splits["train"].mean() + 8)
    wanted = shown * (2 * weights + 4 * 2 * 32 * shown / 2)
    for length in splits["test"]:
        wanted += (length + 8) * (2 * weights + 4 * 2 * 32 * (shown + (length + 8) / 2))
    assert prompt_work.of_scoring(found, tmp_path / "made")["scoring"] == pytest.approx(wanted)
    half = found.model_copy(update={"protocol": found.protocol.model_copy(update={"examples": 15})})
    rows = wanted - prompt_work.of_examples(found, tmp_path / "made")
    assert prompt_work.of_scoring(half, tmp_path / "made")["scoring"] == pytest.approx(wanted - rows / 2)
