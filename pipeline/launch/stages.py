"""The stages by name, and the cells of each; no stage is imported here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pipeline.config import Composed, Distill, Evaluate, Experiment, Learned, Prepare, Stage, inputs, upstream
from pipeline.config.chain import STAGE_NAMES
from pipeline.config.data import HubSource, JoinedSource, Task
from pipeline.errors import InputError
from pipeline.store import Cell, Store, locate

Reads = TypeVar("Reads", Distill, Evaluate)
StageName = Literal["prepare", "distill", "evaluate"]
MODULES: dict[StageName, str] = {
    "prepare": "pipeline.stage1_prepare",
    "distill": "pipeline.stage2_distill",
    "evaluate": "pipeline.stage3_evaluate",
}


def stage_configs(cell: Evaluate, stage: StageName) -> list[Stage]:
    """The configs of one stage that a cell of the grid needs, parents before the sets that start from them."""
    return [config for config in (*upstream(cell), cell) if stage_of(config) == stage]


def stage_cells(experiment: Experiment, store: Store, stage: StageName) -> list[Cell]:
    """The artifacts of one stage, each once, in the order of the grid, parents before the sets that start from them."""
    cells = [store.cell(config) for cell in experiment.computed.values() for config in stage_configs(cell, stage)]
    return list({cell.folder: cell for cell in cells}.values())


def stage_of(config: Stage) -> StageName:
    """The stage that makes what a config describes."""
    return next(stage for stage in MODULES if stage == STAGE_NAMES[type(config)])


@dataclass(frozen=True)
class Node:
    """An artifact in the graph of what reads what.

    Attributes:
        cell: the artifact.
        inputs: names of what it reads, as in :func:`~pipeline.config.inputs`.
        positions: of the cells of the grid that need it.

    """

    cell: Cell
    inputs: tuple[str, ...]
    positions: list[int] = field(default_factory=list)


def graph(experiment: Experiment, store: Store) -> dict[str, Node]:
    """Name -> artifact, of all that is to be computed, each after what it reads, in the order of the grid."""
    nodes: dict[str, Node] = {}
    known: dict[int, str] = {}  # every address is worked out once: of large grids that is most of the work

    def noted(config: Stage, position: int) -> str:
        before = tuple(noted(one, position) for one in inputs(config))
        if id(config) not in known:
            cell = store.cell(config)
            known[id(config)] = name_of(cell)
            nodes.setdefault(name_of(cell), Node(cell, before))
        positions = nodes[known[id(config)]].positions
        if position not in positions[-1:]:
            positions.append(position)
        return known[id(config)]

    for position, whole in experiment.computed.items():
        noted(whole, position)
    return nodes


def name_of(cell: Cell) -> str:
    """``<stage>/<slug>-<hex>``: the same on every machine."""
    return f"{cell.folder.parent.name}/{cell.folder.name}"


def learning_cell(experiment: Experiment, index: int | None) -> Evaluate:
    """The cell at ``index``, or the first one whose set is distilled.

    Raises:
        InputError: there is none, or the one asked for is not distilled.

    """
    distilled = [i for i, cell in enumerate(experiment.cells) if isinstance(cell.source.method, Learned)]
    if not distilled:
        raise InputError(
            f"{experiment.name}: no cell of ddal, bptt or text, so no hypergradient to check; give an experiment with "
            f"one of these methods"
        )
    if index not in (None, *distilled):
        allowed = ", ".join(map(str, distilled))
        raise InputError(f"--index {index}: no cell of ddal, bptt or text; such cells of {experiment.name}: {allowed}")
    return experiment.cells[distilled[0] if index is None else index]


def pin(experiment: Experiment, store: Store) -> Experiment:
    """The experiment with every hub reference at a commit: the recorded one, or today's, which is then recorded.

    Raises:
        InputError: a revision was never recorded and the hub cannot be asked.

    """
    pinned: dict[str, Prepare] = {}
    for prepare in (one for cell in experiment.cells for one in upstream(cell) if isinstance(one, Prepare)):
        if prepare.model_dump_json() in pinned:
            continue
        task, model = prepare.task, prepare.model
        task = _pinned(task, store)
        if locate(model.name) is None:
            model = model.model_copy(update={"revision": _revision(store, "model", model.name, model.revision)})
        pinned[prepare.model_dump_json()] = prepare.model_copy(update={"task": task, "model": model})
    cells = tuple(_on_prepared(cell, lambda prepare: pinned[prepare.model_dump_json()]) for cell in experiment.cells)
    return experiment.model_copy(update={"cells": cells})


def _pinned(task: Task, store: Store) -> Task:
    source = task.source
    if isinstance(source, JoinedSource):
        source = source.model_copy(update={"tasks": tuple(_pinned(one, store) for one in source.tasks)})
    elif isinstance(source, HubSource):
        source = source.model_copy(update={"revision": _revision(store, "dataset", source.id, source.revision)})
    return task.model_copy(update={"source": source})


def _on_prepared(config: Reads, change: Callable[[Prepare], Prepare]) -> Reads:
    """The config with every prepared task that is in it replaced."""
    changes: dict[str, Any] = {}
    for name in ("source", "parent", "data"):
        inner = getattr(config, name, None)
        if inner is not None:
            changes[name] = change(inner) if isinstance(inner, Prepare) else _on_prepared(inner, change)
    if isinstance(config, Distill):
        changes["others"] = tuple(change(one) for one in config.others)
    if isinstance(config, Distill) and isinstance(config.method, Composed):
        changes["method"] = config.method.of([_on_prepared(one, change) for one in config.made_of])
    return config.model_copy(update=changes)


def _revision(store: Store, kind: str, name: str, asked: str | None) -> str:
    known = store.places.revision(kind, name, asked)
    if known is None:
        from pipeline.data.hub import resolve_revision

        known = resolve_revision(kind, name, asked)
        return store.places.record(kind, name, asked, known)  # another process may have been first
    return known
