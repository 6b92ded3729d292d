"""Budget curves: the score against samples per class and against steps; readable in black and white.

Students on vectors have panels of their own, one per network, as their scores at one budget lie far apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.report.beside import sample_of_train
from pipeline.report.collect import Collected
from pipeline.report.figures.canvas import label_on_the_right, legend, look, paths_of, sheet
from pipeline.report.layout import Column
from pipeline.report.row import Row
from pipeline.report.tables import METRIC_NAMES

Axis = Literal["shots", "steps"]
AXES: dict[Axis, str] = {"shots": "samples per class", "steps": "gradient steps of a student"}
_FAR = 10  # times the smallest budget, from which on the axis is logarithmic
_INTERVAL = "95 % interval of the mean (none for a single run)"


class Point(NamedTuple):
    """A row's mean on one task, in percent, at ``x`` samples per class or steps."""

    x: int
    row: Row
    mean: float
    low: float | None
    high: float | None


def draw(collected: Collected, title: str, stem: Path) -> tuple[Path, Path]:
    """Writes ``<stem>.png`` and ``<stem>.pdf``: a panel per task and network for samples, and one for steps."""
    columns = collected.layout.columns
    rows = [row for row in collected.layout.rows if row.kind == "ddal"]
    steps = len({row.steps for row in rows if row.steps}) > 1
    axes: list[Axis] = ["shots"] if not steps else ["shots", "steps"]
    networks = list(dict.fromkeys(row.network for row in collected.layout.rows if row.competes)) or [""]
    places = [(column, axis, network) for column in columns for axis in axes for network in networks]
    wide = min(2, len(places))
    high = -(-len(places) // wide)
    with sheet(stem, (7.0 * wide, 3.7 * high + 1.0)) as figure:
        panels = figure.subplots(high, wide, squeeze=False)
        for panel, (column, axis, network) in zip(panels.flat, places, strict=False):
            _panel(panel, collected, column, axis, network)
        for panel in panels.flat[len(places) :]:
            panel.set_axis_off()
        leaky = any(row.on_test for row in collected.layout.rows)
        figure.suptitle(f"{title}: score against budget" + ("\nSELECTED ON THE TEST SPLIT: some" if leaky else ""))
        legend(figure, list(panels.flat))
    return paths_of(stem)


def series(collected: Collected, column: Column, axis: Axis, network: str = "") -> dict[str, list[Point]]:
    """The curves of a task and a network by their names, each in order of its budget.

    Along steps, a curve begins at the one step on as many samples as each of its steps sees. Names do not say what the
    students of all curves have in common.
    """
    rows = [row for row in collected.layout.rows if row.competes and row.network == network]
    rows = [row for row in rows if collected.sample(row, column) is not None]
    students = {row.student for row in rows}
    shared = f", {min(students)}" if network and len(students) == 1 else ""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if axis == "shots":
            found.setdefault(_along_shots(row).replace(shared, ""), []).append(row)
        elif row.kind == "ddal" and row.steps and row.steps > 1:
            found.setdefault(_along_steps(row), _begins(row, rows)).append(row)
    return {name: sorted(_point(row, collected, column, axis) for row in of) for name, of in found.items()}


def _along_shots(row: Row) -> str:
    if row.steps is None:
        return _name(row, "")
    if row.kind != "ddal" or row.data in ("different", "random"):
        return _name(row, f"{row.data} data per step" if row.kind == "ddal" else "")
    return _name(row, "1 step" if row.steps == 1 else f"{row.steps} steps on the same data")


def _along_steps(row: Row) -> str:
    assert row.steps
    assert row.shots
    if row.data == "same":
        return _name(row, f"{_samples(row.shots)} per class, the same at every step")
    each = f"{_samples(row.shots // row.steps)} per class, {row.data} at every step"
    return _name(row, each if row.shots % row.steps == 0 else f"{row.data} data per step")


def _begins(row: Row, rows: Sequence[Row]) -> list[Row]:
    assert row.steps
    assert row.shots
    shots = row.shots if row.data == "same" else row.shots // row.steps
    return [r for r in rows if (r.method, r.steps, r.shots, r.on_test) == (row.method, 1, shots, row.on_test)]


def _name(row: Row, budget: str) -> str:
    return ", ".join(filter(None, (row.method, budget))) + (" [selected on test]" if row.on_test else "")


def _samples(count: int) -> str:
    return f"{count} sample" + ("" if count == 1 else "s")


def _point(row: Row, collected: Collected, column: Column, axis: Axis) -> Point:
    sample = collected.sample(row, column)
    assert sample is not None
    x = row.shots if axis == "shots" else row.steps
    low, high = (None if bound is None else 100 * bound for bound in (sample.estimate.low, sample.estimate.high))
    return Point(x or 0, row, 100 * sample.estimate.mean, low, high)


def _panel(panel: Any, collected: Collected, column: Column, axis: Axis, network: str) -> None:
    found = series(collected, column, axis, network)
    size = collected.size(column, column.split)
    rows = "? rows" if size is None else f"{size:,} rows"
    samples = [collected.sample(point.row, column) for points in found.values() for point in points]
    numbers = "; ".join(dict.fromkeys(sample.size for sample in samples if sample is not None))
    students = ", ".join(dict.fromkeys(point.row.student for points in found.values() for point in points))
    about = ", ".join(filter(None, (column.title, students))) + f": n = {numbers or 0} (sets × initialisations)"
    panel.set_title("\n".join(filter(None, (about, sample_of_train(collected, column)))), fontsize=9)
    panel.set_ylabel(f"{column.split} {METRIC_NAMES[column.metric]} ({rows})", fontsize=9)
    panel.set_xlabel(AXES[axis], fontsize=9)
    panel.tick_params(labelsize=9)
    panel.spines[["top", "right"]].set_visible(False)
    budgets = sorted({point.x for points in found.values() for point in points})
    if not found:
        panel.text(0.5, 0.5, "no such rows with results", ha="center", va="center", transform=panel.transAxes)
        return
    low, high = min(budgets), max(budgets)
    if high >= _FAR * low:
        panel.set_xscale("log")
    panel.set_xticks(budgets, labels=[str(budget) for budget in budgets], minor=False)
    panel.minorticks_off()
    panel.set_xlim(_aside(low, low, high, -0.15), _aside(high, low, high, 0.15))
    ends = []
    for number, (name, points) in enumerate(found.items()):
        apart = 0.018 * (number - (len(found) - 1) / 2)  # so that intervals do not hide each other
        xs = [_aside(point.x, low, high, apart) for point in points]
        _curve(panel, points, number, xs)
        last = points[-1]
        ends.append((xs[-1], last.mean, f"{name}  {last.mean:.1f}", look(number)))
    _references(panel, collected, column, network)
    label_on_the_right(panel, ends)


def _aside(x: int, low: int, high: int, share: float) -> float:
    """``x`` moved by a share of the axis from ``low`` to ``high``."""
    return x * (high / low) ** share if high >= _FAR * low else x + share * (high - low or 1)


def _curve(panel: Any, points: Sequence[Point], number: int, xs: Sequence[float]) -> None:
    panel.plot(xs, [point.mean for point in points], linewidth=1.2, markersize=6, zorder=3, **look(number))
    for x, point in zip(xs, points, strict=True):
        if point.low is not None and point.high is not None:
            reach = [[point.mean - point.low], [point.high - point.mean]]
            style = {"color": "black", "capsize": 2.5, "linewidth": 0.8, "zorder": 2, "label": _INTERVAL}
            panel.errorbar(x, point.mean, yerr=reach, **style)


def _references(panel: Any, collected: Collected, column: Column, network: str) -> None:
    line: dict[str, Any] = {"color": "0.4", "linewidth": 1.0, "zorder": 1}
    majority = collected.reference("majority", column)
    if majority is not None:
        panel.axhline(100 * majority.estimate.mean, linestyle=":", label="majority", **line)
    full = [(row, sample) for row, sample in collected.references("full", column) if row.network in ("", network)]
    for (row, sample), style in zip(full, cycle(("--", "-.", (0, (6, 2))))):
        panel.axhline(100 * sample.estimate.mean, linestyle=style, label=row.method, **line)
