"""Budget and loss curves: what is drawn, from where to where."""

import shutil

import pandas as pd
import pytest
from matplotlib.image import imread

from pipeline.report.archive import Archive
from pipeline.report.collect import collect
from pipeline.report.figures import budgets as budget_figure
from pipeline.report.figures import losses as loss_figure
from tests.report.report_fabric import FULL, MAJORITY, RANDOM, Fabric

AL = {"labels": "unrestricted", "attention_labels": "cls"}
STEPS = {
    "distill.method": [
        AL | {"steps": t, "shots": s, "batch_shots": b}
        for t, s, b in [(1, 1, 1), (1, 3, 3), (3, 1, 1), (5, 1, 1), (3, 3, 1)]
    ]
}


def score(cell):
    """0.5, and 0.1 more per step and 0.01 per sample."""
    method = cell.source.method
    if method.name != "ddal":
        return {"test": [0.9, 0.9]}
    mean = 0.4 + 0.1 * method.steps + 0.01 * method.shots
    return {"test": [mean - 0.01, mean + 0.01]}


def stepped(fabric: Fabric, *more, **kinds):
    experiment = fabric.experiment(*(more or (MAJORITY, STEPS, FULL)), report={"table": "table3"}, **kinds)
    fabric.fill(experiment, score)
    return collect(experiment, fabric.store)


@pytest.mark.parametrize(("shots", "scale"), [([1, 3, 9], "linear"), ([1, 5, 50], "log")])
def test_budgets_that_lie_far_apart_stand_on_a_logarithmic_axis(fabric: Fabric, panels, tmp_path, shots, scale):
    experiment = fabric.experiment(RANDOM | {"distill.method.shots": shots})
    fabric.fill(experiment, lambda cell: {"test": [0.5, 0.6]})
    budget_figure.draw(collect(experiment, fabric.store), "title", tmp_path / "figure")
    panel = panels[0]
    assert panel.get_xscale() == scale
    assert [tick.get_text() for tick in panel.get_xticklabels()] == [str(count) for count in shots]
    assert panel.get_xticks(minor=True).tolist() == []
    assert panel.lines[0].get_xdata().tolist() == pytest.approx(shots)


def test_series_along_samples_and_steps(fabric: Fabric):
    found = stepped(fabric)
    (column,) = found.layout.columns
    shots = budget_figure.series(found, column, "shots")
    shown = {name: [(point.x, round(point.mean, 6)) for point in points] for name, points in shots.items()}
    assert shown == {
        "SL + AL, 1 step": [(1, 51.0), (3, 53.0)],
        "SL + AL, 3 steps on the same data": [(1, 71.0)],
        "SL + AL, 5 steps on the same data": [(1, 91.0)],
        "SL + AL, different data per step": [(3, 73.0)],
    }
    steps = budget_figure.series(found, column, "steps")
    shown = {name: [(point.x, round(point.mean, 6)) for point in points] for name, points in steps.items()}
    assert shown == {
        "SL + AL, 1 sample per class, the same at every step": [(1, 51.0), (3, 71.0), (5, 91.0)],
        "SL + AL, 1 sample per class, different at every step": [(1, 51.0), (3, 73.0)],
    }


def test_random_real_is_a_curve_over_samples(fabric: Fabric):
    draws = RANDOM | {"distill.method": [{"name": "random", "shots": n} for n in (1, 5)]}
    found = stepped(fabric, draws)
    curves = budget_figure.series(found, found.layout.columns[0], "shots")
    assert [point.x for point in curves["random real"]] == [1, 5]


def test_networks_on_vectors_have_panels_of_their_own(fabric: Fabric, panels, tmp_path):
    """And names in them do not repeat who learns there."""
    of = {
        "prepare.vectors": ["mean"],
        "evaluate.protocol": [{"name": "vectors", "student": name} for name in ("mlp", "transformer")],
    }
    grids = (
        of | {"distill.method": [{"name": "random"}], "distill.method.shots": [1, 5]},
        of | {"distill.method": [{"name": "full"}]},
        of | {"distill.method": [{"name": "bptt"}], "evaluate.protocol": [{"name": "vectors"}]},
    )
    experiment = fabric.experiment(*grids)
    fabric.fill(experiment, lambda cell: {"test": [0.5, 0.6]})
    found = collect(experiment, fabric.store)
    (column,) = found.layout.columns
    assert list(budget_figure.series(found, column, "shots", "MLP")) == ["random real", "Full-BPTT (T 40)"]
    assert list(budget_figure.series(found, column, "shots", "Transformer")) == ["random real"]
    budget_figure.draw(found, "title", tmp_path / "figure")
    assert [panel.get_title().partition(":")[0] for panel in panels] == ["sst2, MLP", "sst2, Transformer"]
    for panel, name in zip(panels, ("MLP", "Transformer"), strict=True):
        assert {label for label in panel.get_legend_handles_labels()[1] if "full" in label} == {f"full data, {name}"}


