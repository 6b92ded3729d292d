"""Cells x stages: what has to run, in which order, and what became of it.

Knows the stages by name only and imports none of them before it runs one, so that ``status``, ``--dry-run`` and
``--help`` need no torch.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pipeline.config import DDAL, Distill, Evaluate, Experiment, Prepare, load
from pipeline.config.data import HubSource
from pipeline.errors import InputError, StageError
from pipeline.parallel import LostRanksError, Ranks, gathered
from pipeline.progress import quiet_libraries
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
    cells = [store.cell(stage_config(cell, stage)) for cell in experiment.cells]
    return list({cell.folder: cell for cell in cells}.values())


def ddal_cell(experiment: Experiment, index: int | None) -> Evaluate:
    """The cell at ``index``, or the first one whose set is distilled.

    Raises:
        InputError: there is none, or the one asked for is not distilled.

    """
    distilled = [i for i, cell in enumerate(experiment.cells) if isinstance(cell.source.method, DDAL)]
    if not distilled or index not in (None, *distilled):
        allowed = ", ".join(map(str, distilled)) or "none; give an experiment with method ddal"
        raise InputError(f"--index {index}: no ddal cell; ddal cells of {experiment.name}: {allowed}")
    return experiment.cells[distilled[0] if index is None else index]


def canary(experiment: Experiment, store: Store) -> None:
    """Compares the hypergradient of one cell per prepared encoder with its references, before hours are spent on it.

    A small slice in float64, once per encoder that has a ``ddal`` cell to distil; nothing where all are done.

    Raises:
        StageError: it does not agree.

    """
    checked = set()
    for cell in stage_cells(experiment, store, "distill"):
        if not _is_ddal(cell) or cell.state == "done":
            continue
        assert isinstance(cell.config, Distill)
        source = store.cell(cell.config.source)
        if source.folder in checked or source.state != "done":
            continue
        quiet_libraries()
        from pipeline.methods.gradient_check import canary_of

        try:
            found = canary_of(cell.config, source.folder)
        except InputError:
            continue  # this cell cannot be distilled at all: its own stage will say so
        checked.add(source.folder)
        print(f"gradient check: {found}", file=sys.stderr)
        if not found.holds:
            raise StageError(
                f"the hypergradient of {cell.folder.name} is wrong, so nothing was distilled; "
                f"python -m pipeline check-grad CONFIG says of which tensor, estimator: unroll does without "
                f"hand-derived passes, and --no-check goes on regardless"
            )


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
        store.places.record(kind, name, asked, known)
    return known


@dataclass
class Outcome:
    """What a stage did: cells finished now, cells found done, cells that failed with their reasons."""

    ran: int = 0
    found: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.ran} done now, {self.found} done before, {len(self.failed)} failed"


def run_stage(cells: Sequence[Cell], stage: StageName, store: Store, ranks: Ranks | None = None) -> Outcome:
    """Runs the cells of one stage that are not done, one after the other; a failing one does not stop the others.

    Args:
        cells: of one stage.
        stage: its name.
        store: where they are.
        ranks: the processes of this run; this is the first of them, and it shares its ``ddal`` cells with the others.

    Raises:
        LostRanksError: another of the processes is gone.

    """
    outcome = Outcome()
    for number, cell in enumerate(cells, 1):
        name = f"{stage} {number}/{len(cells)} {cell.folder.name}"
        try:
            cell.check()
            if cell.state == "done":
                outcome.found += 1
                continue
            print(f"\n{name}", file=sys.stderr)
            _require_source(cell, stage, store)
            with cell.claim() as out:
                if out is None:
                    outcome.found += 1
                    continue
                if ranks is not None and ranks.size > 1 and isinstance(cell.config, Distill) and _is_ddal(cell):
                    ranks.tell((cell.config, out.resolve()))
                    _take_part(ranks, cell.config, out)
                else:
                    _module(stage).run(cell.config, out)
            outcome.ran += 1
        except LostRanksError:
            raise
        except (InputError, StageError) as error:
            outcome.failed[name] = str(error)
        except Exception as error:
            traceback.print_exc()
            outcome.failed[name] = f"{type(error).__name__}: {error}"
        if name in outcome.failed:
            print(f"{name}: failed: {outcome.failed[name]}", file=sys.stderr)
    return outcome


def _module(stage: StageName) -> Any:
    module = importlib.import_module(MODULES[stage])
    quiet_libraries()
    return module


def _is_ddal(cell: Cell) -> bool:
    return isinstance(cell.config, Distill) and isinstance(cell.config.method, DDAL)


def _take_part(ranks: Ranks, config: Distill, out: Path) -> None:
    with ranks.cell():
        _module("distill").run(config, out, ranks)


def led(work: Callable[[Ranks], None]) -> None:
    """Runs ``work`` in the first process of this run; the others take part in the cells that it shares with them.

    What fails in a cell on any rank fails it on all, and is the first rank's to record and to report; only what nobody
    foresaw leaves its traceback where it happened.

    Raises:
        InputError: there are other processes and nothing says where to meet them.
        LostRanksError: another process is gone.

    """
    with gathered() as ranks:
        if ranks.first:
            work(ranks)
            return
        while (order := ranks.told()) is not None:
            try:
                _take_part(ranks, *order)
            except LostRanksError:
                raise
            except (InputError, StageError):
                continue
            except Exception:
                traceback.print_exc()


def _require_source(cell: Cell, stage: StageName, store: Store) -> None:
    if isinstance(cell.config, Prepare):
        return
    source = store.cell(cell.config.source)
    if source.state != "done":
        before = list(MODULES.values())[list(MODULES).index(stage) - 1]
        advice = {"failed": f"it failed: {source.failure()}", "running": f"{source.holder()} is at it: wait for it"}
        raise InputError(
            f"needs {source.folder}, which is {source.state}; "
            f"{advice.get(source.state, f'run it first: python -m {before} CONFIG')}"
        )


def stage_command(stage: StageName) -> None:
    """The command line of one numbered stage: ``python -m pipeline.stageN_… CONFIG [--index K] [--set key=value]``."""

    def command(
        config: Annotated[str, typer.Argument(help="the experiment's YAML file")],
        index: Annotated[int | None, typer.Option(help="run one cell: its position in the full grid")] = None,
        set_: Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value; several values sweep")] = None,
        root: Annotated[str | None, typer.Option(help="folder of all artifacts (default: checkpoints)")] = None,
    ) -> None:
        """Run this stage for every cell of CONFIG, or for one of them; what is done is not done again."""
        led(lambda ranks: work(ranks, config, index, set_ or [], root))

    def work(ranks: Ranks, config: str, index: int | None, settings: list[str], root: str | None) -> None:
        store = Store(root)
        experiment = load(config, settings)
        if index is not None:
            if not 0 <= index < len(experiment.cells):
                raise InputError(f"--index {index}: this grid has the positions 0 to {len(experiment.cells) - 1}")
            experiment = experiment.model_copy(update={"cells": (experiment.cells[index],)})
        outcome = run_stage(stage_cells(pin(experiment, store), store, stage), stage, store, ranks)
        print(f"{stage}: {outcome}", file=sys.stderr)
        if outcome.failed:
            raise typer.Exit(1)

    guarded(lambda: typer.run(command))


def guarded(command: Callable[[], object]) -> None:
    """Runs a command line; what the user can mend is one sentence on standard error and exit status 2."""
    try:
        command()
    except (InputError, StageError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues from the last save", file=sys.stderr)
        raise SystemExit(130) from None
