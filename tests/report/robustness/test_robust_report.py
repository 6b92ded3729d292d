"""Retention, areas and their files, against numbers worked out by hand."""

import csv
import shutil

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from pipeline.errors import InputError
from pipeline.report.robustness.matrix import Profile
from pipeline.stage4_aggregate import run
from pipeline.store import Store
from tests.report.report_fabric import Fabric

ROBUST = {"evaluate.protocol": [{"name": "robust"}]}
SHARES = {
    "order=reversed": [0.6, 0.6, 0.6],
    "order=shuffled": [0.5, 0.5, 0.5],
    "learning_rate=x0.1": [0.5, 0.5, 0.5],
    "learning_rate=x10": [0.6, 0.7, 0.8],
    "learning_rate=x3": [0.8, 0.9, 1.0],
    "dropout=on": [0.4, 0.4, 0.4],
}
OWN = [0.6, 0.7, 0.8]


def profile(own=OWN, floor=0.5, **values) -> Profile:
    whole = values or SHARES
    return Profile(None, None, "HL", "", {k: np.array([v]) for k, v in (whole | {"own": own}).items()}, floor)


def test_retention_is_the_share_of_what_is_above_the_majority() -> None:
    found = profile(own=[0.68, 0.7, 0.72])
    kept = {variant: found.retention(variant) for variant in found.values}
    assert kept == pytest.approx(
        {
            "order=reversed": 0.5,
            "order=shuffled": 0.0,
            "learning_rate=x0.1": 0.0,
            "learning_rate=x10": 1.0,
            "learning_rate=x3": 2.0,  # better than the recipe: not clipped here
            "dropout=on": -0.5,
            "own": 1.0,
        }
    )


def test_areas_are_means_and_trapezoids() -> None:
    """Step sizes at ×0.1, ×1, ×3, ×10 keep 0, 1, 1 (of 2), 1: a triangle over one decade, a square over the other."""
    found = profile(own=[0.68, 0.7, 0.72])
    assert found.areas == pytest.approx({"order": 0.25, "learning_rate": 0.75, "dropout": 0.0})
    assert found.area == pytest.approx(1 / 3)
    uneven = profile(own=[0.9, 0.9], floor=0.5, **{"steps=x10": [0.5, 0.5], "steps=x2": [0.7, 0.7]})
    two, ten = np.log10(2), 1.0
    assert uneven.areas == {"steps": pytest.approx((two * 0.75 + (ten - two) * 0.25) / ten)}


def test_the_areas_error_is_the_jackknifes() -> None:
    found = profile(own=[0.88, 0.9, 0.92], floor=0.5, **{"dropout=on": [0.6, 0.7, 0.8]})
    left_out = [(0.75 - 0.5) / (0.91 - 0.5), (0.7 - 0.5) / (0.9 - 0.5), (0.65 - 0.5) / (0.89 - 0.5)]
    expected = np.sqrt(2 / 3 * np.square(np.array(left_out) - np.mean(left_out)).sum())
    assert found.area_error == pytest.approx(expected)
    assert profile(own=[0.9], floor=0.5, **{"dropout=on": [0.6]}).area_error is None
    sets = {"own": np.array([[0.9, 0.9], [0.9, 0.9]]), "dropout=on": np.array([[0.5, 0.7], [0.6, 0.8]])}
    assert Profile(None, None, "HL", "", sets, 0.5).area_error == pytest.approx(0.125), "sets are left out, not runs"


def test_nothing_is_retained_of_what_is_not_above_the_majority() -> None:
    """0.52 ± 0.02 over three runs: the 95 % interval is 0.52 ± 0.05."""
    found = profile(own=[0.5, 0.52, 0.54])
    assert found.retention("order=reversed") is None
    assert (found.areas, found.area, found.area_error) == ({}, None, None)
    assert profile(own=[0.515, 0.52, 0.525]).area is not None


def write(fabric: Fabric, cell, own, variants) -> None:
    fabric.finish(cell, dict.fromkeys(cell.splits, own))
    rows = [("majority", 0, 0.5), *((v, i, x) for v, xs in {**variants, "own": own}.items() for i, x in enumerate(xs))]
    with open(fabric.store.cell(cell).folder / "robustness.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", "initialisation", "split", "metric", "value", "seconds"])
        for split in cell.splits:
            writer.writerows((variant, at, split, "accuracy", value, 1.5) for variant, at, value in rows)


def filled(fabric: Fabric, **more):
    experiment = fabric.experiment(
        ROBUST | {"distill.method.labels": ["hard", "unrestricted"]},
        ROBUST | {"distill.method": [{"name": "random"}]},
        **more,
    )
    own = {"hard": [0.68, 0.7, 0.72], "unrestricted": [0.88, 0.9, 0.92], None: [0.5, 0.52, 0.54]}
    for cell in experiment.cells:
        write(fabric, cell, own[getattr(cell.source.method, "labels", None)], SHARES)
    return experiment


