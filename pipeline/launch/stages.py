"""The stages by name, and the cells of each; no stage is imported here."""

from __future__ import annotations

from typing import Literal

from pipeline.config import BPTT, DDAL, Distill, Evaluate, Experiment, Prepare
from pipeline.config.data import HubSource
from pipeline.errors import InputError
from pipeline.store import Cell, Store, locate

StageName = Literal["prepare", "distill", "evaluate"]
MODULES: dict[StageName, str] = {
    "prepare": "pipeline.stage1_prepare",
    "distill": "pipeline.stage2_distill",
    "evaluate": "pipeline.stage3_evaluate",
}


def stage_config(cell: Evaluate, stage: StageName) -> Prepare | Distill | Evaluate:
    """The config of one stage of a cell."""
    configs: dict[StageName, Prepare | Distill | Evaluate]
    configs = {"prepare": cell.source.source, "distill": cell.source, "evaluate": cell}
    return configs[stage]


def stage_cells(experiment: Experiment, store: Store, stage: StageName) -> list[Cell]:
    """The artifacts of one stage, each once, in the order of the grid."""
    cells = [store.cell(stage_config(cell, stage)) for cell in experiment.computed.values()]
    return list({cell.folder: cell for cell in cells}.values())


def name_of(cell: Cell) -> str:
    """``<stage>/<slug>-<hex>``: the same on every machine."""
    return f"{cell.folder.parent.name}/{cell.folder.name}"


def learning_cell(experiment: Experiment, index: int | None) -> Evaluate:
    """The cell at ``index``, or the first one whose set is distilled.

    Raises:
        InputError: there is none, or the one asked for is not distilled.

    """
    distilled = [i for i, cell in enumerate(experiment.cells) if isinstance(cell.source.method, DDAL | BPTT)]
    if not distilled or index not in (None, *distilled):
        allowed = ", ".join(map(str, distilled)) or "none; give an experiment with method ddal or bptt"
        raise InputError(f"--index {index}: no ddal cell and none of bptt; such cells of {experiment.name}: {allowed}")
    return experiment.cells[distilled[0] if index is None else index]


def pin(experiment: Experiment, store: Store) -> Experiment:
    """The experiment with every hub reference at a commit: the recorded one, or today's, which is then recorded.

    Raises:
        InputError: a revision was never recorded and the hub cannot be asked.

    """
    pinned = {}
    for prepare in {cell.source.source.model_dump_json(): cell.source.source for cell in experiment.cells}.values():
        task, model = prepare.task, prepare.model
        if isinstance(task.source, HubSource):
            source = task.source.model_copy(
                update={"revision": _revision(store, "dataset", task.source.id, task.source.revision)}
            )
            task = task.model_copy(update={"source": source})
        if locate(model.name) is None:
            model = model.model_copy(update={"revision": _revision(store, "model", model.name, model.revision)})
        pinned[prepare.model_dump_json()] = prepare.model_copy(update={"task": task, "model": model})
    cells = []
    for cell in experiment.cells:
        distill = cell.source.model_copy(update={"source": pinned[cell.source.source.model_dump_json()]})
        cells.append(cell.model_copy(update={"source": distill}))
    return experiment.model_copy(update={"cells": tuple(cells)})


def _revision(store: Store, kind: str, name: str, asked: str | None) -> str:
    known = store.places.revision(kind, name, asked)
    if known is None:
        from pipeline.data.hub import resolve_revision

        known = resolve_revision(kind, name, asked)
        return store.places.record(kind, name, asked, known)  # another process may have been first
    return known
