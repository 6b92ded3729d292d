"""Cells run in this process, alone or as one of several ranks, after a gradient check."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import stopping
from pipeline.config import DDAL, Distill, Experiment, Learned, Text, inputs
from pipeline.config.typed import Typed
from pipeline.errors import HeldError, InputError, StageError
from pipeline.launch.stages import MODULES, StageName, stage_cells, stage_of
from pipeline.launch.submission import code_digest
from pipeline.parallel import LostRanksError, Ranks, gathered
from pipeline.progress import quiet_libraries
from pipeline.store import Cell, Store
from pipeline.store.aides import aiding
from pipeline.store.atomic import read_json, write_json


def canary(experiment: Experiment, store: Store) -> None:
    """Compares the hypergradient of one cell per prepared encoder with its references, before hours are spent on it.

    Raises:
        StageError: it does not agree.

    """
    for cell in stage_cells(experiment, store, "distill"):
        if cell.state != "done":
            check_gradient(cell, store, experiment.typed)


def check_gradient(cell: Cell, store: Store, typed: Typed | None = None) -> None:
    """Compares the hypergradient of a cell that learns with its references, on a small slice in float64.

    Once per prepared encoder, student on vectors, estimator and version of the code: that it holds is noted beside the
    prepared task.

    Args:
        cell: any; those of other methods than ``ddal``, ``bptt`` and ``text`` have none.
        store: of the cell.
        typed: how its experiment was, where that is known.

    Raises:
        StageError: it does not agree.

    """
    if not isinstance(cell.config, Distill):
        return
    for prepare in (cell.config.source, *cell.config.others):
        _check_student(cell, cell.config.model_copy(update={"source": prepare, "others": ()}), store, typed)


def _check_student(cell: Cell, config: Distill, store: Store, typed: Typed | None) -> None:
    """Of the students of one encoder; ``config`` is the cell's as if they were alone.

    Of other encoders than the first only hand-derived passes are checked: autograd needs none, and its reference, the
    graph of all steps in float64, takes more memory than the cell.
    """
    method, source = config.method, store.cell(config.source)
    if not isinstance(method, Learned):
        return
    if method.checked_as is None:
        print(f"gradient check: none is written for method '{method.name}'", file=sys.stderr)
        return
    noted, mine = source.folder / method.checked_as, {"code": code_digest(), "by": method.estimator}
    if source.state != "done" or read_json(noted) == mine:
        return
    assert isinstance(cell.config, Distill)
    if isinstance(method, Text) and config.source != cell.config.source and not _by_hand(method, source):
        return
    quiet_libraries()
    from pipeline.methods.gradient_check import canary_of

    try:
        found = canary_of(config, source.folder)
    except InputError:
        return  # this cell cannot be distilled at all: its own stage will say so
    print(f"gradient check: {found}", file=sys.stderr)
    if not found.holds:
        raise StageError(
            f"the hypergradient of {cell.folder.name} is wrong, so nothing was distilled; "
            f"{(typed or Typed()).command('check-grad')} says of which tensor, estimator: unroll does without "
            f"hand-derived passes, and --no-check goes on regardless"
        )
    write_json(noted, mine)


def _by_hand(method: Text, source: Cell) -> bool:
    """Whether the encoder's derivatives are hand-derived."""
    from pipeline import work

    return work.estimator(method, source.folder) == "fused"


@dataclass
class Outcome:
    """What a stage did: cells finished now, cells found done, cells that are not done with the reasons.

    Of the last, ``held`` are those that other processes are at, or that read what other processes are at.
    """

    ran: int = 0
    found: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        failed = f"{self.ran} done now, {self.found} done before, {len(self.failed) - len(self.held)} failed"
        return failed + (f", {len(self.held)} left to other processes: run again after them" if self.held else "")


def run_stage(
    cells: Sequence[Cell], stage: StageName, store: Store, ranks: Ranks | None = None, *, check: bool = False
) -> Outcome:
    """Runs the cells of one stage that are not done, one after the other; a failing one does not stop the others.

    Args:
        cells: of one stage.
        stage: its name.
        store: where they are.
        ranks: the processes of this run; this is the first of them, and it shares its ``ddal`` cells with the others.
        check: see :func:`check_gradient`; a cell whose gradient is wrong fails.

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
            _require_inputs(cell, store)
            with cell.claim() as out:
                if out is None:
                    outcome.found += 1
                    continue
                if check:
                    check_gradient(cell, store)
                if ranks is not None and ranks.size > 1 and isinstance(cell.config, Distill) and _is_ddal(cell):
                    with stopping.polled():  # once they are told, this process may only leave together with them
                        ranks.tell((cell.config, out.resolve()))
                        _take_part(ranks, cell.config, out)
                else:
                    _module(stage).run(cell.config, out)
            outcome.ran += 1
        except LostRanksError:
            raise
        except HeldError as error:
            outcome.failed[name] = str(error)
            outcome.held.add(name)
        except (InputError, StageError) as error:
            outcome.failed[name] = str(error)
        except Exception as error:
            traceback.print_exc()
            outcome.failed[name] = f"{type(error).__name__}: {error}"
        if name in outcome.failed:
            how = "not done" if name in outcome.held else "failed"
            print(f"{name}: {how}: {outcome.failed[name]}", file=sys.stderr)
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
    foresaw leaves its traceback where it happened. Only the first one stops at a signal outside a shared cell.

    Raises:
        InputError: there are other processes and nothing says where to meet them.
        LostRanksError: another process is gone.
        Stopped: all of them stopped, or this is the first one and was asked to.

    """
    with gathered() as ranks:
        if ranks.first:
            work(ranks)
            return
        _follow(ranks)


def _follow(ranks: Ranks) -> None:
    stopped = None
    while (order := ranks.told()) is not None:
        config, out = order
        try:
            with aiding(out, ranks.rank):
                _take_part(ranks, config, out)
        except LostRanksError:
            raise
        except (InputError, StageError):
            continue
        except stopping.Stopped as error:
            stopped = error  # the first rank saves, and then sends the others home
        except Exception:
            traceback.print_exc()
    if stopped is not None:
        raise stopped
    stopping.check()


def _require_inputs(cell: Cell, store: Store) -> None:
    lacking = [found for config in reversed(inputs(cell.config)) if (found := store.cell(config)).state != "done"]
    if not lacking:
        return
    # The nearest says itself what it lacks, but where it never began: then what failed before it is why.
    source = next((found for found in lacking if found.state in ("failed", "running")), lacking[0])
    before = MODULES[stage_of(source.config)]
    needs = f"needs {source.folder}, which is {source.state}"
    if source.state == "running":
        raise HeldError(f"{needs}; {source.holder()} is at it: wait for it")
    failed = source.state == "failed"
    advice = f"it failed: {source.failure()}" if failed else f"run it first: python -m {before} CONFIG"
    raise InputError(f"{needs}; {advice}")