def test_stage_4_writes_the_matrix_beside_the_tables(fabric: Fabric, tmp_path) -> None:
    summary = run(filled(fabric, splits=["test"]), fabric.store, tmp_path / "out")
    named = [file.name for file in summary.files if "robustness" in file.name]
    assert named == [f"demo.robustness.{s}" for s in ("runs.csv", "csv", "areas.csv", "md", "png", "pdf")]
    text = (tmp_path / "out/demo.robustness.md").read_text()
    assert text in summary.markdown
    line = "| order of batches | reversed: 60.0 ± 0.0 (50 %) | shuffled: 50.0 ± 0.0 (0 %) |  |  | 0.25 |"
    assert line in text
    line = (
        "×0.1: 50.0 ± 0.0 (0 %) | ×1: 70.0 ± 2.0 (100 %) | ×3: 90.0 ± 10.0 (200 %) | ×10: 70.0 ± 10.0 (100 %) | 0.75 |"
    )
    assert f"| step sizes | {line}" in text
    assert "n = 1 × 3 (sets × initialisations)" in text
    areas = pd.read_csv(tmp_path / "out/demo.robustness.areas.csv", dtype=str, keep_default_na=False).set_index("set")
    assert areas.loc["HL", ["own recipe", "majority"]].tolist() == ["70.0 ± 2.0", "50.0"]
    assert areas.loc["HL", "area"].startswith("0.33 ± ")
    assert areas.loc["random real", "area"] == "–"
    means = pd.read_csv(tmp_path / "out/demo.robustness.csv").set_index(["row", "factor", "value"])
    assert means.loc[("SL", "learning_rate", "x3"), ["mean", "std", "n", "retention"]].tolist() == pytest.approx(
        [0.9, 0.1, 3, 1.0]
    )
    assert (tmp_path / "out/demo.table2.md").read_text().count("70.0 ± 2.0") == 1, "the recipe, as any other result"


def test_the_same_bytes_from_the_committed_files_when_the_artifacts_are_gone(fabric: Fabric, tmp_path) -> None:
    experiment = filled(fabric)
    files = [file for file in run(experiment, fabric.store, tmp_path / "out").files if "robustness" in file.name]
    before = [file.read_bytes() for file in files]
    shutil.rmtree(fabric.store.root)
    assert run(experiment, Store(fabric.store.root), tmp_path / "out").archived == 3
    assert [file.read_bytes() for file in files] == before
    files[0].unlink()
    with pytest.raises(InputError, match=r"its variants are not in the archive; restore <experiment>\.robustness"):
        run(experiment, Store(fabric.store.root), tmp_path / "out")


def test_several_sets_are_pooled(fabric: Fabric, tmp_path) -> None:
    experiment = fabric.experiment(ROBUST | {"seeds": 2}, splits=["test"])
    for cell, own in zip(experiment.cells, ([0.7, 0.7, 0.7], [0.9, 0.9, 0.9]), strict=True):
        write(fabric, cell, own, {"dropout=on": [0.6, 0.6, 0.6]})
    run(experiment, fabric.store, tmp_path / "out")
    means = pd.read_csv(tmp_path / "out/demo.robustness.csv").set_index("factor")
    assert means.loc["own", ["mean", "n"]].tolist() == pytest.approx([0.8, 6])


def test_sets_are_told_apart_without_colour(fabric: Fabric, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (found.append(self), save(self, *a, **k)))
    run(filled(fabric, splits=["test"]), fabric.store, tmp_path / "out")
    curves, steps, dots = found[-1].axes
    lines = [container.lines[0] for container in curves.containers]
    assert lines[0].get_xdata() == pytest.approx([0.1, 1, 3, 10])
    assert lines[0].get_ydata() == pytest.approx([50, 52, 90, 70])  # random real stands first
    assert len({(line.get_marker(), line.get_linestyle()) for line in lines}) == 3
    assert {line.get_color() for line in lines} <= {"black", "0.35", "0.55"}
    assert steps.containers == [], "no multiple of the steps was run"
    names = [label.get_text() for label in dots.get_yticklabels()]
    assert names == ["own recipe", "order of batches: reversed", "order of batches: shuffled", "dropout: on"]


def test_without_the_protocol_nothing_is_written(fabric: Fabric, tmp_path) -> None:
    experiment = fabric.experiment({}, splits=["test"])
    fabric.fill(experiment, lambda cell: {"test": OWN})
    assert not [f for f in run(experiment, fabric.store, tmp_path / "out").files if "robustness" in f.name]
