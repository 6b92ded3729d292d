"""The figure: one panel per column, one bar per small set, every run as a dot; readable in black and white."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from pipeline.report.collect import Collected, Sample
from pipeline.report.figures.canvas import legend, paths_of, sheet
from pipeline.report.layout import Column
from pipeline.report.row import Row
from pipeline.report.tables import METRIC_NAMES, spread

HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "oo", "++", "--")
PER_LINE = 4
_CHANCE = ("accuracy", "balanced_accuracy")


def draw(collected: Collected, title: str, stem: Path) -> tuple[Path, Path]:
    """Writes ``<stem>.png`` and ``<stem>.pdf``; the same results give the same bytes."""
    columns = collected.layout.columns
    rows = [row for row in collected.layout.rows if row.competes] or list(collected.layout.rows)
    wide, high = min(len(columns), PER_LINE), -(-len(columns) // PER_LINE)
    names = [collected.layout.labels[row] for row in rows]
    margin = 0.075 * max(map(len, names))
    size = (max(margin + 3.3 * wide, 6.2), high * (0.5 * len(rows) + 1.0) + 1.0)
    with sheet(stem, size, hatch=0.6) as figure:
        panels = list(figure.subplots(high, wide, squeeze=False).flat)
        for index, (panel, column) in enumerate(zip(panels, columns, strict=False)):
            _panel(panel, collected, column, rows)
            panel.set_yticks(range(len(rows)), names if index % PER_LINE == 0 else [""] * len(rows))
        for panel in panels[len(columns) :]:
            panel.set_axis_off()
        leaky = any(row.on_test for row in rows) and all(row.on_test for row in rows if row.kind == "ddal")
        figure.suptitle(f"{title}\ncheckpoints SELECTED ON THE TEST SPLIT" if leaky else title, fontsize=11)
        legend(figure, panels[: len(columns)], columns=5 if size[0] > 9 else 3)
    return paths_of(stem)


def _panel(panel: Any, collected: Collected, column: Column, rows: Sequence[Row]) -> None:
    """One task: bars from zero, 95 % interval, runs, reference lines. The axis is in percent."""
    for at, row in enumerate(rows):
        entry = collected.entries.get((row, column))
        sample = entry.headline if entry is not None else None
        if sample is None:
            _write(panel, at, "–" if entry is None else entry.state)
        else:
            _bar(panel, at, sample, HATCHES[at % len(HATCHES)])
    _references(panel, collected, column)
    samples = [collected.sample(row, column) for row in rows]
    values = [value for sample in samples if sample is not None for value in sample.values]
    panel.set_xlim(min([0.0, *(100 * v - 5 for v in values if v < 0)]), 100)
    panel.set_ylim(len(rows) - 0.45, -0.55)
    size = collected.size(column, column.split)
    panel.set_title(column.title, fontsize=10)
    rows_of_split = "? rows" if size is None else f"{size:,} rows"
    panel.set_xlabel(f"{column.split} {METRIC_NAMES[column.metric]}\n({rows_of_split})", fontsize=9)
    panel.tick_params(labelsize=9)
    panel.spines[["top", "right"]].set_visible(False)


def _bar(panel: Any, at: int, sample: Sample, hatch: str) -> None:
    mean, low, high = sample.estimate.mean, sample.estimate.low, sample.estimate.high
    look = {"color": "0.88", "edgecolor": "0.35", "hatch": hatch, "linewidth": 0.8, "zorder": 1}
    panel.barh(at, 100 * mean, height=0.7, label="mean (text: ± std, n = sets × initialisations)", **look)
    if low is not None and high is not None:
        reach = [[100 * (mean - low)], [100 * (high - mean)]]
        style = {"color": "black", "capsize": 3, "linewidth": 1.4, "zorder": 4}
        panel.errorbar(100 * mean, at + 0.24, xerr=reach, label="95 % interval of the mean", **style)
    heights = [at - 0.1 + 0.2 * _offset(position) for position in range(len(sample.values))]
    panel.scatter(
        [100 * value for value in sample.values], heights, s=13, facecolors="white", edgecolors="black",
        linewidths=0.7, zorder=3, label="one run",
    )  # fmt: skip
    _write(panel, at, f"{100 * mean:.1f}{spread(sample)}  (n = {sample.size})")


def _offset(position: int) -> float:
    """A fixed spread over -1..1 that neighbours in the list do not share (van der Corput, base 2)."""
    value, weight, position = 0.0, 0.5, position + 1
    while position:
        value += weight * (position & 1)
        position, weight = position >> 1, weight / 2
    return 2 * value - 1


def _write(panel: Any, at: int, text: str) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
    panel.text(2, at, text, va="center", ha="left", fontsize=7.5, zorder=5, bbox=box)


def _references(panel: Any, collected: Collected, column: Column) -> None:
    line: dict[str, Any] = {"color": "black", "linewidth": 1.2, "zorder": 2}
    majority, classes = collected.reference("majority", column), collected.classes(column)
    if majority is not None:
        panel.axvline(100 * majority.estimate.mean, label="majority", linestyle="--", **line)
    elif classes and column.metric in _CHANCE:
        panel.axvline(100 / classes, label="chance", linestyle="--", **line)
    others = [*collected.references("full", column), *collected.references("zero-shot", column)]
    for (row, sample), style in zip(others, cycle(("-", "-.", ":"))):
        panel.axvline(100 * sample.estimate.mean, label=row.method, linestyle=style, **line)
