"""The compute ledger: what every artifact cost, and after how many uses a set has paid for itself.

``<experiment>.ledger.csv`` has one line per artifact of stages 1 to 3. Like the runs, it is committed: the lines of
artifacts that are not in the store any more are those written before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from pipeline.config import Distill, Evaluate, Learned, Prepare, Stage, upstream
from pipeline.config.chain import STAGE_NAMES
from pipeline.errors import InputError
from pipeline.report.archive import name_of
from pipeline.report.collect import Collected, Entry
from pipeline.report.finished import Finished
from pipeline.report.layout import Column
from pipeline.report.row import Row
from pipeline.store import Cell, Store
from pipeline.store.atomic import write_text

COLUMNS = (
    *("stage", "cell", "task", "seconds", "cpu_seconds", "gpu_seconds", "peak_mb", "gpu_peak_mb", "flops"),
    *("training_flops", "initialisations", "test_reads", "attempts", "threads", "cpu", "gpu"),
)
SHOWN = ("cpu_seconds", "gpu_seconds", "peak_mb", "flops")
Kind = Literal["flops", "seconds"]


@dataclass(frozen=True)
class Totals:
    """What a table's entry cost, ``None`` where that is not known.

    Attributes:
        distill: of one set, on average, with the parents that it goes back to; each artifact counts once, however many
            of these sets start from it. Of memory, the most.
        evaluate: of one initialisation, trained and scored; of memory, the most.
        training_flops: of one initialisation's training alone.

    """

    distill: dict[str, float | None]
    evaluate: dict[str, float | None]
    training_flops: float | None


class Ledger:
    """The lines of an experiment, as text.

    Args:
        path: of the CSV; where it is there, lines of what the store does not have any more are taken from it.
        store: of the artifacts.

    Raises:
        InputError: the CSV has other columns.

    """

    def __init__(self, path: Path, store: Store) -> None:
        self.path, self._store = path, store
        self.lines: dict[str, dict[str, str]] = {}
        self._before: dict[str, dict[str, str]] = {}
        if path.is_file():
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
            if tuple(frame.columns) != COLUMNS:
                raise InputError(f"{path}: not a ledger of this version; restore it, or remove it to lose what it says")
            self._before = {
                line["cell"]: {str(key): str(value) for key, value in line.items()} for line in frame.to_dict("records")
            }

    def add(self, cells: Iterable[Finished]) -> None:
        """The artifacts of finished cells, each once."""
        for finished in cells:
            for config in (*upstream(finished.config), finished.config):
                name = name_of(config)
                if name not in self.lines and (line := self._line(config, name)) is not None:
                    self.lines[name] = line

    def write(self) -> None:
        """Replaces the CSV."""
        order = list(STAGE_NAMES.values())
        lines = sorted(self.lines.values(), key=lambda line: order.index(line["stage"]))
        write_text(self.path, pd.DataFrame(lines, columns=COLUMNS).to_csv(index=False, lineterminator="\n"))

    def number(self, name: str, column: str) -> float | None:
        """One number of the line of the artifact with this name."""
        text = self.lines.get(name, {}).get(column, "")
        return float(text) if text else None

    def totals(self, cells: Sequence[Finished]) -> Totals:
        """What some cells of an entry cost."""
        chains = [[name_of(one) for one in cell.config.source.chain] for cell in cells]  # each set first
        sets, made = {chain[0] for chain in chains}, dict.fromkeys(name for chain in chains for name in chain)
        scored = [name_of(cell.config) for cell in cells]
        runs = sum(cell.config.runs for cell in cells)
        distill: dict[str, float | None] = {}
        evaluate: dict[str, float | None] = {}
        for name in SHOWN:
            of_sets, of_cells = ([self.number(one, name) for one in found] for found in (made, scored))
            peak = name == "peak_mb"
            distill[name] = _most(of_sets) if peak else _mean(of_sets, len(sets))
            evaluate[name] = _most(of_cells) if peak else _mean(of_cells, runs)
        training = [self.number(one, "training_flops") for one in scored]
        return Totals(distill, evaluate, _mean(training, len(training)))

    def test_reads(self) -> dict[str, tuple[int, int]]:
        """Task -> how many cells read its test split, and how many trained students they scored on it."""
        found: dict[str, tuple[int, int]] = {}
        for line in self.lines.values():
            if line["test_reads"] not in ("", "0"):
                cells, students = found.get(line["task"], (0, 0))
                found[line["task"]] = cells + 1, students + int(line["test_reads"])
        return found

    def _line(self, config: Stage, name: str) -> dict[str, str] | None:
        try:
            cell, prepared = self._store.cell(config), self._store.cell(_read(config)).folder
        except InputError:  # data or encoder are not there
            return self._before.get(name)
        if cell.state != "done":
            return self._before.get(name)
        facts = _facts(config) | _cost(cell) | _work(config, prepared)
        return {column: _text(facts.get(column)) for column in COLUMNS} | {"cell": name}


def with_costs(frame: pd.DataFrame, collected: Collected, ledger: Ledger) -> pd.DataFrame:
    """The long form with ``distill_*`` (of one set) and ``evaluate_*`` (of one initialisation) of each row."""
    found = {}
    for (row, column), entry in collected.entries.items():
        if entry.chosen is not None:
            totals = ledger.totals(entry.chosen.cells)
            found[column.task, column.model, collected.layout.labels[row]] = {
                **{f"distill_{name}": value for name, value in totals.distill.items()},
                **{f"evaluate_{name}": value for name, value in totals.evaluate.items()},
            }
    names = [f"{stage}_{name}" for stage in ("distill", "evaluate") for name in SHOWN]
    costs = [found[place] for place in zip(frame["task"], frame["model"], frame["row"], strict=True)]
    return pd.concat([frame, pd.DataFrame(costs, columns=names, index=frame.index, dtype=float)], axis=1)


def sentences(collected: Collected, ledger: Ledger) -> tuple[str, ...]:
    """Below a table: when sets pay off, and how often each test split was read."""
    reads = [
        f"{task} by {cells} cells ({students} trained students scored)"
        for task, (cells, students) in ledger.test_reads().items()
    ]
    said = f"Test split read in this experiment: {'; '.join(reads)}." if reads else ""
    return tuple(sentence for sentence in (*_payoffs(collected, ledger), said) if sentence)


def payoff(distill: float, full: float, small: float) -> float:
    """n* = cost(distill) / (cost(full fine-tuning) − cost(training on the set)), rounded up; ∞ where it never pays."""
    return math.inf if full <= small else math.ceil(distill / (full - small))


def cost_of(entry: Entry, ledger: Ledger, kind: Kind) -> tuple[float, float] | None:
    """Of one set, and of one training on it; ``None`` where either is not known."""
    if entry.chosen is None:
        return None
    if kind == "seconds":
        set_, training = entry.chosen.distill_seconds, entry.chosen.train_seconds
    else:
        totals = ledger.totals(entry.chosen.cells)
        set_, training = totals.distill["flops"], totals.training_flops  # type: ignore[assignment]
    return None if set_ is None or training is None else (set_, training)


def _payoffs(collected: Collected, ledger: Ledger) -> Iterator[str]:
    """One sentence per column that has full data."""
    for column in collected.layout.columns:
        of_all = {row.network: e for (row, c), e in collected.entries.items() if c == column and row.kind == "full"}
        parts, searched = [], False
        for row in collected.layout.rows:
            entry = collected.entries.get((row, column))
            full = of_all.get(row.network)
            if full is None or full.chosen is None:
                continue
            if entry is not None and row.kind in ("ddal", "coreset") and entry.chosen is not None:
                found = [_reuse(entry, full, ledger, kind) for kind in ("flops", "seconds")]
                more = _search(collected, row, column, ledger) if entry.planned > 1 else None
                again = None if more is None else _reuse(entry, full, ledger, "flops", more)
                searched |= again is not None
                shown = " / ".join("?" if n is None else _times(n) for n in found)
                parts.append(f"{collected.layout.labels[row]} {shown}" + (f" ({_times(again)})" if again else ""))
        if parts:
            search = (
                "in brackets by FLOPs with the hyper-parameter search of this grid counted in; other searches are not"
                if searched
                else "hyper-parameter search is not counted in"
            )
            yield (
                f"{column.title}: uses after which a set has paid for itself against full fine-tuning, n* = cost of "
                f"the set / (full fine-tuning − training on the set), by estimated FLOPs / by wall seconds (all of a "
                f"set's stage, against training alone): {'; '.join(parts)}; {search}."
            )


def _reuse(entry: Entry, full: Entry, ledger: Ledger, kind: Kind, more: float = 0.0) -> float | None:
    mine, whole = cost_of(entry, ledger, kind), cost_of(full, ledger, kind)
    return None if mine is None or whole is None else payoff(mine[0] + more, whole[1], mine[1])


def _search(collected: Collected, row: Row, column: Column, ledger: Ledger) -> float | None:
    """FLOPs of all finished cells of a place but one set of the chosen alternative."""
    entry = collected.entries[row, column]
    assert entry.chosen is not None
    one = ledger.totals(entry.chosen.cells).distill["flops"]
    tried: dict[str, None] = {}
    for (finished, _), place in zip(collected.cells, collected.places, strict=True):
        if place == (row, column):
            artifacts: tuple[Stage, ...] = (*finished.config.source.chain, finished.config)
            tried |= dict.fromkeys(map(name_of, artifacts))
    costs = [ledger.number(name, "flops") for name in tried]
    known = [cost for cost in costs if cost is not None]
    return None if one is None or len(known) < len(costs) else sum(known) - one


def _facts(config: Stage) -> dict[str, Any]:
    facts: dict[str, Any] = {"stage": STAGE_NAMES[type(config)], "task": _prepare(config).task.name, "test_reads": 0}
    if isinstance(config, Evaluate):
        facts |= {"initialisations": config.runs, "test_reads": config.runs if "test" in config.splits else 0}
    elif (
        isinstance(config, Distill) and isinstance(config.method, Learned) and config.method.validation.split == "test"
    ):
        facts |= {"test_reads": config.method.validation.initialisations}
    return facts


def _cost(cell: Cell) -> dict[str, Any]:
    cost = cell.cost()
    if cost is None:
        return {"seconds": cell.seconds()}
    texts = {"threads": " ".join(map(str, cost.threads)), "cpu": "; ".join(cost.cpus), "gpu": "; ".join(cost.gpus)}
    return {name: value for name, value in asdict(cost).items() if name in COLUMNS} | texts


def _work(config: Stage, prepared: Path) -> dict[str, Any]:
    """FLOPs, where the prepared task is still there."""
    if not (prepared / "train").is_dir():
        return {}
    from pipeline import work  # which imports torch: committed runs alone need none

    if isinstance(config, Evaluate):
        training = work.of_training(config, prepared).total
        return {"flops": work.of_evaluate(config, prepared).total, "training_flops": training}
    return {"flops": work.of_distill(config, prepared).total if isinstance(config, Distill) else 0.0}


def _read(config: Stage) -> Prepare:
    return config.learned if isinstance(config, Evaluate) else _prepare(config)


def _prepare(config: Stage) -> Prepare:
    if isinstance(config, Evaluate):
        return config.prepared
    return config.source if isinstance(config, Distill) else config


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)


def _mean(values: Sequence[float | None], over: int) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / over if known and len(known) == len(values) else None


def _most(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _times(number: float) -> str:
    return "never" if math.isinf(number) else f"{number:,.0f}"
