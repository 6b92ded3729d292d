"""The estimate of a grid: what shares a slice, the sums worked out by hand, and a small grid for real."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.config import Evaluate, load
from pipeline.launch import estimate as module
from pipeline.launch.display import left
from pipeline.launch.estimate import Line, class_of, estimate, table
from pipeline.launch.stages import name_of
from pipeline.launch.status import rows
from pipeline.store import Cell, Store
from pipeline.store.cost import Cost
from pipeline.store.predictions import Prediction, predictions, remember

TASK = {"name": "t", "source": {"kind": "hub", "id": "a/b"}, "text": ["x"]}
RAW: dict[str, Any] = {
    "source": {"source": {"task": TASK, "model": "c/d"}, "method": {"name": "ddal"}},
    "protocol": {"name": "ddal"},
}


def cell_of(method: dict[str, Any] | None = None, **more: Any) -> Evaluate:
    source = RAW["source"] | {"method": {"name": "ddal"} | (method or {})}
    if (method or {}).get("name", "ddal") != "ddal" and "protocol" not in more:
        more["protocol"] = {"name": "finetune"}
    return Evaluate.model_validate(RAW | {"source": source} | more)


# --- classes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        {"labels": "unrestricted"},
        {"learning_rate": 0.3},
        {"attention_weight": 0.5},
        {"outer": {"lr": 0.3, "steps": 7, "optimizer": "adamw"}},
        {"validation": {"every": 3, "initialisations": 5}},
    ],
)
def test_what_neither_paces_nor_fills_memory_shares_a_slice(method: dict[str, Any]) -> None:
    assert class_of(cell_of(method)) == class_of(cell_of())
    assert class_of(cell_of(method).source) == class_of(cell_of().source)


@pytest.mark.parametrize(
    "method",
    [
        {"sequence_length": 64},
        {"steps": 2},
        {"shots": 2, "batch_shots": 2},
        {"attention_labels": "cls"},
        {"precision": "bf16"},
        {"outer": {"batch_size": 8}},
        {"draws": 2},
        {"validation": {"examples": 100}},
        {"validation": {"split": "none"}},
    ],
)
def test_what_does_has_its_own(method: dict[str, Any]) -> None:
    assert class_of(cell_of(method).source) != class_of(cell_of().source)


def test_classes_of_evaluations() -> None:
    many = cell_of(initialisations=100, seed=3)
    assert class_of(many) == class_of(cell_of(initialisations=2))
    assert class_of(cell_of(splits=["test"])) != class_of(cell_of())
    tuned = [cell_of({"name": "full"}, protocol={"name": "finetune", "epochs": n, "lr": n * 1e-5}) for n in (1, 3)]
    assert class_of(tuned[0]) == class_of(tuned[1])
    larger = cell_of({"name": "full"}, protocol={"name": "finetune", "epochs": 1, "batch_size": 8})
    assert class_of(larger) != class_of(tuned[0])
    assert class_of(cell_of({"name": "herding"})) == class_of(cell_of({"name": "el2n"}))
    assert class_of(cell_of({"name": "herding"}).source) != class_of(cell_of({"name": "el2n"}).source)


def test_classes_of_evaluations_on_vectors() -> None:
    def on(initialisations: int = 5, shots: int = 1, **protocol: Any) -> Evaluate:
        whole = cell_of({"name": "random", "shots": shots}, protocol={"name": "finetune"}).model_dump()
        whole["source"]["source"]["vectors"] = "cls"
        given = {"name": "vectors", "student": "mlp"} | protocol
        return Evaluate.model_validate(whole | {"protocol": given, "initialisations": initialisations})

    assert class_of(on(steps=50, lr=0.1, select="dev")) == class_of(on())
    for other in (on(initialisations=2), on(shots=3), on(student="transformer"), on(batch_size=8)):
        assert class_of(other) != class_of(on())
    assert class_of(on(initialisations=99)) == class_of(on(initialisations=10)), "so many train at once"


# --- sums ----------------------------------------------------------------------------------------------------------


def cost(seconds: float, cpu: float, peak: float) -> Cost:
    return Cost(seconds, cpu, 0.0, peak, None, 1, (1,), ("EPYC",), ())


def test_the_sums_of_a_table(tmp_path: Path) -> None:
    store = Store(tmp_path)
    cells = tuple(store.cell(cell_of(seed=seed)) for seed in range(3))
    sets = (store.cell(cell_of().source),)
    lines = [
        Line("distill", "t ddal", sets, (Prediction(3600.0, 1800.0, 900.0),), (None,)),
        Line("evaluate", "t x", cells, (Prediction(360.0, 360.0, 700.0),) * 3, (cost(400, 300, 800), None, None)),
        Line("evaluate", "t y", cells[:1], None, (None,), "the slice failed: RuntimeError: no"),
    ]
    shown = table(lines, at_once=2).splitlines()
    found = {line.split("  ")[0] or line.split("  ")[1]: line.split() for line in shown[:7]}
    assert found["distill in all"][3:] == ["1", "0", "3600.0", "1.000", "0.500", "900"]
    assert found["t x"][2:] == ["3", "1", "360.0", "0.300", "0.300", "700", "-10", "%", "+20", "%"]
    assert found["t y"][2:] == ["1", "0", "?", "?", "?", "?"]
    assert found["all"][1:] == ["5", "1", "360.0", "…", "3600.0", "1.300", "0.800", "900", "-10", "%", "+20", "%"]
    text = "\n".join(shown)
    assert "not measured: evaluate t y: the slice failed: RuntimeError: no" in text
    assert "left to do: 1.20 hours, one cell after the other; 0.60 with 2 at once" in text  # 3600 + 2 · 360 s
    assert "wall time 0.100 h against 0.111 h: -10 %; median of the cells' errors 10 %" in text
    assert "memory: at most 800 MB, where 700 MB were predicted" in text


def test_a_cell_is_its_start_and_its_work_at_the_measured_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import work
    from pipeline.work import Work

    found = {
        "startup": [2.0, 1.0],
        "rates": {"outer": [100.0, 4.0, 2.0], "inner": [10.0, 1.0, 1.0], "scoring": [50.0, 5.0, 4.0]},
        "usage": {"peak_mb": 321.0, "gpu_peak_mb": None},
    }
    monkeypatch.setattr(work, "of_distill", lambda config, folder: Work(outer=1000.0, inner=20.0, scoring=100.0))
    got = module._predicted(cell_of().source, found, Store(tmp_path))
    # 2 + 40 + 2 + 10 and 1 + 20 + 2 + 8
    assert got == Prediction(54.0, 31.0, 321.0)


# --- for real ------------------------------------------------------------------------------------------------------


@pytest.fixture
def grid(experiment: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TEXTDD_ROOT", str(tmp_path / "root"))
    full = {"distill.method": [{"name": "full"}], "evaluate.protocol": [{"name": "finetune", "epochs": 2}]}
    return experiment(grids=[{"distill.method.labels": ["hard", "unrestricted"]}, full])


@pytest.mark.usefixtures("forks")
def test_a_grid_before_and_after_it_ran(grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = CliRunner().invoke
    before = run(app, ["estimate", str(grid)])
    assert before.exit_code == 0, before.output
    assert "slice 4/4" in before.stderr
    assert "not measured" not in before.stdout
    assert "left to do" in before.stdout
    assert "Predicted against" not in before.stdout
    made = load(grid, ())
    store = Store(tmp_path / "root")
    assert {name.partition("/")[0] for name in predictions(store.root)} == {"distill", "evaluate"}
    assert left(rows(made, store, {}, {}))["evaluate"].hours is not None, "status knows before anything ran"
    assert run(app, ["run", str(grid), "--out", str(tmp_path / "out"), "--no-check"]).exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(module.subprocess, "run", None)  # nothing is measured again
        after = run(app, ["estimate", str(grid)])
    assert after.exit_code == 0, after.output
    assert "Predicted against what the 6 cells that are done took" in after.stdout
    assert "left to do" not in after.stdout
    said = [one for one in predictions(store.root).values() if one.seconds > 0]
    assert all(one.cpu_seconds > 0 and one.peak_mb > 100 for one in said)


@pytest.mark.usefixtures("forks")
def test_a_slice_that_fails_is_said(experiment: Callable[..., Path], tmp_path: Path) -> None:
    path = experiment(distill={"runtime": {"device": "cuda:99"}})
    lines = estimate(load(path, ()), Store(tmp_path / "root"), lambda text: None)
    assert [line.predicted for line in lines] == [None, None], "the evaluation has no set to learn from"
    assert "not measured: distill keywords ddal" in table(lines, 1)
    assert "runtime.device: 'cuda:99' is not to be had here" in table(lines, 1)


@pytest.mark.usefixtures("forks")
@pytest.mark.parametrize(("protocol", "student"), [("robust", None), ("vectors_robust", "mlp")])
def test_what_is_not_counted_is_not_predicted(
    experiment: Callable[..., Path], tmp_path: Path, protocol: str, student: str | None
) -> None:
    """Variants train some 25 students per initialisation: a cell is not its start-up time."""
    own = {"own": {"name": "vectors", "student": student}} if student else {}
    config = experiment(
        prepare={"vectors": "mean"},
        grids=[{"distill.method": [{"name": "random"}]}],
        evaluate={"protocol": {"name": protocol} | own},
    )
    store, made = Store(tmp_path / "root"), load(config, ())
    remember(store.root, {name_of(store.cell(made.cells[0])): Prediction(3.0, 1.0, 1.0)})  # by an earlier version
    lines = estimate(made, store, lambda text: None)
    assert [line.predicted is None for line in lines] == [False, True]
    shown = table(lines, 1)
    assert f"not measured: evaluate keywords random.1shot, {protocol}: protocol '{protocol}' trains" in shown
    assert "what is not measured comes on top" in shown
    assert {name.partition("/")[0] for name in predictions(store.root)} == {"distill"}
    assert left(rows(made, store, {}, {}))["evaluate"].hours is None


# --- who uses it ---------------------------------------------------------------------------------------------------


def test_what_is_left_goes_by_equals_then_by_predictions(tmp_path: Path, grid: Path) -> None:
    store, made = Store(tmp_path / "root"), load(grid, ())
    cells: list[Cell] = [store.cell(cell.source) for cell in made.cells]
    remember(store.root, {name_of(cell): Prediction(3600.0, 1.0, 1.0) for cell in cells[:2]})
    found = left(rows(made, store, {}, {}))["distill"]
    assert found.hours == pytest.approx(2.0)
    assert found.cells == 3
    remember(store.root, {name_of(cells[0]): Prediction(7200.0, 1.0, 1.0)})
    assert left(rows(made, store, {}, {}))["distill"].hours == pytest.approx(3.0), "the newer prediction"
