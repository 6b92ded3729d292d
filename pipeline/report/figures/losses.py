"""Loss curves: the outer loss of every distilled set over its outer steps, from its log or the committed runs."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.report.collect import Collected
from pipeline.report.figures.canvas import label_on_the_right, legend, look, paths_of, sheet
from pipeline.report.layout import Column
from pipeline.report.outer_losses import COLUMNS
from pipeline.report.row import Row

PER_LINE = 2


@dataclass(frozen=True)
class Curve:
    """One set's losses.

    Attributes:
        row: that the set belongs to.
        seed: of the set.
        points: step, mean, validation_loss (where it was measured), in nats.

    """

    row: Row
    seed: int
    points: pd.DataFrame


def curves(collected: Collected, column: Column) -> tuple[list[Curve], list[Row]]:
    """The losses of a task's distilled sets, of the chosen hyper-parameters; and the rows whose logs are gone."""
    found: list[Curve] = []
    gone: list[Row] = []
    for (row, where), entry in collected.entries.items():
        if where != column or row.kind != "ddal" or entry.chosen is None:
            continue
        sets = {cell.config.source.model_dump_json(): cell for cell in entry.chosen.cells}
        losses = [(cell.config.source.seed, cell.losses()) for cell in sets.values()]
        found += [
            Curve(row, seed, pd.DataFrame(points, columns=COLUMNS)) for seed, points in losses if points is not None
        ]
        gone += [row] if any(points is None for _, points in losses) else []
    return found, gone


def draw(collected: Collected, title: str, stem: Path) -> tuple[Path, Path]:
    """Writes ``<stem>.png`` and ``<stem>.pdf``, one panel per task."""
    columns = collected.layout.columns
    wide, high = min(len(columns), PER_LINE), -(-len(columns) // PER_LINE)
    with sheet(stem, (7.2 * wide, 4.2 * high + 1.0)) as figure:
        panels = list(figure.subplots(high, wide, squeeze=False).flat)
        for panel, column in zip(panels, columns, strict=False):
            _panel(panel, collected, column)
        for panel in panels[len(columns) :]:
            panel.set_axis_off()
        figure.suptitle(f"{title}: outer loss while distilling (one line per set)")
        legend(figure, panels[: len(columns)], columns=1)
    return paths_of(stem)


def _panel(panel: Any, collected: Collected, column: Column) -> None:
    found, gone = curves(collected, column)
    panel.set_title(column.title, fontsize=10)
    panel.set_xlabel("outer step", fontsize=9)
    panel.set_ylabel("outer loss (cross-entropy, nats)", fontsize=9)
    panel.tick_params(labelsize=9)
    panel.spines[["top", "right"]].set_visible(False)
    rows = list(dict.fromkeys(curve.row for curve in found))
    ends: dict[Row, tuple[float, float, str, dict[str, Any]]] = {}
    for curve in found:
        style, drawn = look(rows.index(curve.row)), curve.points.dropna(subset="mean")
        steps, mean = drawn["step"], drawn["mean"]
        line = {"color": style["color"], "linestyle": style["linestyle"], "linewidth": 1.1}
        panel.plot(steps, mean, label="on real batches: running mean over a twentieth of the steps", **line)
        measured = curve.points.dropna(subset="validation_loss")
        if len(measured):
            dots = {**style, "linestyle": "none", "markersize": 5.5, "zorder": 4, "label": "on dev, new classifiers"}
            panel.plot(measured["step"], measured["validation_loss"], **dots)
        name = f"{collected.layout.labels[curve.row]}  {mean.iloc[-1]:.3f}"
        ends[curve.row] = (steps.iloc[-1], mean.iloc[-1], name, style)
    label_on_the_right(panel, list(ends.values()))
    if gone:
        names = "; ".join(collected.layout.labels[row] for row in gone)
        text = textwrap.fill(f"no log is kept of: {names}", 60)
        middle = {"ha": "center", "va": "center"} if not found else {"ha": "left", "va": "bottom"}
        at = (0.5, 0.5) if not found else (0.02, 0.02)
        panel.text(*at, text, fontsize=8, transform=panel.transAxes, **middle)
    if not found:
        panel.set_xticks([])
        panel.set_yticks([])
    if not (found or gone):
        panel.text(0.5, 0.5, "no distilled sets", ha="center", va="center", transform=panel.transAxes)
