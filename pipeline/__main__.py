"""The command line: ``python -m pipeline run | status``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline import launch
from pipeline.config import DDAL, Distill, Experiment, load
from pipeline.parallel import Ranks
from pipeline.report.layout import check_choices
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
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="a gradient check before the first distillation")
    ] = True,
) -> None:
    """Run all four stages of an experiment; what is done already is not run again."""
    launch.led(lambda ranks: _run(ranks, config, set_ or [], dry_run=dry_run, root=root, out=out, check=check))


def _run(
    ranks: Ranks, config: str, settings: list[str], *, dry_run: bool, root: str | None, out: Path, check: bool
) -> None:
    experiment, store = load(config, settings), Store(root)
    check_choices(experiment)
    if dry_run:
        _print_cells(experiment, store)
        return
    experiment = launch.pin(experiment, store)
    failed = 0
    for stage in launch.MODULES:
        if stage == "distill" and check:
            launch.canary(experiment, store)
        cells = launch.stage_cells(experiment, store, stage)
        outcome = launch.run_stage(cells, stage, store, ranks)
        print(f"{stage}: {outcome}", file=sys.stderr)
        failed += len(outcome.failed)
    if not any(cell.state == "done" for cell in launch.stage_cells(experiment, store, "evaluate")):
        print(f"no cell has results: {out} is left as it is", file=sys.stderr)
        raise typer.Exit(1)
    from pipeline import stage4_aggregate

    stage4_aggregate.show(stage4_aggregate.run(experiment, store, out))
    for cell in launch.stage_cells(experiment, store, "distill"):
        if cell.state == "done" and isinstance(cell.config, Distill) and isinstance(cell.config.method, DDAL):
            print(f"distilled set: {cell.folder / 'distilled.h5'}")
    if failed:
        raise typer.Exit(1)


@app.command()
def check_grad(
    config: Config,
    set_: Settings = None,
    index: Annotated[int | None, typer.Option(help="position in the grid (default: its first ddal cell)")] = None,
    full: Annotated[bool, typer.Option("--full", help="the whole set, not a slice of it")] = False,
    root: Root = None,
) -> None:
    """Compare the configured hypergradient with the unroll and with finite differences; exit status 1 if it is off."""
    store = Store(root)
    experiment = launch.pin(load(config, set_ or []), store)
    cell = launch.ddal_cell(experiment, index)
    launch.run_stage([store.cell(cell.source.source)], "prepare", store)
    from pipeline.data.prepared import Prepared
    from pipeline.methods.gradient_check import SLICE, WHOLE, check_gradient
    from pipeline.progress import quiet_libraries

    quiet_libraries()
    found = check_gradient(cell.source, Prepared(store.cell(cell.source.source).folder), WHOLE if full else SLICE)
    print(f"estimator {found.estimator} ({found.why}), {cell.source.slug}")
    print(f"{'tensor':<18}{'against':<13}{'precision':<11}{'relative error':>15}{'1 - cosine':>12}")
    for dtype, rows in found.agreements.items():
        for row in rows:
            kind = str(dtype).removeprefix("torch.")
            print(f"{row.tensor:<18}{row.against:<13}{kind:<11}{row.relative_error:>15.1e}{abs(1 - row.cosine):>12.1e}")
    limits = found.limits.items()
    print(
        "float64 agrees (differences in float32 are mostly rounding)"
        if found.holds
        else f"float64 does NOT agree (limits: {', '.join(f'{limit:.0e} with {name}' for name, limit in limits)})"
    )
    if not found.holds:
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
