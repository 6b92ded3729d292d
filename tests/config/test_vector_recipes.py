"""Configs of vectors: short forms, what moves an address, what a recipe is on so many samples."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.config import BPTT, Evaluate, Mlp, OnVectors, RandomReal, RobustOnVectors, Transformer, Vectors, load
from pipeline.config.schema import canonical

Make = Callable[..., Evaluate]
CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(prepare: dict[str, Any] | None = None, method: Any = None, **evaluate: Any) -> Evaluate:
        task = {"name": "mine", "source": {"kind": "files", "train": "data.csv"}, "text": "text"}
        first = {"task": task, "model": "bert", "vectors": "cls"} | (prepare or {})
        second = {"source": first, "method": method or {"name": "random", "shots": 5}}
        protocol = {"name": "vectors", "student": "mlp"}
        return Evaluate.model_validate({"source": second, "protocol": protocol} | evaluate)

    return make


def test_short_forms(make: Make) -> None:
    cell = make({"vectors": "mean"})
    assert cell.source.source.vectors == Vectors(pooling="mean")
    assert cell.source.source.slug == "mine.bert.mean"
    assert cell.student == Mlp(name="mlp")
    assert cell.slug == "mine.bert.mean.random.5shot.seed42.vectors-mlp"
    robust = RobustOnVectors.model_validate({"name": "vectors_robust", "students": ["transformer"]})
    assert robust.students == (Transformer(name="transformer"),)


def test_centred_vectors_are_others_and_those_that_are_not_stay_where_they_were(make: Make) -> None:
    plain, centred = (make({"vectors": {"pooling": "cls", "centred": on}}).source.source for on in (False, True))
    assert plain == make({"vectors": "cls"}).source.source
    assert "centred" not in canonical(plain)
    assert canonical(centred) != canonical(plain)
    assert (plain.slug, centred.slug) == ("mine.bert.cls", "mine.bert.cls-centred")


def test_what_is_made_robust_is_in_the_tables() -> None:
    tables, robust = (load(CONFIGS / f"{name}.yaml") for name in ("vectors", "vectors_robust"))
    made = [canonical(cell.source) for cell in tables.cells]
    assert all(canonical(cell.source) in made for cell in robust.cells)


def test_a_horizon_changes_one_thing_after_the_other() -> None:
    """Then a grid of starts, budgets and kinds of vectors, each with random real rows beside it."""
    cells = [cell for cell in load(CONFIGS / "vectors_horizon.yaml").cells if cell.source.seed == 42]
    sets = [(cell.source.source.vectors.pooling, cell.source.method) for cell in cells if cell.source.source.vectors]
    learned = [method.model_dump() for _, method in sets if isinstance(method, BPTT)][:5]
    changed = [{key for key in a if a[key] != b[key]} for a, b in pairwise(learned)]
    assert changed == [{"initialise", "unit_norm"}, {"student"}, {"labels"}, {"steps", "window"}]
    grid = [(kind, one.initialise, one.shots) for kind, one in sets if isinstance(one, BPTT)][5:]
    real = {(kind, one.shots) for kind, one in sets if isinstance(one, RandomReal)}
    assert sorted(grid) == sorted(product(("cls", "mean"), ("centres", "noise"), (5, 20, 50)))
    assert {(kind, shots) for kind, _, shots in grid} == real


def test_the_students_of_a_set_are_those_it_was_made_for_unless_asked_otherwise(make: Make) -> None:
    wide = {"name": "mlp", "width": 64, "dropout": 0.2}
    method = {"name": "bptt", "student": wide}
    assert make(method=method, protocol={"name": "vectors"}).student == Mlp.model_validate(wide)
    assert make(method=method, protocol={"name": "vectors", "student": "transformer"}).student == Transformer(
        name="transformer"
    )
    published = make(method=method, protocol={"name": "published_mlp"})
    assert published.student == Mlp(name="mlp")
    assert published.slug.endswith(".published_mlp-mlp")


def test_what_changes_only_how_it_runs_moves_no_address(make: Make) -> None:
    same = make({"vectors": {"device": "cuda"}}, protocol={"name": "vectors", "student": "mlp", "together": 3})
    assert canonical(same) == canonical(make())
    for other in (
        make({"vectors": {"dtype": "float16"}}),
        make(prefix=5),
        make(protocol={"name": "vectors", "student": "transformer"}),
        make(protocol={"name": "vectors", "student": "mlp", "select": "dev"}),
    ):
        assert canonical(other) != canonical(make())


def test_without_vectors_nothing_of_them_is_in_an_address(make: Make) -> None:
    plain = make({"vectors": None}, protocol={"name": "finetune"})
    assert "vectors" not in canonical(plain.source.source)
    assert "prefix" not in canonical(plain)
    assert plain.source.source.slug == "mine.bert"
    assert plain.slug == "mine.bert.random.5shot.seed42.finetune"
    assert plain.student is None


def test_shots_are_those_that_are_learned_from(make: Make) -> None:
    assert make().shots == 5
    assert make(prefix=2).shots == 2
    assert make(method={"name": "full"}).shots is None


def test_selection_is_on_dev_alone() -> None:
    with pytest.raises(ValidationError, match="Input should be 'dev'"):
        OnVectors.model_validate({"name": "vectors", "student": "mlp", "select": "test"})
