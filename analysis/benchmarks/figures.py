"""The two figures of the hypergradient benchmark: time per step and peak memory against the number of inner steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import LogLocator

NAMES = {
    "published": "published (full graph)",
    "published-lean": "published, lean",
    "unroll": "unroll",
    "adjoint": "adjoint",
    "fused": "fused",
    "fused-disk": "fused, snapshots on disk",
    "fused-recompute": "fused, snapshots recomputed",
}
STYLES = {
    "published": ("0.1", "o", "--"),
    "published-lean": ("0.5", "s", "--"),
    "unroll": ("tab:orange", "^", ":"),
    "adjoint": ("tab:green", "v", "-."),
    "fused": ("tab:blue", "D", "-"),
    "fused-disk": ("tab:cyan", "P", "-"),
    "fused-recompute": ("tab:purple", "X", "-"),
}
MEASURES = (
    ("time", "seconds", "seconds per outer step"),
    ("memory", "peak_mb", "peak memory above model and data, MB"),
)
PANELS = 4
_PANEL = ("model", "M", "S", "threads", "precision")


def draw(lines: Sequence[Mapping[str, str]], out: Path) -> list[Path]:
    """Writes ``hypergradient.time.png`` and ``hypergradient.memory.png``; nothing where nothing was measured.

    Args:
        lines: the CSV's, of one machine.
        out: the folder.

    Returns:
        The files.

    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = [line for line in lines if line["status"] == "measured" and line["baseline"] == "published"]
    panels = _panels(points)
    written = []
    for name, column, title in MEASURES if panels else ():
        figure = Figure(figsize=(max(8.5, 1.0 + 3.6 * len(panels)), 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = list(figure.subplots(1, len(panels), squeeze=False).flat)
        for axis, panel in zip(axes, panels, strict=True):
            _panel(axis, [line for line in points if _place(line) == panel], panel, column)
        axes[0].set_ylabel(title)
        handles = {
            label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
        note = "a line ends where a row takes over 5 minutes per step or 18 GiB"
        figure.suptitle(f"{title} · {lines[0]['hardware']}\n{note}", fontsize=9)
        written.append(out / f"hypergradient.{name}.png")
        figure.savefig(written[-1], dpi=160, metadata={"Software": None})
    return written


def _place(line: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(line[name] for name in _PANEL)


def _panels(points: Sequence[Mapping[str, str]]) -> list[tuple[str, ...]]:
    """The settings with the most values of T, in the order of their sizes."""
    steps = {(_place(line), line["T"]) for line in points}
    most = [panel for panel, _ in Counter(panel for panel, _ in sorted(steps)).most_common(PANELS)]
    return sorted(most, key=lambda panel: (panel[0] != "minilm", int(panel[1]) * int(panel[2]), panel))


def _panel(axis: Any, points: Sequence[Mapping[str, str]], panel: tuple[str, ...], column: str) -> None:
    for contender, (colour, marker, dash) in STYLES.items():
        here = sorted((int(line["T"]), float(line[column])) for line in points if line["estimator"] == contender)
        if here:
            x, y = zip(*here, strict=True)
            axis.plot(x, y, color=colour, marker=marker, linestyle=dash, markersize=5, label=NAMES[contender])
    steps = sorted({int(line["T"]) for line in points})
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(steps, [str(step) for step in steps], minor=False)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("")
    axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    axis.grid(alpha=0.3)
    axis.set_xlabel("inner steps T")
    model, M, S, threads, precision = panel
    axis.set_title(f"{model}, M = {M}, S = {S}, {precision}, {threads} thread{'s' * (threads != '1')}", fontsize=9)
