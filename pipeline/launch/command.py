"""The command line of a numbered stage."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pipeline.config import Experiment, load
from pipeline.config.cluster_file import enter, root_of
from pipeline.config.where import restricted
from pipeline.errors import InputError
from pipeline.launch.known import remember
from pipeline.launch.running import led, run_stage
from pipeline.launch.stages import StageName, pin, stage_cells
from pipeline.launch.submission import check_code
from pipeline.parallel import Ranks
from pipeline.stopping import guarded
from pipeline.store import Store
from pipeline.store.attempts import job_id


def stage_command(stage: StageName) -> None:
    """The command line of one numbered stage: ``python -m pipeline.stageN_… CONFIG [--index K] [--set key=value]``."""

    def command(
        config: Annotated[str, typer.Argument(help="the experiment's YAML file")],
        index: Annotated[int | None, typer.Option(help="run one cell: its position in the full grid")] = None,
        set_: Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value; several values sweep")] = None,
        only: Annotated[list[str] | None, typer.Option("--only", help="dotted.key=value: no other cells")] = None,
        root: Annotated[str | None, typer.Option(help="folder of all artifacts (default: as of `run`)")] = None,
        check: Annotated[
            bool, typer.Option("--check/--no-check", help="of stage 2: a gradient check before a cell is distilled")
        ] = True,
    ) -> None:
        """Run this stage for every cell of CONFIG, or for one of them; what is done is not done again."""
        place = root_of(root, enter())

        def first(ranks: Ranks) -> None:
            whole = restricted(load(config, set_ or []), only or [])
            typed = whole.typed.model_copy(update={"root": root})
            work(ranks, whole.model_copy(update={"typed": typed}), Store(place), index, check)

        led(first)

    def work(ranks: Ranks, experiment: Experiment, store: Store, index: int | None, check: bool) -> None:
        """What the first process of the stage does."""
        if job_id() is not None:
            check_code(store.root, experiment.name, experiment.typed.command("array", stage))
        if index is not None:
            if not 0 <= index < len(experiment.cells):
                raise InputError(f"--index {index}: this grid has the positions 0 to {len(experiment.cells) - 1}")
            experiment = experiment.model_copy(update={"only": (index,)})
        experiment = pin(experiment, store)
        if stage == "prepare" or store.root.exists():  # else nothing can be made
            remember(experiment, store)
        cells = stage_cells(experiment, store, stage)
        outcome = run_stage(cells, stage, store, ranks, check=check and stage == "distill")
        print(f"{stage}: {outcome}", file=sys.stderr)
        if outcome.failed:
            raise typer.Exit(1)

    guarded(lambda: typer.run(command))
