"""The command line: ``python -m pipeline run``, ``status``, ``retry``, ``cancel`` and what a cluster needs."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from pipeline import launch, release, samples, stopping
from pipeline.config import Experiment, load
from pipeline.config.cluster import Cluster
from pipeline.config.cluster_file import enter, note_defaults, root_of
from pipeline.config.where import restricted
from pipeline.errors import InputError
from pipeline.launch import display
from pipeline.launch import sbatch as scripts
from pipeline.launch.cancel import cancel_ours
from pipeline.launch.doctor import examine
from pipeline.launch.dry_run import described
from pipeline.launch.here import run_here
from pipeline.launch.known import remember
from pipeline.launch.mistakes import refuse_mistakes
from pipeline.launch.outputs import Outputs
from pipeline.launch.prune_command import prune as prune_superseded
from pipeline.launch.queue import settle_kills
from pipeline.launch.scheduler import Scheduler
from pipeline.launch.stages import StageName, name_of
from pipeline.launch.status import Row
from pipeline.launch.status import rows as rows_of
from pipeline.launch.submission import all_of, jobs_of, note_code
from pipeline.launch.submitter import Executor, locally, tables, to_slurm
from pipeline.report.files import OUT
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
    list[str] | None,
    typer.Option("--set", help="dotted.key=value; dotted.key=v1,v2 sweeps, but not in quotes; may be repeated"),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", help="dotted.key=value: compute no other cells; several values, and several keys, as --set"),
]
Root = Annotated[
    str | None, typer.Option(help="folder of all artifacts (default: $TEXTDD_ROOT, cluster.yaml's, or checkpoints)")
]
Out = Annotated[Path, typer.Option(help="folder of the tables and figures")]
Where = Annotated[
    Executor, typer.Option("--cluster", help="debug: in this process; local: processes of this machine; slurm: jobs")
]
File = Annotated[str | None, typer.Option("--cluster-file", help="your cluster (default: configs/cluster.yaml)")]


@app.command()
def run(
    config: Config,
    set_: Settings = None,
    only: Only = None,
    cluster: Where = "debug",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would run and stop")] = False,
    root: Root = None,
    out: Out = OUT,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="a gradient check before the first distillation")
    ] = True,
    cluster_file: File = None,
) -> None:
    """Run all four stages of an experiment; what is done already is not run again."""
    site = enter(cluster_file)
    experiment, store = _experiment(config, set_, only, root, cluster_file), Store(root_of(root, site))
    refuse_mistakes(experiment)
    if cluster != "debug":
        note_defaults(cluster_file, store.root)
    if dry_run:
        found = described(experiment, store, site, cluster)
        print(found.text)
        if not found.sound:
            raise typer.Exit(1)
        return
    _run(experiment, store, site, cluster, out, check=check)
    if cluster == "slurm":
        print(f"look at it with: {experiment.typed.command('status')}")


def _run(experiment: Experiment, store: Store, site: Cluster, cluster: Executor, out: Path, *, check: bool) -> None:
    if cluster == "slurm":
        print(to_slurm(launch.pin(experiment, store), store, site, out, check=check))
    elif cluster == "local":
        locally(launch.pin(experiment, store), store, site, out, check=check)
    else:
        launch.led(lambda ranks: run_here(ranks, experiment, store, out, check=check))


def _experiment(
    config: str, settings: list[str] | None, only: list[str] | None, root: str | None, cluster_file: str | None
) -> Experiment:
    found = restricted(load(config, settings or []), only or [])
    typed = found.typed.model_copy(update={"root": root, "cluster_file": cluster_file})
    return found.model_copy(update={"typed": typed})


@app.command()
def status(
    config: Config,
    set_: Settings = None,
    only: Only = None,
    everything: Annotated[bool, typer.Option("--all", help="every cell of a large grid, too")] = False,
    watch: Annotated[float | None, typer.Option(help="look again every so many seconds, until nothing runs")] = None,
    json: Annotated[bool, typer.Option("--json", help="for scripts")] = False,
    root: Root = None,
    out: Annotated[Path | None, typer.Option(help="folder of the tables (default: the last submission's)")] = None,
    cluster_file: File = None,
) -> None:
    """Show every cell: done, running, pending (why), failed (why, and the log), partial (begun) or missing."""
    site = enter(cluster_file)
    experiment, store = _experiment(config, set_, only, root, cluster_file), Store(root_of(root, site))
    note_defaults(cluster_file, store.root)
    look = _looking(experiment, store, site)
    if watch is not None:
        display.watch(look, watch)
        return
    rows, trouble = look()
    if json:
        print(display.to_json(rows))
        return
    width = shutil.get_terminal_size((120, 24)).columns
    print(f"{experiment.name}: {len(experiment.computed)} cells")
    print(display.text(rows, width, color=sys.stdout.isatty(), everything=everything, note=trouble))
    if any(row.stage == "evaluate" and row.state == "done" for row in rows):
        scheduler = Scheduler.here() if trouble is None else None
        print(f"\n{tables(experiment, store, site, scheduler, out)}")


def _looking(experiment: Experiment, store: Store, site: Cluster) -> Callable[[], tuple[Sequence[Row], str | None]]:
    """One question to the scheduler per look."""
    scheduler = Scheduler.here()

    def look() -> tuple[Sequence[Row], str | None]:
        submitted = list(all_of(site.logs_folder, experiment.name, store.root))
        tables = jobs_of(submitted)
        jobs = {} if scheduler is None else scheduler.jobs([job for ids in tables.values() for job in ids])
        found = rows_of(experiment, store, jobs, tables, Outputs.of(submitted))
        return found, None if scheduler is None else scheduler.trouble

    return look


@app.command()
def retry(
    config: Config,
    set_: Settings = None,
    only: Only = None,
    cluster: Where = "debug",
    root: Root = None,
    out: Out = OUT,
    cluster_file: File = None,
) -> None:
    """Run what failed again, with what waits for it; also what was given up."""
    site = enter(cluster_file)
    store = Store(root_of(root, site))
    given = _experiment(config, set_, only, root, cluster_file)
    refuse_mistakes(given)
    if cluster != "debug":
        note_defaults(cluster_file, store.root)
    experiment = launch.pin(given, store)
    rows, _ = _looking(experiment, store, site)()
    failed = {row.name: row.cells for row in rows if row.state in ("failed", "partial")}
    if not failed:
        typed = given.typed.command("run", *(() if cluster == "debug" else ("--cluster", cluster)))
        print(f"{experiment.name}: nothing failed; {typed} does what is missing")
        return
    for stage in launch.MODULES:
        for cell in launch.stage_cells(experiment, store, stage):
            if name_of(cell) in failed:
                cell.clear_failures()
    positions = sorted({index for cells in failed.values() for index in cells})  # of these and of what waits for them
    _run(given.model_copy(update={"only": tuple(positions)}), store, site, cluster, out, check=True)
    if cluster == "slurm":
        print(f"look at it with: {given.typed.command('status')}")


@app.command()
def cancel(config: Config, set_: Settings = None, root: Root = None, cluster_file: File = None) -> None:
    """Cancel the jobs of this experiment, and no others; what they had done is saved."""
    site = enter(cluster_file)
    experiment, store = _experiment(config, set_, None, root, cluster_file), Store(root_of(root, site))
    note_defaults(cluster_file, store.root)
    print(f"{experiment.name}: {cancel_ours(experiment, store, site)}")


@app.command()
def sbatch(
    check: Annotated[bool, typer.Option("--check", help="write nothing; status 1 where scripts are stale")] = False,
    cluster_file: File = None,
) -> None:
    """Render sbatch/*.sbatch from the cluster's file."""
    site = enter(cluster_file)
    if not check:
        print(f"written: {', '.join(map(str, scripts.write(site)))}")
        return
    stale = scripts.stale(site)
    if stale:
        file = [] if cluster_file is None else ["--cluster-file", cluster_file]
        again = shlex.join(["python", "-m", "pipeline", "sbatch", *file])
        print(f"stale: {', '.join(stale)}; type: {again}", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def array(
    config: Config,
    stage: StageName,
    set_: Settings = None,
    only: Only = None,
    root: Root = None,
    cluster_file: File = None,
) -> None:
    """Print what is left of STAGE as sbatch's --array takes it: positions in the grid."""
    positions = "nothing"  # which sbatch refuses; with an empty --array it would submit one job for the whole grid
    try:
        site = enter(cluster_file)
        experiment, store = _experiment(config, set_, only, root, cluster_file), Store(root_of(root, site))
        refuse_mistakes(experiment)
        note_defaults(cluster_file, store.root)
        scheduler = Scheduler.here()
        limit = None if scheduler is None else scheduler.max_array_size()
        experiment = launch.pin(experiment, store)
        remember(experiment, store)
        settle_kills(experiment, store, scheduler, Outputs.of(all_of(site.logs_folder, experiment.name, store.root)))
        found = scripts.array(experiment, store, stage, site, limit=limit)
        note_code(store.root, experiment.name)  # the jobs refuse to run any other
        positions = found
    finally:
        print(positions)


@app.command()
def doctor(
    config: Annotated[str | None, typer.Argument(help="an experiment: are its data and its encoder here?")] = None,
    set_: Settings = None,
    root: Root = None,
    cluster_file: File = None,
) -> None:
    """Check this machine, login node or compute node (srun … python -m pipeline doctor), before jobs fail on it."""
    failed = 0
    for found in examine(config, set_ or [], root, cluster_file):
        print(found, flush=True)
        failed += not found.ok
    if failed:
        raise typer.Exit(1)


@app.command()
def prune(
    configs: Annotated[list[str] | None, typer.Argument(help="experiments to keep, beside configs/*.yaml")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="of these experiments; kept from now on")] = None,
    without: Annotated[list[str] | None, typer.Option("--forget", help="name of a run that nobody wants")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    root: Root = None,
    cluster_file: File = None,
) -> None:
    """Remove artifacts that no experiment and no run refers to, and what nobody reads again, after saying which."""
    site, options = enter(cluster_file), {"settings": set_ or [], "without": without or []}
    prune_superseded(configs or [], Store(root_of(root, site)), site.logs_folder, cluster_file, yes=yes, **options)


@app.command()
def estimate(
    config: Config,
    set_: Settings = None,
    only: Only = None,
    again: Annotated[bool, typer.Option("--again", help="measure anew what was measured before")] = False,
    root: Root = None,
    cluster_file: File = None,
) -> None:
    """Predict time and memory of every cell from short measured slices; of cells that are done, say the error."""
    from pipeline.launch.estimate import estimate as estimated
    from pipeline.launch.estimate import table

    site = enter(cluster_file)
    store = Store(root_of(root, site))
    experiment = launch.pin(_experiment(config, set_, only, root, cluster_file), store)
    refuse_mistakes(experiment)
    lines = estimated(experiment, store, lambda text: print(text, file=sys.stderr, flush=True), again=again)
    print(table(lines, site.local.at_once))


@app.command()
def check_grad(
    config: Config,
    set_: Settings = None,
    index: Annotated[int | None, typer.Option(help="position in the grid (default: the first that learns)")] = None,
    full: Annotated[bool, typer.Option("--full", help="the whole set, not a slice of it")] = False,
    root: Root = None,
    cluster_file: File = None,
) -> None:
    """Compare the configured hypergradient with the unroll and with finite differences; exit status 1 if it is off."""
    store = Store(root_of(root, enter(cluster_file)))
    experiment = launch.pin(load(config, set_ or []), store)
    cell = launch.learning_cell(experiment, index)
    outcome = launch.run_stage([store.cell(cell.source.source)], "prepare", store)
    if outcome.failed:
        raise InputError(next(iter(outcome.failed.values())))
    from pipeline.data.prepared import Prepared
    from pipeline.methods.gradient_check import SLICE, WHOLE, check_gradient
    from pipeline.progress import quiet_libraries

    quiet_libraries()
    found = check_gradient(cell.source, Prepared(store.cell(cell.source.source).folder), WHOLE if full else SLICE)
    print(f"estimator {found.estimator} ({found.why}), {cell.source.slug}")
    print(found.table())
    if not found.holds:
        raise typer.Exit(1)


for command in (release.card, release.verify, release.push, samples.show, samples.export):
    app.command()(command)
app.command("import")(samples.import_)


def main() -> None:
    """Entry point."""
    stopping.guarded(app)


if __name__ == "__main__":
    main()
