"""The command line: ``python -m pipeline run | status``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline import launch
from pipeline.config import Experiment, load
from pipeline.store import Store

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Distill a text-classification dataset into a handful of synthetic samples: "
    "prepare, distill, evaluate, aggregate.",
)
Config = Annotated[str, typer.Argument(help="the experiment's YAML file, such as configs/quickstart.yaml")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="dotted.key=value; dotted.key=v1,v2 sweeps; may be repeated")
]
Root = Annotated[str | None, typer.Option(help="folder of all artifacts (default: $TEXTDD_ROOT or checkpoints)")]
Out = Annotated[Path, typer.Option(help="folder of the tables and figures")]


@app.command()
def run(
    config: Config,
    set_: Settings = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the cells and stop")] = False,
    root: Root = None,
    out: Out = Path("analysis/results"),
) -> None:
    """Run all four stages of an experiment; what is done already is not run again."""
    experiment, store = load(config, set_ or []), Store(root)
    if dry_run:
        _print_cells(experiment, store)
        return
    experiment = launch.pin(experiment, store)
    failed = 0
    for stage in launch.MODULES:
        cells = launch.stage_cells(experiment, store, stage)
        outcome = launch.run_stage(cells, stage, store)
        print(
            f"{stage}: {outcome.ran} done now, {outcome.found} done before, {len(outcome.failed)} failed",
            file=sys.stderr,
        )
        failed += len(outcome.failed)
    from pipeline import stage4_aggregate

    stage4_aggregate.show(stage4_aggregate.run(experiment, store, out))
    for cell in launch.stage_cells(experiment, store, "distill"):
        if cell.state == "done" and "ddal" in cell.folder.name:
            print(f"distilled set: {cell.folder / 'distilled.h5'}")
    if failed:
        raise typer.Exit(1)


@app.command()
def status(config: Config, set_: Settings = None, root: Root = None) -> None:
    """Show the state of every cell: done, running, failed (why), partial (begun, will continue) or missing."""
    _print_cells(load(config, set_ or []), Store(root), reasons=True)


def _print_cells(experiment: Experiment, store: Store, *, reasons: bool = False) -> None:
    stages = list(launch.MODULES)
    print(f"{experiment.name}: {len(experiment.cells)} cells")
    print("index  " + "  ".join(f"{stage:<8}" for stage in stages) + "  cell")
    for index, cell in enumerate(experiment.cells):
        artifacts = [store.cell(launch.stage_config(cell, stage)) for stage in stages]
        print(
            f"{index:>5}  "
            + "  ".join(f"{artifact.state:<8}" for artifact in artifacts)
            + f"  {artifacts[-1].folder.name}"
        )
        for stage, artifact in zip(stages, artifacts, strict=True):
            detail = artifact.failure() or artifact.holder()
            if reasons and detail and artifact.state != "done":
                print(f"         {stage}: {detail}")


def main() -> None:
    """Entry point."""
    launch.guarded(app)


if __name__ == "__main__":
    main()
