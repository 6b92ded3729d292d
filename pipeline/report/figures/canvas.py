"""What figures share: a sheet without a window, saved as PNG and PDF; looks that differ without colour; labels."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.store.atomic import replacing

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "*", "p", "d", "8")
LINESTYLES = ("-", "--", "-.", ":")
GREYS = ("black", "0.35", "0.55")
DPI = 160
_WIDEST = 52  # characters of a name beside a panel, then it goes on in the next line


@contextmanager
def sheet(stem: Path, size: tuple[float, float], hatch: float = 1.0) -> Iterator[Any]:
    """A figure of ``size`` inches, written to :func:`paths_of` when the block ends well; same content, same bytes.

    ``hatch``: how wide the lines of hatched areas are, in points.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "agg", "hatch.linewidth": hatch}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        stem.parent.mkdir(parents=True, exist_ok=True)
        png, pdf = paths_of(stem)
        with replacing(png) as aside, io.BytesIO() as drawn:
            figure.savefig(drawn, format="png", dpi=DPI)
            # all is grey: one channel says it, in a third of the bytes
            Image.open(drawn).convert("L").save(aside, format="png", optimize=True, dpi=(DPI, DPI))
        with replacing(pdf) as aside:
            figure.savefig(aside, format="pdf", metadata={"CreationDate": None})


def paths_of(stem: Path) -> tuple[Path, Path]:
    """``<stem>.png`` and ``<stem>.pdf``."""
    return stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")


def look(number: int) -> dict[str, Any]:
    """Line and marker of the k-th series, told apart in black and white; every second marker is hollow."""
    grey = GREYS[number % len(GREYS)]
    return {
        "color": grey,
        "linestyle": LINESTYLES[number % len(LINESTYLES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markerfacecolor": grey if number % 2 == 0 else "white",
        "markeredgecolor": grey,
    }


def label_on_the_right(panel: Any, points: Sequence[tuple[float, float, str, dict[str, Any]]]) -> None:
    """The name of every (x, y) with its look on the right edge, in the order of y, none on top of another.

    Names are as near to their points as a gap between them allows: least squares, which is an isotonic regression.
    """
    import numpy as np
    from matplotlib.transforms import blended_transform_factory
    from scipy.optimize import isotonic_regression

    if not points:
        return
    low, high = panel.get_ylim()
    gap = (high - low) * 0.066
    ordered = sorted(points, key=lambda point: point[:2][::-1])
    names = [textwrap.fill(name, _WIDEST, break_long_words=False) for _, _, name, _ in ordered]
    lines = np.array([1 + name.count("\n") for name in names])
    gaps = gap * np.concatenate([[0.0], np.cumsum((lines[1:] + lines[:-1]) / 2)])
    places = isotonic_regression(np.array([y for _, y, _, _ in ordered]) - gaps).x + gaps
    panel.set_ylim(min(low, places[0] - gap), max(high, places[-1] + gap))
    edge = blended_transform_factory(panel.transAxes, panel.transData)
    for (x, y, _, style), name, at in zip(ordered, names, places, strict=True):
        panel.annotate(
            "", (x, y), (1.02, at), xycoords="data", textcoords=("axes fraction", "data"), annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "0.8", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4},
        )  # fmt: skip
        sample = {"clip_on": False, "linewidth": 1.1, "markersize": 5.5, "markevery": [1]}
        panel.plot([1.02, 1.05, 1.08], [at] * 3, transform=edge, **sample, **style)
        panel.text(1.095, at, name, transform=edge, fontsize=8, va="center")


def legend(figure: Any, panels: Sequence[Any], columns: int = 3) -> None:
    """One entry per label, below all panels."""
    found: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "fontsize": 8, "frameon": False}
        figure.legend(found.values(), found.keys(), **place)
