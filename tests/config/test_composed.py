"""Sets composed of others, and joined tasks: what is completed, what is refused, what counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import Composed, Distill, inputs, load, upstream
from pipeline.config.schema import canonical
from pipeline.report.alternatives import hyper_parameters
from pipeline.report.layout import layout
from pipeline.report.words.rows import row_of
from tests.config.conftest import refusal

FIRST = {"name": "one", "source": {"kind": "files", "train": "x.csv"}, "text": ["text"]}
SECOND = {"name": "two", "source": {"kind": "files", "train": "y.csv"}, "text": ["body"], "metric": "accuracy_f1"}
BOTH = {"name": "both", "source": {"kind": "joined", "tasks": [FIRST, SECOND]}, "text": ["text"]}
PREPARE: dict[str, Any] = {"task": BOTH, "model": "one/bert", "seed": 3}
DDAL: dict[str, Any] = {"name": "ddal", "sequence_length": 8}
RANDOM: dict[str, Any] = {"name": "random", "shots": 2}
Write = Callable[..., Path]


def part(task: Any = None, method: Any = RANDOM, source: Any = None, **rule: Any) -> dict[str, Any]:
    of: dict[str, Any] = {"method": method, **rule.pop("of", {})}
    given = ({} if task is None else {"task": task}) | (source or {})
    return {"of": of | ({"source": given} if given else {}), **rule}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """An experiment with one composed set."""

    def write(*parts: Any, evaluate: Any = None, prepare: Any = None, distill: Any = None, **top: Any) -> Path:
        method = {"name": "composed", "parts": list(parts)}
        base = {
            "prepare": PREPARE | (prepare or {}),
            "distill": {"method": method} | (distill or {}),
            "evaluate": {"protocol": {"name": "finetune"}} | (evaluate or {}),
        }
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"base": base, **top}, sort_keys=False))
        return path

    return write


def made(path: Path) -> list[Distill]:
    return [cell.source for cell in load(path).cells]


def test_parts_take_what_they_leave_out_from_prepare_and_the_whole(write: Write) -> None:
    runtime = {"threads": 1}
    parts = [part(FIRST), part(SECOND, source={"max_length": 7}, of={"seed": 9}), part()]
    (found,) = made(write(*parts, distill={"seed": 5, "runtime": runtime}))
    first, second, whole = found.made_of
    assert (first.source.task.name, first.source.model.name, first.source.seed) == ("one", "one/bert", 3)
    assert (first.seed, first.runtime.threads) == (5, 1)
    assert (second.source.task.name, second.source.max_length, second.seed) == ("two", 7, 9)
    assert whole.source == found.source
    assert found.chain == (found, first, second, whole)
    assert inputs(found) == (found.source, first, second, whole)
    assert {one.task.name for one in upstream(found) if not isinstance(one, Distill)} == {"one", "two", "both"}


def test_seeds_make_parts_anew_unless_they_name_theirs(write: Write) -> None:
    found = made(write(part(FIRST), part(SECOND, of={"seed": 9}), seeds=[1, 2]))
    assert [[one.seed for one in each.made_of] for each in found] == [[1, 9], [2, 9]]
    fixed = [part(FIRST, {"name": "full"}), part(SECOND, of={"seed": 9})]
    assert len(made(write(*fixed, seeds=[1, 2]))) == 1  # nothing in it depends on the seed


def test_what_a_set_is_composed_of_is_what_it_is(write: Write) -> None:
    (found,) = made(write(part(FIRST), part(SECOND)))
    (other,) = made(write(part(FIRST), part(SECOND, repeat=2)))
    (plain,) = made(write(part(FIRST, repeat=1, phase=1), part(SECOND, classes=None)))
    assert canonical(found) == canonical(plain) != canonical(other)
    kept = canonical(found)["method"]["parts"]
    assert [sorted(one) for one in kept] == [["of"], ["of"]]
    assert isinstance(found.method, Composed)
    assert (found.method.makes, found.method.has_steps, found.is_drawn) == ("text", False, True)


def test_mistakes_are_reported_where_they_were_made(write: Write) -> None:
    said = refusal(write(part(FIRST, {"name": "random", "shot": 3}), part(SECOND, phases=2)))
    assert "distill.method.parts.0.of.method.shot: unknown key (did you mean 'shots'?)" in said
    assert "distill.method.parts.1.phases: unknown key (did you mean 'phase'?); allowed: of, classes" in said


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ([part(FIRST, DDAL), part(SECOND)], "'random' makes text and 'ddal' makes embeddings, which no batch holds"),
        ([part(FIRST, {"name": "majority"})], "holds one row that nothing is trained on"),
        ([part(FIRST), part(SECOND, phase=3)], "their phases are 1, 3; count from 1 without gaps"),
        ([part(FIRST, shots=3)], "parts.0.shots: 3, and 'random' has 2 samples per class"),
        ([part(FIRST, {"name": "full"}, shots=3)], "'full' has no number of samples per class"),
        ([part(FIRST, DDAL, repeat=2)], "parts.0.repeat: the steps of 'ddal' see each sample as often as they say"),
        ([part(FIRST, DDAL), part(SECOND, DDAL | {"sequence_length": 9})], "sequence_length: 9, and that of the first"),
        ([part(FIRST, classes=[1, 1])], "parts.0.classes: one is given twice"),
        (
            [part(FIRST | {"name": "three"})],
            "three is neither the task of prepare nor one that it joins (both, one, two)",
        ),
        ([part(FIRST, source={"seed": 4})], "parts.0.of.source.seed: not that of prepare"),
        ([part(FIRST, source={"model": "other/bert"})], "the part is of other/bert, and students are one/bert"),
    ],
)
def test_what_cannot_be_composed_is_refused(write: Write, parts: list[Any], sentence: str) -> None:
    assert sentence in refusal(write(*parts))


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (BOTH | {"source": {"kind": "joined", "tasks": [FIRST, FIRST]}}, "two are called the same"),
        (BOTH | {"source": {"kind": "joined", "tasks": [FIRST, BOTH]}}, "'both' is joined itself"),
        (BOTH | {"name": "two"}, "name: 'two' is that of one of the tasks that it joins (one, two)"),
        (BOTH | {"text": ["a", "b"]}, "'one' reads 1 columns, and text names 2"),
        (BOTH | {"metric": "f1"}, "more than two classes"),
        (
            BOTH | {"source": {"kind": "joined", "tasks": ["sst", FIRST]}},
            "no task is called 'sst' (did you mean 'sst2'?)",
        ),
    ],
)
def test_tasks_that_do_not_go_together(write: Write, task: Any, sentence: str) -> None:
    assert sentence in refusal(write(part(), prepare={"task": task}))


def test_evaluations_of_joined_tasks(write: Write) -> None:
    asked = [None, {"task": FIRST}, {"task": SECOND}]
    cells = load(write(part(FIRST), part(SECOND), grids=[{"evaluate.data": asked}])).cells
    assert [cell.prepared.task.name for cell in cells] == ["both", "one", "two"]
    assert [cell.asks_part for cell in cells] == [False, True, True]
    assert {cell.learned.task.name for cell in cells} == {"both"}
    assert cells[2].slug.endswith(".finetune.on-two")
    other = FIRST | {"name": "three"}
    assert "none of the tasks that the set's source joins (one, two)" in refusal(
        write(part(), evaluate={"data": {"task": other}})
    )
    assert "data.seed" in refusal(write(part(), evaluate={"data": {"seed": 8}}))
    robust = {"protocol": {"name": "robust"}}
    assert "evaluate the parts of 'composed' with it" in refusal(write(part(), evaluate=robust))
    assert "write parts.….shots instead" in refusal(write(part(), evaluate={"prefix": 1}))


def test_rows_are_named_by_parts_and_phases(write: Write) -> None:
    grids = [
        {"evaluate.data": [None, {"task": FIRST}]},
        {"distill.method": [{"name": "full"}], "evaluate.data": [{"task": FIRST}]},
    ]
    parts = [part(FIRST, {"name": "full"}), part(SECOND, phase=2, classes=[0]), part(FIRST, phase=2, repeat=4)]
    cells = load(write(*parts, grids=grids)).cells
    name = "one full data, then two random real, 2 shots, classes 0 + 4 × (one random real, 2 shots)"
    assert [row_of(cell).method for cell in cells] == [name, name, "full data, of both"]
    assert [row_of(cell).kind for cell in cells] == ["mixture"] * 3
    plan = layout(cells, "table2")
    assert [column.task for column in plan.columns] == ["both", "one"]
    update = made(write(part(classes=[0, 1]), part(classes=[2])))
    assert update[0].method.slug == "composed-random+random"


def test_only_seeds_are_no_hyper_parameters(write: Write) -> None:
    first, second = load(write(part(FIRST), part(SECOND), seeds=2)).cells
    assert hyper_parameters(first) == hyper_parameters(second)
    (third,) = load(write(part(FIRST), part(SECOND, RANDOM | {"budget": "prior"}))).cells
    there, here = hyper_parameters(third), hyper_parameters(first)
    assert {key for key in there if there[key] != here[key]} == {"distill.method.parts.1.of.method.budget"}
