"""What is submitted: each missing cell once, children behind their parents, index by index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Experiment, load
from pipeline.config.cluster import Cluster
from pipeline.launch.plan import Array, Earlier, Live, Place, plan
from pipeline.launch.stages import name_of, stage_cells
from pipeline.store import Cell, Store

Write = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


def finish(cell: Cell) -> None:
    with cell.claim() as out:
        assert out is not None


def fail(cell: Cell, times: int = 1, error: type[Exception] = RuntimeError) -> None:
    for _ in range(times):
        with pytest.raises(error), cell.claim():
            raise error("the same thing again")


def of(experiment: Experiment, store: Store, stage: Any) -> list[Cell]:
    return stage_cells(experiment, store, stage)


def names(array: Array) -> list[list[str]]:
    return [[name_of(cell) for cell in element] for element in array.elements]


@pytest.fixture
def grid(experiment: Write, store: Store) -> Experiment:
    """Three sets, each evaluated in two ways; the data are prepared."""
    made = load(experiment(grids=[{"distill.seed": [1, 2, 3], "evaluate.seed": [5, 6]}]))
    finish(of(made, store, "prepare")[0])
    return made


def test_children_mirror_their_parents(grid: Experiment, store: Store) -> None:
    found = plan(grid, store, Cluster(), Live())
    sets = [[name_of(cell)] for cell in of(grid, store, "distill")]
    evaluated = [[name_of(cell)] for cell in of(grid, store, "evaluate")]
    assert [(array.name, names(array), array.mirrors) for array in found.arrays] == [
        ("distill-0", sets, None),
        ("evaluate-0", evaluated[0::2], "distill-0"),
        ("evaluate-1", evaluated[1::2], "distill-0"),
    ]
    assert found.done == {"prepare": 1, "distill": 0, "evaluate": 0}


def test_one_done_one_given_up_one_pending(grid: Experiment, store: Store) -> None:
    done, failing, _ = of(grid, store, "distill")
    finish(done)
    fail(failing, 2)
    found = plan(grid, store, Cluster(attempts=2), Live())
    evaluated = [[name_of(cell)] for cell in of(grid, store, "evaluate")]
    assert (
        [(array.name, names(array), array.mirrors) for array in found.arrays]
        == [
            ("distill-0", [[name_of(of(grid, store, "distill")[2])]], None),
            ("evaluate-0", evaluated[:2], None),  # the set is there: nothing to wait for
            ("evaluate-1", evaluated[4:], "distill-0"),  # both behind its one element
        ]
    )
    assert {name_of(cell) for cell in found.left} == {name_of(failing), *evaluated[2], *evaluated[3]}
    assert "failed 2 times in the same way: RuntimeError: the same thing again" in found.left.values()


def test_a_cell_that_failed_is_tried_again_and_blocks_nobody(grid: Experiment, store: Store) -> None:
    fail(of(grid, store, "distill")[1])
    found = plan(grid, store, Cluster(attempts=2), Live())
    assert [len(array.elements) for array in found.arrays] == [3, 3, 3]
    assert not found.left


def test_arrays_are_split_at_the_limit_and_children_where_their_parents_are(grid: Experiment, store: Store) -> None:
    found = plan(grid, store, Cluster(), Live(), limit=2)
    assert [(array.name, len(array.elements), array.mirrors) for array in found.arrays] == [
        ("distill-0", 2, None),
        ("distill-1", 1, None),
        ("evaluate-0", 2, "distill-0"),
        ("evaluate-1", 2, "distill-0"),
        ("evaluate-2", 2, "distill-1"),
    ]
    assert [array.behind for array in found.arrays] == [None, None, None, None, 0]
    every = [name for array in found.arrays for element in names(array) for name in element]
    assert len(every) == len(set(every)) == 9


def test_cells_of_a_job_share_an_element(grid: Experiment, store: Store) -> None:
    cluster = Cluster.model_validate({"slurm": {"distill": {"cells_per_job": 2}, "evaluate": {"cells_per_job": 4}}})
    found = plan(grid, store, cluster, Live())
    assert [[len(element) for element in array.elements] for array in found.arrays] == [[2, 1], [4, 2]]
    assert found.arrays[1].mirrors == "distill-0"


def test_what_jobs_in_the_queue_have_is_not_submitted_twice(grid: Experiment, store: Store) -> None:
    """Sets 0 and 1 are elements 4 and 0 of an earlier array; so is one evaluation."""
    sets, evaluated = of(grid, store, "distill"), of(grid, store, "evaluate")
    live = Live(
        {name_of(sets[0]): Place("77", 4), name_of(sets[1]): Place("77", 0), name_of(evaluated[0]): Place("78", 4)},
        {"77": Earlier("77", 5), "78": Earlier("78", 5)},
    )
    found = plan(grid, store, Cluster(), live)
    assert [(array.name, names(array), array.mirrors) for array in found.arrays] == [
        ("distill-0", [[name_of(sets[2])]], None),
        # as many elements as the array that they wait for, at the same indices
        ("evaluate-0", [[name_of(evaluated[2])], [], [], [], [name_of(evaluated[1])]], "77"),
        ("evaluate-1", [[name_of(evaluated[3])], [], [], [], []], "77"),
        ("evaluate-2", [[name_of(cell)] for cell in evaluated[4:]], "distill-0"),
    ]
    assert found.live == {"prepare": 0, "distill": 2, "evaluate": 1}


def test_cells_that_ask_for_more_have_arrays_of_their_own(grid: Experiment, store: Store) -> None:
    large = {"where": {"distill.seed": 2}, "distill": {"memory_gb": 99}}
    found = plan(grid, store, Cluster.model_validate({"cells": [large]}), Live())
    sets = found.of("distill")
    assert [(array.request.memory_gb, len(array.elements)) for array in sets] == [(32, 2), (99, 1)]
    assert [(array.mirrors, len(array.elements)) for array in found.of("evaluate")] == [
        ("distill-0", 2), ("distill-0", 2), ("distill-1", 2)
    ]  # fmt: skip


def test_out_of_memory_asks_for_more_the_next_time(grid: Experiment, store: Store) -> None:
    fail(of(grid, store, "distill")[0], error=MemoryError)
    found = plan(grid, store, Cluster(), Live())
    assert [(array.request.memory_gb, len(array.elements)) for array in found.of("distill")] == [(64, 1), (32, 2)]


def test_sets_wait_for_their_data_where_jobs_prepare_them(experiment: Write, store: Store) -> None:
    made = load(experiment(grids=[{"prepare.seed": [1, 2]}]))
    found = plan(made, store, Cluster(), Live())
    assert [(array.name, len(array.elements), array.after, array.mirrors) for array in found.arrays] == [
        ("prepare-0", 2, (), None),
        ("distill-0", 2, ("prepare-0",), None),
        ("evaluate-0", 2, (), "distill-0"),
    ]


def test_nothing_is_submitted_behind_data_that_failed_here(experiment: Write, store: Store) -> None:
    made = load(experiment())
    fail(of(made, store, "prepare")[0])
    found = plan(made, store, Cluster(), Live(), stages=("distill", "evaluate"))
    assert not found.arrays
    assert all("is failed and not submitted" in why or "is missing" in why for why in found.left.values())
    assert len(found.left) == 2