def test_budget_panels(fabric: Fabric, panels, tmp_path):
    tasks = [fabric.task("sst2"), fabric.task("imdb")]
    png, pdf = budget_figure.draw(stepped(fabric, tasks=tasks), "title", tmp_path / "new" / "demo.budget")
    assert len(panels) == 4, "two tasks, samples and steps"
    assert [panel.get_xlabel() for panel in panels] == ["samples per class", "gradient steps of a student"] * 2
    assert {panel.get_ylabel() for panel in panels} == {"test accuracy % (1,234 rows)"}
    assert panels[0].get_title() == (
        "sst2: n = 1 × 2 (sets × initialisations)\na SAMPLE of train: 1,334 of 67,349 rows (2.0 %)"
    )
    assert panels[2].get_title() == "imdb: n = 1 × 2 (sets × initialisations)"
    assert "SL + AL, 1 step  53.0" in [text.get_text() for text in panels[0].texts]
    levels = {line.get_label(): line.get_ydata()[0] for line in panels[1].lines}
    assert levels["full data"] == pytest.approx(90)
    looks = [(line.get_linestyle(), line.get_marker()) for line in panels[1].lines if len(line.get_xdata()) == 3]
    assert len(set(looks)) == 2, "told apart without colour"
    assert imread(png).ndim == 2, "grey alone"
    first = png.read_bytes(), pdf.read_bytes()
    budget_figure.draw(stepped(fabric, tasks=tasks), "title", tmp_path / "new" / "demo.budget")
    assert (png.read_bytes(), pdf.read_bytes()) == first


def test_one_panel_where_steps_do_not_vary(fabric: Fabric, panels, tmp_path):
    budget_figure.draw(stepped(fabric, RANDOM, {}), "title", tmp_path / "demo")
    assert [panel.get_xlabel() for panel in panels] == ["samples per class"]


def logged(fabric: Fabric, seeds=(0,), steps=40):
    """HL and SL on one task, whose losses fall from 1 by a hundredth per step; dev at half time and at the end."""
    grid = {"distill.method.labels": ["hard", "unrestricted"], "distill.seed": list(seeds)}
    experiment = fabric.experiment(RANDOM, grid)
    fabric.fill(experiment, lambda cell: {"test": [0.5, 0.6, 0.7]})
    for cell in experiment.cells:
        if cell.source.method.name == "ddal":
            lines = ["step,loss,validation_loss"]
            for step in range(1, steps + 1):
                lines.append(f"{step},{1 - step / 100},{'' if step % (steps // 2) else 0.5}")
            (fabric.store.cell(cell.source).folder / "log.csv").write_text("\n".join(lines) + "\n")
    return experiment, collect(experiment, fabric.store)


def test_loss_curves(fabric: Fabric, panels, tmp_path):
    _, found = logged(fabric, seeds=(0, 1))
    curves, gone = loss_figure.curves(found, found.layout.columns[0])
    assert [(curve.row.method, curve.seed) for curve in curves] == [("HL", 0), ("HL", 1), ("SL", 0), ("SL", 1)]
    assert gone == []
    mean = curves[0].points.dropna(subset="mean")
    assert mean["step"].iloc[0] == 10
    assert mean["mean"].iloc[-1] == pytest.approx(1 - 35.5 / 100), "steps 31 to 40"
    loss_figure.draw(found, "title", tmp_path / "demo.losses")
    (panel,) = panels
    assert panel.get_xlabel() == "outer step"
    assert panel.get_ylabel() == "outer loss (cross-entropy, nats)"
    dev = [line for line in panel.lines if line.get_label() == "on dev, new classifiers"]
    assert [line.get_xdata().tolist() for line in dev] == [[20, 40]] * 4
    assert [text.get_text() for text in panel.texts if text.get_text()] == ["HL  0.645", "SL  0.645"]


def test_long_logs_are_smoothed_over_a_twentieth(fabric: Fabric):
    _, found = logged(fabric, steps=400)
    curves, _ = loss_figure.curves(found, found.layout.columns[0])
    points = curves[0].points
    assert points["mean"].iloc[-1] == pytest.approx(1 - 390.5 / 100), "steps 381 to 400"
    assert len(points) <= 101, "few enough to commit"
    assert points.dropna(subset="validation_loss")["step"].tolist() == [200, 400], "of dev, all that was measured"


def test_logs_that_are_gone_are_named(fabric: Fabric, panels, tmp_path):
    _, found = logged(fabric)
    for log in fabric.store.root.glob("distill/*hard*/log.csv"):
        log.unlink()
    loss_figure.draw(found, "title", tmp_path / "demo.losses")
    assert "no log is kept of: HL" in [text.get_text() for text in panels[0].texts]


def test_committed_runs_keep_the_curves(fabric: Fabric, panels, tmp_path):
    """The same points to the last bit, and none for a set whose log was gone when the runs were written."""
    experiment, found = logged(fabric)
    for log in fabric.store.root.glob("distill/*hard*/log.csv"):
        log.unlink()
    stem = tmp_path / "runs" / experiment.name
    archive = Archive(stem, fabric.store)
    archive.write(found.cells, found.prepared)
    column = found.layout.columns[0]
    before, _ = loss_figure.curves(found, column)
    shutil.rmtree(fabric.store.root)
    fabric.data.unlink()
    read = collect(experiment, fabric.store, Archive(stem, fabric.store))
    after, gone = loss_figure.curves(read, column)
    assert [curve.row.method for curve in after] == ["SL"]
    pd.testing.assert_frame_equal(after[0].points, before[0].points)
    assert [row.method for row in gone] == ["HL"]
    loss_figure.draw(read, "title", tmp_path / "demo.losses")
    assert "no log is kept of: HL" in [text.get_text() for text in panels[0].texts]
