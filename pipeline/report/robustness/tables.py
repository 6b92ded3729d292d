"""The matrix of a set's robustness (rows: factors, columns: their values), and the areas of all sets side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.evaluation.results import OWN
from pipeline.report.collect import Collected
from pipeline.report.render import markdown
from pipeline.report.robustness.figure import draw
from pipeline.report.robustness.matrix import FACTORS, LINES, Profile, profiles, read_runs, variant_runs
from pipeline.report.tables import METRIC_NAMES, Table
from pipeline.store import Store
from pipeline.store.atomic import write_text

CAPTION = (
    "value: mean ± sample standard deviation in percent (retention). Retention: (variant − majority) / (own recipe − "
    "majority), of the means; 100 % loses nothing, below 0 % is worse than the majority.",
    "Area of a factor: mean retention over its other values than the recipe's, clipped to 0 … 1; of step sizes and the "
    "number of steps the area under the retention over the logarithm of the multiple (trapezoids, the recipe at ×1), "
    "as a share of the whole. Area of a set: mean over its factors; ± its jackknife standard error.",
    "–: the own recipe is not above the majority (95 % interval), so there is nothing to retain.",
    "Left out, and not counted, is what would train the very same student, such as another order of batches that all "
    "hold the whole set, and switching off attention labels that a set does not have.",
)


def write_robustness(name: str, collected: Collected, store: Store, stem: Path) -> tuple[str, tuple[Path, ...]]:
    """Writes ``<stem>.robustness.*``; nothing where no set was evaluated by the protocol ``robust``.

    ``runs.csv`` has every student, and is what the rest is made from when the artifacts are gone; ``csv`` the means,
    ``areas.csv`` the areas, ``md`` the tables and ``png`` and ``pdf`` the figure.

    Returns:
        The tables as Markdown, and the files.

    Raises:
        InputError: a cell is archived, and the archive of variants lacks it.

    """
    stem = stem.with_name(f"{stem.name}.robustness")
    of = {suffix: stem.with_name(f"{stem.name}.{suffix}") for suffix in ("runs.csv", "csv", "areas.csv", "md")}
    runs = variant_runs(collected, store, read_runs(of["runs.csv"]) if of["runs.csv"].is_file() else None)
    found = profiles(collected, runs)
    if not found:
        return "", ()
    tables = [areas_table(name, found), *(matrix(name, profile) for profile in found)]
    text = "\n".join(markdown(table) for table in tables)
    write_text(of["runs.csv"], runs.to_csv(index=False, lineterminator="\n"))
    write_text(of["csv"], long_form(found).to_csv(index=False, float_format="%.10g", lineterminator="\n"))
    write_text(of["areas.csv"], tables[0].frame.to_csv(index=False, lineterminator="\n"))
    write_text(of["md"], text)
    return text, (*of.values(), *draw(found, f"{name}: robustness to usage", stem))


def matrix(name: str, profile: Profile) -> Table:
    """One line per factor, its values beside each other."""
    width = max(len(profile.points(factor)) for factor in profile.factors)
    lines = []
    for factor in profile.factors:
        texts = [f"{_value(variant)}: {_score(profile, variant)}" for variant in profile.points(factor)]
        area = f"{profile.areas[factor]:.2f}" if profile.areas else "–"
        lines.append([FACTORS[factor], *texts, *[""] * (width - len(texts)), area])
    heads = ["factor", *(f"value {number}" for number in range(1, width + 1)), "area"]
    own = f"own recipe {_score(profile, OWN).split(' (')[0]}, majority {100 * profile.floor:.1f}"
    return Table(
        name="robustness",
        title=f"{name}: {profile.label}, {_place(profile)}: area {_area(profile)}",
        frame=pd.DataFrame(lines, columns=heads),
        caption=(
            f"{own}; n = {profile.size} (sets × initialisations) for every entry. Students: {profile.recipe}.",
            f"Scored: {profile.column.split} {METRIC_NAMES[profile.column.metric]}.",
        ),
    )


def areas_table(name: str, found: Sequence[Profile]) -> Table:
    """One line per set: own score, the area of every factor, the area of the set."""
    factors = [factor for factor in FACTORS if any(factor in profile.factors for profile in found)]
    lines = []
    for profile in found:
        areas = [
            f"{profile.areas[f]:.2f}" if f in profile.areas else "–" if f in profile.factors else "" for f in factors
        ]
        facts = [profile.label, _place(profile), profile.size, _score(profile, OWN).split(" (")[0]]
        lines.append([*facts, f"{100 * profile.floor:.1f}", *areas, _area(profile)])
    heads = ["set", "scored", "n (sets × initialisations)", "own recipe", "majority"]
    frame = pd.DataFrame(lines, columns=[*heads, *(FACTORS[factor] for factor in factors), "area"])
    return Table("robustness", f"{name}: robustness to usage", frame, caption=CAPTION)


def long_form(found: Sequence[Profile]) -> pd.DataFrame:
    """One line per (set, variant): mean and sample std as fractions, n, retention."""
    records: list[dict[str, object]] = []
    for profile in found:
        place: dict[str, object] = {"task": profile.column.title, "row": profile.label}
        place |= {"split": profile.column.split, "metric": profile.column.metric}
        for variant, values in profile.values.items():
            factor, _, value = variant.partition("=")
            std = float(np.std(values, ddof=1)) if values.size > 1 else None
            numbers = {
                "mean": float(values.mean()),
                "std": std,
                "n": values.size,
                "retention": profile.retention(variant),
            }
            records.append(place | {"factor": factor, "value": value} | numbers)
        records.append(place | {"factor": "majority", "value": "", "mean": profile.floor, "n": 1})
    return pd.DataFrame(records)


def _value(variant: str) -> str:
    """``×0.1``, ``reversed``; the recipe on a line is ``×1``."""
    if variant == OWN:
        return "×1"
    factor, _, value = variant.partition("=")
    return value.replace("x", "×") if factor in LINES else value


def _score(profile: Profile, variant: str) -> str:
    values, kept = 100 * profile.values[variant], profile.retention(variant)
    spread = f" ± {np.std(values, ddof=1):.1f}" if values.size > 1 else ""
    return f"{values.mean():.1f}{spread}" + ("" if kept is None else f" ({round(100 * kept)} %)")


def _area(profile: Profile) -> str:
    if profile.area is None:
        return "–"
    return f"{profile.area:.2f}" + ("" if profile.area_error is None else f" ± {profile.area_error:.2f}")


def _place(profile: Profile) -> str:
    return f"{profile.column.title} ({profile.column.split})"
