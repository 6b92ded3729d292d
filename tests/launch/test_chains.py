"""Sets that start from other sets, evaluated on other data: what is planned, run, shown and kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import launch
from pipeline.config import Experiment, Prepare, load, upstream
from pipeline.config.cluster import Cluster
from pipeline.launch.plan import Array, Earlier, Live, Place, plan
from pipeline.launch.prune import find
from pipeline.launch.queue import orphans
from pipeline.launch.sbatch import left
from pipeline.launch.scheduler import JobState
from pipeline.launch.stages import MODULES, graph, name_of, pin, stage_cells
from pipeline.launch.status import Row, rows
from pipeline.store import Cell, Store

Write = Callable[..., Path]
LEARNED = {"name": "ddal", "sequence_length": 8}
FINETUNE = {"evaluate.protocol": [{"name": "finetune", "steps": 5}], "distill.parent": [None]}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


@pytest.fixture
def chains(experiment: Write) -> Experiment:
    """Two sets, each of which starts from a set of its own that starts from one and the same.

    That one was made from the data with another length, so that there are two prepared tasks.
    """
    root = {"method": LEARNED, "seed": 7, "source": {"max_length": 20}}
    middle = {"method": LEARNED, "parent": root}
    return load(experiment(distill={"parent": middle, "seed": 1}, grids=[{"distill.seed": [1, 2]}]))


@pytest.fixture
def transfer(experiment: Write, encoder_folder: Callable[[str], Path]) -> Experiment:
    """Two draws of real sentences, each evaluated on its own encoder's data and on another's."""
    data = [None, {"model": str(encoder_folder("electra"))}]
    grid = {"distill.method": [{"name": "random"}], "distill.seed": [1, 2], "evaluate.data": data, **FINETUNE}
    return load(experiment(grids=[grid]))


def finish(*cells: Cell) -> None:
    for cell in cells:
        with cell.claim() as out:
            assert out is not None


def fail(cell: Cell, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(RuntimeError), cell.claim():
            raise RuntimeError("the same thing again")


def of(experiment: Experiment, store: Store, stage: launch.StageName) -> list[Cell]:
    return stage_cells(experiment, store, stage)


def shape(arrays: list[Array]) -> list[tuple[str, list[list[str]], str | None, tuple[str, ...]]]:
    return [
        (array.name, [[name_of(cell) for cell in element] for element in array.elements], array.mirrors, array.after)
        for array in arrays
    ]


def single(*cells: Cell) -> list[list[str]]:
    return [[name_of(cell)] for cell in cells]


# --- which artifacts there are -------------------------------------------------------------------------------------


def test_parents_come_before_the_sets_that_start_from_them(chains: Experiment, store: Store) -> None:
    assert [len(of(chains, store, stage)) for stage in MODULES] == [2, 5, 2]
    seeds = [cell.config.seeds for cell in of(chains, store, "distill")]  # type: ignore[union-attr]
    assert seeds == [(7,), (1, 7), (1, 1, 7), (2, 7), (2, 2, 7)]
    nodes = graph(chains, store)
    assert [len(node.positions) for node in nodes.values() if node.cell.config.slug.endswith(".seed7")] == [2]
    for name, node in nodes.items():
        assert all(list(nodes).index(one) < list(nodes).index(name) for one in node.inputs)


def test_every_prepared_task_is_pinned_wherever_it_stands(
    experiment: Write, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = {"name": "t", "source": {"kind": "hub", "id": "acme/data"}, "text": ["x"]}
    root = {"method": LEARNED, "source": {"max_length": 20}}
    grids: list[dict[str, Any]] = [
        {"distill.parent": [{"method": LEARNED, "parent": root}]},
        {"distill.method": [{"name": "random"}], "evaluate.data": [{"model": "acme/other"}], **FINETUNE},
    ]
    path = experiment(prepare={"task": task, "model": "acme/bert"}, grids=grids)
    monkeypatch.setattr("pipeline.data.hub.resolve_revision", lambda kind, name, asked: f"{kind}-{name}")
    one, other = pin(load(path), store).cells
    prepared = [config for cell in (one, other) for config in upstream(cell) if isinstance(config, Prepare)]
    assert len(prepared) == 4
    for config in prepared:
        assert config.task.source.revision == "dataset-acme/data"  # type: ignore[union-attr]
        assert config.model.revision == f"model-{config.model.name}"


# --- what is submitted ---------------------------------------------------------------------------------------------


def test_three_levels_and_two_prepared_tasks(chains: Experiment, store: Store) -> None:
    found = plan(chains, store, Cluster(), Live())
    plain, short = of(chains, store, "prepare")
    root, middle1, last1, middle2, last2 = of(chains, store, "distill")
    assert {name_of(plain), name_of(short)} == {n for cells in single(plain, short) for n in cells}
    evaluated = of(chains, store, "evaluate")
    assert shape(found.arrays) == [
        ("prepare-0", single(*of(chains, store, "prepare")), None, ()),
        ("distill-0", single(root), None, ("prepare-0",)),
        # two children of one element wait for that one, and for their own data, which are in an array of others, too
        ("distill-1", single(middle1, middle2), "distill-0", ("prepare-0",)),
        ("distill-2", single(last1, last2), "distill-1", ()),
        ("evaluate-0", single(*evaluated), "distill-2", ()),
    ]
    assert [array.behind for array in found.arrays] == [None, None, 0, None, None]
    assert str(found).splitlines()[2].startswith("distill-1: 2 cells in 2 jobs, behind distill-0[0], after prepare-0: ")


def test_partly_done(chains: Experiment, store: Store) -> None:
    """What is there is not waited for; sets whose parents are there start at once, beside those of the first level."""
    root, middle1, last1, middle2, last2 = of(chains, store, "distill")
    finish(*of(chains, store, "prepare"), root, middle1)
    found = plan(chains, store, Cluster(), Live())
    assert found.done == {"prepare": 2, "distill": 2, "evaluate": 0}
    one, two = of(chains, store, "evaluate")
    assert shape(found.arrays) == [
        ("distill-0", single(last1, middle2), None, ()),
        ("distill-1", single(last2), "distill-0", ()),
        ("evaluate-0", single(one), "distill-0", ()),
        ("evaluate-1", single(two), "distill-1", ()),
    ]
    assert [array.behind for array in found.arrays] == [None, 1, 0, None]


def test_nothing_is_submitted_behind_a_parent_that_was_given_up(chains: Experiment, store: Store) -> None:
    root, middle1, last1, middle2, _ = of(chains, store, "distill")
    finish(*of(chains, store, "prepare"), root)
    fail(middle1, 2)
    found = plan(chains, store, Cluster(attempts=2), Live())
    one, _ = of(chains, store, "evaluate")
    assert found.of("distill")[0].cells[0].folder == middle2.folder
    assert {name_of(cell): why for cell, why in found.left.items()} == {
        name_of(middle1): "failed 2 times in the same way: RuntimeError: the same thing again",
        name_of(last1): f"waits for {name_of(middle1)}, which is failed and not submitted",
        name_of(one): f"waits for {name_of(last1)}, which is missing and not submitted",
    }


def test_a_parent_in_an_earlier_job_is_waited_for_there(chains: Experiment, store: Store) -> None:
    root, middle1, last1, middle2, last2 = of(chains, store, "distill")
    finish(*of(chains, store, "prepare"))
    places = {name_of(root): Place("77", 0), name_of(middle1): Place("78", 2)}
    found = plan(chains, store, Cluster(), Live(places, {"77": Earlier("77", 1), "78": Earlier("78", 3)}))
    assert found.live["distill"] == 2
    assert shape(found.of("distill")) == [
        ("distill-0", single(middle2), "77", ()),
        ("distill-1", single(last1), "78", ()),
        ("distill-2", single(last2), "distill-0", ()),
    ]
    assert [array.behind for array in found.of("distill")] == [None, 2, None]


def test_many_sets_of_one_parent_are_one_array(experiment: Write, store: Store) -> None:
    """Four sets behind element 1 of two, of which the other has one child."""
    parents = [{"method": LEARNED, "seed": seed} for seed in (7, 8)]
    blocks = [
        {"distill.parent": parents, "distill.seed": [1]},
        {"distill.parent": parents[1:], "distill.seed": [2, 3, 4]},
    ]
    made = load(experiment(grids=blocks))
    finish(*of(made, store, "prepare"))
    found = plan(made, store, Cluster(), Live(), limit=3)
    first, one, second, *others = of(made, store, "distill")
    assert [(*each[:3], array.behind) for array, each in zip(found.arrays, shape(found.arrays), strict=True)][:4] == [
        ("distill-0", single(first, second), None, None),
        ("distill-1", single(one), "distill-0", 0),
        ("distill-2", single(*others[:3]), "distill-0", 1),
        ("distill-3", single(others[3]), "distill-0", 1),
    ]
    assert [array.mirrors for array in found.of("evaluate")] == ["distill-1", "distill-2", "distill-3"]


def test_evaluations_wait_for_the_other_data_too(transfer: Experiment, store: Store) -> None:
    found = plan(transfer, store, Cluster(), Live())
    own, other = of(transfer, store, "prepare")
    assert [cell.config.slug for cell in (own, other)] == ["keywords.bert", "keywords.electra"]
    one, one_other, two, two_other = of(transfer, store, "evaluate")
    assert shape(found.arrays[-2:]) == [
        ("evaluate-0", single(one, two), "distill-0", ()),
        ("evaluate-1", single(one_other, two_other), "distill-0", ("prepare-0",)),
    ]
    finish(own, *of(transfer, store, "distill"))
    assert shape(plan(transfer, store, Cluster(), Live()).arrays) == [
        ("prepare-0", single(other), None, ()),
        ("evaluate-0", single(one, two), None, ()),
        ("evaluate-1", single(one_other, two_other), None, ("prepare-0",)),
    ]


def test_a_rule_for_a_method_holds_for_a_parent_of_it(experiment: Write, store: Store) -> None:
    parent = {"method": LEARNED | {"learning_rate": 0.5}}
    made = load(experiment(distill={"parent": parent}))
    rules = [
        {"where": {"distill.method.learning_rate": 0.5}, "distill": {"memory_gb": 99}},
        {"where": {"distill.parent.method.learning_rate": 0.5}, "distill": {"memory_gb": 11}},
    ]
    finish(*of(made, store, "prepare"))
    found = plan(made, store, Cluster.model_validate({"cells": rules}), Live())
    assert [array.request.memory_gb for array in found.of("distill")] == [99, 11]


def test_what_waits_for_a_parent_that_no_job_makes_is_an_orphan(chains: Experiment, store: Store) -> None:
    root, middle1, last1, middle2, last2 = of(chains, store, "distill")
    one, two = of(chains, store, "evaluate")
    finish(*of(chains, store, "prepare"), root)
    fail(middle1)
    waiting = [last1, one, middle2, last2, two]
    live = Live({name_of(cell): Place("9", number) for number, cell in enumerate(waiting)}, {"9": Earlier("9", 5)})
    assert orphans(chains, store, live) == {Place("9", 0), Place("9", 1)}


# --- what is run ---------------------------------------------------------------------------------------------------


def test_positions_that_start_from_the_same_set_are_not_in_one_array(chains: Experiment, store: Store) -> None:
    finish(*of(chains, store, "prepare"))
    found = left(chains, store, "distill", Cluster())
    assert [part.array for part in found.parts] == ["0%64"]
    assert str(found) == "3 left, 0 done, 0 running, 0 given up, 2 waiting"
    root, middle1, *_ = of(chains, store, "distill")
    finish(root)
    found = left(chains, store, "distill", Cluster())
    assert [part.array for part in found.parts] == ["0-1%64"]
    assert str(found) == "4 left, 1 done, 0 running, 0 given up"
    fail(middle1, 2)
    found = left(chains, store, "distill", Cluster(attempts=2))
    assert [part.array for part in found.parts] == ["1%64"]
    assert str(found) == "2 left, 1 done, 0 running, 1 given up, 1 waiting"


def test_a_set_without_its_parent_says_what_it_needs(chains: Experiment, store: Store) -> None:
    finish(*of(chains, store, "prepare"))
    root, middle, *_ = of(chains, store, "distill")
    outcome = launch.run_stage([middle], "distill", store)
    (reason,) = outcome.failed.values()
    assert reason == f"needs {root.folder}, which is missing; run it first: python -m pipeline.stage2_distill CONFIG"
    fail(root)
    (reason,) = launch.run_stage([middle], "distill", store).failed.values()
    assert reason.endswith("which is failed; it failed: RuntimeError: the same thing again")


# --- what is shown -------------------------------------------------------------------------------------------------


def shown(experiment: Experiment, store: Store, **jobs: JobState) -> dict[str, Row]:
    tables = {name: [job.id] for name, job in jobs.items()}
    return {row.name: row for row in rows(experiment, store, {job.id: job for job in jobs.values()}, tables)}


def test_status_names_the_parent(chains: Experiment, store: Store) -> None:
    root, middle1, last1, middle2, last2 = of(chains, store, "distill")
    finish(*of(chains, store, "prepare"), root)
    fail(middle1)
    jobs = {
        name_of(last2): JobState("8_1", "PENDING", "Dependency"),
        name_of(last1): JobState("8_0", "PENDING", "DependencyNeverSatisfied"),
    }
    found = shown(chains, store, **jobs)
    assert [(row.stage, len(row.cells)) for row in found.values()] == [
        *[("prepare", 2)] * 2, ("distill", 2), *[("distill", 1)] * 4, *[("evaluate", 1)] * 2
    ]  # fmt: skip
    assert (found[name_of(last1)].state, found[name_of(last1)].why) == ("failed", "its parent failed")
    assert (found[name_of(last2)].state, found[name_of(last2)].why) == ("pending", "waits for its parent")
    one, _ = of(chains, store, "evaluate")
    assert found[name_of(one)].why == "its distill cell failed"
    assert found[name_of(middle1)].kind == found[name_of(middle2)].kind, "they differ in seeds only"
    assert found[name_of(middle1)].kind != found[name_of(last1)].kind


# --- what is kept --------------------------------------------------------------------------------------------------


def test_parents_and_other_data_of_what_is_wanted_are_kept(
    chains: Experiment, transfer: Experiment, store: Store, tmp_path: Path
) -> None:
    for made in (chains, transfer):
        finish(*(cell for stage in MODULES for cell in of(made, store, stage) if cell.state != "done"))

    def gone(*given: Experiment) -> set[str]:
        return {item.what for item in find(given, store, tmp_path / "logs", None).items if item.kind == "artifact"}

    everything = {
        name: {name_of(cell) for stage in MODULES for cell in of(made, store, stage)}
        for name, made in (("chains", chains), ("transfer", transfer))
    }
    assert gone(chains, transfer) == set()
    assert gone(chains) == everything["transfer"] - everything["chains"]
    assert gone(transfer) == everything["chains"] - everything["transfer"]
    first = chains.model_copy(update={"cells": chains.cells[:1]})
    assert gone(first, transfer) == {
        *(name_of(cell) for cell in of(chains, store, "distill")[3:]),
        name_of(of(chains, store, "evaluate")[1]),
    }
