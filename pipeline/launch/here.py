"""All four stages of an experiment in this process: what ``run`` does without a cluster."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from pipeline.config import Distill, Experiment, SmallSet
from pipeline.errors import InputError
from pipeline.launch.known import remember
from pipeline.launch.running import canary, run_stage
from pipeline.launch.stages import MODULES, pin, stage_cells
from pipeline.parallel import Ranks
from pipeline.store import Store


def run_here(ranks: Ranks, experiment: Experiment, store: Store, out: Path, *, check: bool) -> None:
    """Runs every cell that is not done, one after the other, then makes the tables.

    Args:
        ranks: the processes of this run, of which this is the first.
        experiment: any; hub revisions are resolved here.
        store: of the artifacts.
        out: folder of tables and figures.
        check: compare a hypergradient with its references before the first distillation.

    Raises:
        InputError: no cell failed, but there are no tables; see :func:`pipeline.stage4_aggregate.run`.
        Exit: cells failed: status 1.

    """
    experiment = pin(experiment, store)
    remember(experiment, store)
    failed = 0
    for stage in MODULES:
        if stage == "distill" and check:
            canary(experiment, store)
        cells = stage_cells(experiment, store, stage)
        outcome = run_stage(cells, stage, store, ranks)
        print(f"{stage}: {outcome}", file=sys.stderr)
        failed += len(outcome.failed)
    from pipeline import stage4_aggregate

    try:
        stage4_aggregate.show(stage4_aggregate.run(experiment, store, out))
    except InputError as error:
        if not failed:
            raise
        print(f"error: {error}", file=sys.stderr)  # and the cells that failed are why
        raise typer.Exit(1) from None
    for cell in stage_cells(experiment, store, "distill"):
        assert isinstance(cell.config, Distill)
        made = cell.config.method
        if cell.state == "done" and isinstance(made, SmallSet) and not made.of_rows:
            print(f"distilled set: {cell.folder / 'distilled.h5'}")
    if failed:
        raise typer.Exit(1)
