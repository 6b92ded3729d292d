"""Stage 4: every finished ``results.csv`` -> the paper's tables and a figure.

``python -m pipeline.stage4_aggregate CONFIG``. Reads the store and, for what is not there, the runs that it left in
``out`` before; writes only to ``out``; names what has no results.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.config import Experiment, load
from pipeline.config.cluster_file import enter, root_of
from pipeline.errors import InputError
from pipeline.report.files import OUT, last, write_last
from pipeline.stopping import guarded
from pipeline.store import Store

if TYPE_CHECKING:
    from pipeline.report.finished import Problem


@dataclass(frozen=True)
class Summary:
    """What was shown and written: the tables as Markdown, all files, the cells without results.

    ``archived``: how many cells are not in the store any more, but were in ``out``.
    """

    markdown: str
    files: tuple[Path, ...]
    problems: tuple[Problem, ...]
    archived: int


def run(experiment: Experiment, store: Store, out: Path = OUT) -> Summary:
    """Aggregates an experiment into ``<out>/<experiment>.csv``, tables (CSV, Markdown, LaTeX) and a figure (PNG, PDF).

    All runs go into ``<experiment>.runs.csv`` and ``<experiment>.h5``, from which the same tables can be made when the
    artifacts are gone; ``<experiment>.ledger.csv`` has what each artifact cost, ``<experiment>.tests.csv`` the tests
    between rows, ``<experiment>.pareto.png`` (PDF) accuracy against compute. Sets that were evaluated by ``robust``
    also get ``<experiment>.robustness.*``, and where students of another encoder learned from a set's text there is
    ``<experiment>.transfer.*``.

    Raises:
        InputError: no cell has results, here or in ``out``, hyper-parameters would have to be chosen without dev
            scores, ``report.compare`` names no row, or the runs from before are not whole. Nothing was written.

    """
    began = time.time()
    # pandas and matplotlib: not for those who only list the stages
    from pipeline.report.archive import Archive
    from pipeline.report.collect import collect
    from pipeline.report.figures.pareto import draw as draw_pareto
    from pipeline.report.figures.scores import draw
    from pipeline.report.ledger import Ledger, sentences, with_costs
    from pipeline.report.render import markdown, write_tables
    from pipeline.report.robustness.tables import write_robustness
    from pipeline.report.settled import sentences as searched_before
    from pipeline.report.tables import long_form, results_table, task_table
    from pipeline.report.transfer.tables import write_transfer

    archive = Archive(out / experiment.name, store)
    collected = collect(experiment, store, archive)
    if not collected.cells:
        raise InputError(
            f"{experiment.name}: no cell has results yet, so that {out} is left as it is; "
            f"{experiment.typed.command('status')} says why"
        )
    ledger = Ledger(out / f"{experiment.name}.ledger.csv", store)
    ledger.add(finished for finished, _ in collected.cells)
    results = results_table(experiment, collected)
    remarks = (*results.caption, *searched_before(collected, out), *sentences(collected, ledger))
    results = replace(results, caption=remarks)
    tables = (task_table(experiment, collected), results)
    whole = with_costs(long_form(collected), collected, ledger)
    archive.write(collected.cells, collected.prepared)
    ledger.write()
    stem = out / experiment.name
    files = [last(experiment.name, out), archive.runs, archive.h5, ledger.path, *write_tables(tables, stem)]
    files += draw(collected, tables[-1].title, stem)
    files += draw_pareto(collected, ledger, experiment.name, out / f"{experiment.name}.pareto")
    robustness, more = write_robustness(experiment.name, collected, store, stem)
    transfer, beside = write_transfer(experiment, collected, stem)
    write_last(files[0], whole.to_csv(index=False, float_format="%.10g", lineterminator="\n"), began)
    archived = sum(cell.archived for cell, _ in collected.cells)
    shown = [*map(markdown, tables), *(text for text in (robustness, transfer) if text)]
    return Summary("\n".join(shown), (*files, *more, *beside), collected.problems, archived)


def show(summary: Summary) -> None:
    """Prints the tables and the paths of everything that was written."""
    if summary.archived:
        print(
            f"note: {summary.archived} cells have no artifacts here; their runs are those written before",
            file=sys.stderr,
        )
    print(summary.markdown)
    for file in summary.files:
        print(file)


def main(
    config: Annotated[Path, typer.Argument(help="the experiment's YAML file, such as configs/quickstart.yaml")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value; several values sweep")] = None,
    root: Annotated[str | None, typer.Option(help="folder of all artifacts (default: as of `run`)")] = None,
    out: Annotated[Path, typer.Option(help="folder of the tables and figures")] = OUT,
) -> None:
    """Tables and a figure from the finished cells of CONFIG."""
    store, experiment = Store(root_of(root, enter())), load(config, settings or ())
    typed = experiment.typed.model_copy(update={"root": root})
    show(run(experiment.model_copy(update={"typed": typed}), store, out))


if __name__ == "__main__":
    guarded(lambda: typer.run(main))
