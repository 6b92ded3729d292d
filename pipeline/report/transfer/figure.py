"""The transfer matrix as a heat map: grey by score, numbers in the cells, a frame around the sets' own encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.report.collect import Entry
from pipeline.report.figures.canvas import paths_of, sheet
from pipeline.report.layout import Column
from pipeline.report.tables import METRIC_NAMES, spread
from pipeline.report.transfer.matrix import OF_FULL, Line, Matrix

_PALEST, _DARKEST = "0.98", "0.58"  # black numbers are legible on all of them


def draw(found: Sequence[Matrix], title: str, stem: Path) -> tuple[Path, Path]:
    """Writes ``<stem>.png`` and ``<stem>.pdf``, a panel per task."""
    wide = max(len(matrix.columns) for matrix in found)
    longest = max(len(_name(line)) for matrix in found for line in matrix.lines)
    heights = [0.62 * len(matrix.lines) + 1.25 for matrix in found]
    with sheet(stem, (max(0.068 * longest + 1.45 * wide + 1.2, 6.5), sum(heights) + 0.8)) as figure:
        panels = figure.subplots(len(found), 1, squeeze=False, height_ratios=heights)[:, 0]
        for panel, matrix in zip(panels, found, strict=True):
            _panel(figure, panel, matrix)
        figure.suptitle(title, fontsize=11)
        figure.supxlabel(_legend(found), fontsize=8)
    return paths_of(stem)


def _legend(found: Sequence[Matrix]) -> str:
    whole = [matrix.full(column) is not None for matrix in found for column in matrix.columns]
    full = "% of full data" if any(whole) else ""
    own = "" if all(whole) else "% of own: of the same sets on the encoder they were made with"
    lines = "columns: whose students learn; thick frame: the encoder the sets were made with; "
    lines += "thin frame: another one they were learned for; " if any(matrix.sees for matrix in found) else ""
    return (
        lines + "± as in the table; " + "n = sets × initialisations\n" + "; ".join(part for part in (full, own) if part)
    )


def _panel(figure: Any, panel: Any, matrix: Matrix) -> None:
    import numpy as np

    scores = np.full((len(matrix.lines), len(matrix.columns)), np.nan)
    for at, line in enumerate(matrix.lines):
        for across, column in enumerate(matrix.columns):
            entry = line.entries.get(column)
            if entry is not None and entry.headline is not None:
                scores[at, across] = 100 * entry.headline.estimate.mean
    low, high = _scale(scores)
    image = panel.imshow(scores, cmap=_greys(), vmin=low, vmax=high, aspect="auto")
    for at, line in enumerate(matrix.lines):
        for across, column in enumerate(matrix.columns):
            panel.text(across, at, _text(matrix, line, column), ha="center", va="center", fontsize=8)
            if column == line.own:
                frame = {"fill": False, "edgecolor": "black", "linewidth": 2.2, "zorder": 3}
                panel.add_patch(_square(across, at, **frame))
            elif line.saw(column):
                panel.add_patch(_square(across, at, fill=False, edgecolor="black", linewidth=0.9, zorder=3))
    panel.set_xticks(range(len(matrix.columns)), [column.model for column in matrix.columns], fontsize=8)
    panel.set_yticks(range(len(matrix.lines)), [_name(line) for line in matrix.lines], fontsize=8)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    column = matrix.columns[0]
    size = matrix.collected.size(column, column.split)
    panel.set_title(f"{matrix.task} ({'?' if size is None else f'{size:,}'} {column.split} rows)", fontsize=10)
    bar = figure.colorbar(image, ax=panel, pad=0.01, fraction=0.04)
    bar.set_label(METRIC_NAMES[column.metric], fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)


def _scale(scores: Any) -> tuple[float, float]:
    """From the lowest score to the highest, at least ten points apart."""
    import numpy as np

    known = scores[~np.isnan(scores)]
    if not known.size:
        return 0.0, 100.0
    low, high = float(known.min()), float(known.max())
    spare = max(0.0, 10 - (high - low)) / 2
    return low - spare, high + spare


def _greys() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("greys", [_PALEST, _DARKEST]).with_extremes(bad="white")


def _square(x: float, y: float, **look: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, **look)


def _name(line: Line) -> str:
    return f"{line.label}\nmade with {line.source}"


def _text(matrix: Matrix, line: Line, column: Column) -> str:
    entry = line.entries.get(column)
    if entry is None:
        return "–"
    return entry.state if entry.headline is None else _numbers(matrix, line, column, entry)


def _numbers(matrix: Matrix, line: Line, column: Column, entry: Entry) -> str:
    sample, kept = entry.headline, matrix.retention(line, column)
    assert sample is not None
    lines = [f"{100 * sample.estimate.mean:.1f}{spread(sample)}"]
    if kept is not None and (kept.of == OF_FULL or column != line.own):
        lines.append(f"{100 * kept.share:.0f} % of {'full' if kept.of == OF_FULL else 'own'}")
    return "\n".join([*lines, f"n = {sample.size}"])
