"""The figure of robustness: score against step size and number of steps, and every other variant as a dot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation.results import OWN
from pipeline.report.figures.canvas import legend, look, paths_of, sheet
from pipeline.report.robustness.matrix import FACTORS, LINES, Profile, multiple
from pipeline.report.tables import METRIC_NAMES

_AXES = {"learning_rate": "multiple of the step sizes", "steps": "multiple of the number of steps"}


def draw(found: Sequence[Profile], title: str, stem: Path) -> tuple[Path, Path]:
    """Writes ``<stem>.png`` and ``<stem>.pdf``, one line of panels per task; the same results give the same bytes."""
    columns = list(dict.fromkeys(profile.column for profile in found))
    named = [v for profile in found for f in profile.factors if f not in LINES for v in profile.factors[f]]
    variants = [OWN, *sorted(dict.fromkeys(named), key=lambda v: list(FACTORS).index(v.partition("=")[0]))]
    with sheet(stem, (12.5, len(columns) * max(3.4, 0.26 * len(variants)) + 1.2)) as figure:
        panels = figure.subplots(len(columns), 3, squeeze=False, width_ratios=[1, 1, 1.25])
        for line, column in zip(panels, columns, strict=True):
            sets = [profile for profile in found if profile.column == column]
            for panel, factor in zip(line, LINES, strict=False):
                _curves(panel, sets, factor)
            line[1].sharey(line[0])
            _dots(line[-1], sets, variants)
            line[0].set_ylabel(_measured(sets[0]), fontsize=9)
            line[-1].set_xlabel(_measured(sets[0]), fontsize=9)
        figure.suptitle(f"{title} (mean ± sample std)", fontsize=11)
        legend(figure, [panels[0][-1]], columns=2)
    return paths_of(stem)


def _curves(panel: Any, sets: Sequence[Profile], factor: str) -> None:
    """Score in percent over the multiple; the recipe itself at 1."""
    seen = [1.0]
    for number, profile in enumerate(sets):
        if factor in profile.factors:
            variants = profile.points(factor)
            seen += [multiple(variant) for variant in variants]
            panel.errorbar([multiple(v) for v in variants], *_means(profile, variants), **_look(number))
    panel.set_xscale("log")
    ticks = sorted(set(seen))
    panel.set_xticks(ticks, [f"×{tick:g}" for tick in ticks])
    panel.set_xticks([], minor=True)
    panel.axhline(100 * sets[0].floor, color="black", linestyle=(0, (1, 3)), linewidth=1.2)
    panel.axvline(1, color="0.8", linewidth=0.8, zorder=0)
    panel.set_xlabel(_AXES[factor], fontsize=9)
    panel.set_title(sets[0].column.title, fontsize=10)
    _tidy(panel)


def _dots(panel: Any, sets: Sequence[Profile], variants: Sequence[str]) -> None:
    """One line per variant, the sets slightly above each other."""
    for number, profile in enumerate(sets):
        mine = [variant for variant in variants if variant in profile.values]
        means, stds = _means(profile, mine)
        heights = [variants.index(variant) + 0.22 * (number - (len(sets) - 1) / 2) for variant in mine]
        label = f"{profile.label} (n = {profile.size})"
        panel.errorbar(means, heights, xerr=stds, label=label, **(_look(number) | {"linestyle": "none"}))
    floor = {"color": "black", "linestyle": (0, (1, 3)), "linewidth": 1.2}
    panel.axvline(100 * sets[0].floor, label="majority", **floor)
    panel.set_yticks(range(len(variants)), [_words(variant) for variant in variants])
    panel.set_ylim(len(variants) - 0.4, -0.6)
    panel.grid(axis="y", color="0.9", linewidth=0.6)
    _tidy(panel)


def _means(profile: Profile, variants: Sequence[str]) -> tuple[list[float], list[float]]:
    """In percent; a single run has no deviation."""
    values = [100 * profile.values[variant] for variant in variants]
    return [float(v.mean()) for v in values], [float(np.std(v, ddof=1)) if v.size > 1 else 0.0 for v in values]


def _look(number: int) -> dict[str, Any]:
    """A set's marker and line, with error bars."""
    return look(number) | {"markersize": 5.5, "linewidth": 1.3, "capsize": 2.5, "elinewidth": 0.9}


def _measured(profile: Profile) -> str:
    return f"{profile.column.split} {METRIC_NAMES[profile.column.metric]}"


def _words(variant: str) -> str:
    factor, _, value = variant.partition("=")
    return f"{FACTORS[factor]}: {value}" if value else "own recipe"


def _tidy(panel: Any) -> None:
    panel.tick_params(labelsize=8.5)
    panel.spines[["top", "right"]].set_visible(False)
