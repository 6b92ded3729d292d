"""The Pareto figure: the table's metric against the compute that a trained student takes; readable without colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.report.collect import Collected, Sample
from pipeline.report.figures.canvas import MARKERS, label_on_the_right, legend, paths_of, sheet
from pipeline.report.layout import Column
from pipeline.report.ledger import Ledger, cost_of
from pipeline.report.row import Row
from pipeline.report.tables import METRIC_NAMES

MANY = 12  # points, beyond which names would hide each other
PER_LINE = 2


@dataclass(frozen=True)
class Point:
    """One row of a task: FLOPs of the first student (set and training) and of each further one, and its runs."""

    row: Row
    first: float
    further: float
    sample: Sample

    @property
    def mean(self) -> float:
        """In percent."""
        return 100 * self.sample.estimate.mean


def points(collected: Collected, ledger: Ledger, column: Column) -> list[Point]:
    """The rows whose cost is known and not nothing, cheapest first."""
    found = []
    for (row, where), entry in collected.entries.items():
        cost, sample = cost_of(entry, ledger, "flops"), entry.headline
        if where == column and sample is not None and cost is not None and sum(cost) > 0:
            found.append(Point(row, sum(cost), cost[1], sample))
    return sorted(found, key=lambda point: (point.first, point.row))


def front(found: Sequence[Point]) -> list[Point]:
    """The points that no cheaper or equally cheap one reaches, of those in order of cost."""
    best: list[Point] = []
    for point in found:
        if not best or point.mean > best[-1].mean:
            best = [other for other in best if other.first < point.first] + [point]
    return best


def draw(collected: Collected, ledger: Ledger, title: str, stem: Path) -> tuple[Path, Path]:
    """Writes ``<stem>.png`` and ``<stem>.pdf``; the same results give the same bytes."""
    columns = collected.layout.columns
    wide, high = min(len(columns), PER_LINE), -(-len(columns) // PER_LINE)
    with sheet(stem, (max(6.4 * wide, 7.0), 4.6 * high + 1.2)) as figure:
        panels = list(figure.subplots(high, wide, squeeze=False).flat)
        for panel, column in zip(panels, columns, strict=False):
            _panel(panel, collected, points(collected, ledger, column), column)
        for panel in panels[len(columns) :]:
            panel.set_axis_off()
        leaky = any(row.on_test for row in collected.layout.rows)
        figure.suptitle(f"{title}: accuracy against compute" + ("\nSELECTED ON THE TEST SPLIT: some" if leaky else ""))
        legend(figure, panels[: len(columns)], columns=2)
    return paths_of(stem)


def _panel(panel: Any, collected: Collected, found: Sequence[Point], column: Column) -> None:
    some = "; named: what no cheaper row equals" if len(found) > MANY else ""
    panel.set_title(f"{column.title}{some}", fontsize=10)
    size = collected.size(column, column.split)
    rows = "? rows" if size is None else f"{size:,} rows"
    panel.set_ylabel(f"{column.split} {METRIC_NAMES[column.metric]} ({rows})", fontsize=9)
    # a panel may be narrower than this, with long names to its right
    panel.set_xlabel("estimated FLOPs of making the set and training one student on it", fontsize=9, loc="left")
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=9)
    majority = collected.reference("majority", column)
    if majority is not None:
        panel.axhline(100 * majority.estimate.mean, color="0.4", linestyle=":", label="majority (no compute)")
    if not found:
        panel.text(0.5, 0.5, "no costs on record", ha="center", va="center", transform=panel.transAxes)
        return
    panel.set_xscale("log")
    best = front(found)
    panel.step(
        [point.first for point in best], [point.mean for point in best],
        where="post", color="0.55", linewidth=1.2, label="no cheaper row is as good", zorder=1,
    )  # fmt: skip
    markers = {point.row: MARKERS[collected.layout.rows.index(point.row) % len(MARKERS)] for point in found}
    for point in found:
        _point(panel, point, markers[point.row])
    costs = [cost for point in found for cost in (point.first, point.further) if cost > 0]
    if max(costs) < 1.01 * min(costs):  # which a logarithmic axis would not give any width
        panel.set_xlim(min(costs) / 3, 3 * max(costs))
    names = {point.row: f"{collected.layout.labels[point.row]}  {point.mean:.1f}" for point in found}
    look = {"color": "black", "linestyle": "none"}
    label_on_the_right(
        panel,
        [(at.first, at.mean, names[at.row], {**look, "marker": markers[at.row]}) for at in named(found)],
    )


def named(found: Sequence[Point]) -> list[Point]:
    """The points whose names stand on the right edge: all, or of many those of the front that lie apart."""
    if len(found) <= MANY:
        return list(found)
    best = sorted(front(found), key=lambda point: point.mean)
    apart = (max(point.mean for point in found) - min(point.mean for point in found)) / MANY
    kept = best[-1:]
    for point in reversed(best):
        if kept[-1].mean - point.mean >= apart:
            kept.append(point)
    return kept


def _point(panel: Any, point: Point, marker: str) -> None:
    """Filled: the first student; hollow: each further one, who finds the set made."""
    low, high = point.sample.estimate.low, point.sample.estimate.high
    if low is not None and high is not None:
        reach = [[point.mean - 100 * low], [100 * high - point.mean]]
        style = {"color": "black", "capsize": 2.5, "linewidth": 0.9, "zorder": 2}
        panel.errorbar(point.first, point.mean, yerr=reach, label="95 % interval of the mean", **style)
    panel.plot(point.first, point.mean, marker, color="black", markersize=7, zorder=3)
    if 0 < point.further < point.first:  # nothing, of a training that nobody counted, has no place on this axis
        panel.plot([point.further, point.first], [point.mean] * 2, ":", color="0.6", linewidth=0.8, zorder=1)
        panel.plot(
            point.further, point.mean, marker, markerfacecolor="white", markeredgecolor="black", markersize=5,
            linestyle="none", zorder=3, label="each further student: training alone",
        )  # fmt: skip
