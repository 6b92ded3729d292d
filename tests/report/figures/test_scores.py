import numpy as np
import pytest
from matplotlib.image import imread

from pipeline.report.collect import collect
from pipeline.report.figures.scores import draw
from tests.report.report_fabric import FULL, MAJORITY, RANDOM, Fabric


def filled(fabric, *grids, **more):
    experiment = fabric.experiment(*grids, **more)
    values = {"majority": [0.5], "random": [0.52, 0.56], "ddal": [0.6, 0.7, 0.8], "full": [0.9]}
    fabric.fill(experiment, lambda c: {"test": values[c.source.method.name]})
    return collect(experiment, fabric.store)


def test_bars_runs_and_references(fabric: Fabric, panels, tmp_path):
    draw(filled(fabric, MAJORITY, RANDOM, {}, FULL), "title", tmp_path / "demo")
    (panel,) = panels
    assert [label.get_text() for label in panel.get_yticklabels()] == ["random real", "HL"]
    assert [bar.get_width() for bar in panel.patches] == pytest.approx([54.0, 70.0])
    assert len({bar.get_hatch() for bar in panel.patches}) == 2  # told apart without colour
    runs = [dots.get_offsets()[:, 0].tolist() for dots in panel.collections if dots.get_label() == "one run"]
    assert runs == [pytest.approx([52, 56]), pytest.approx([60, 70, 80])]
    lines = {line.get_label(): (line.get_xdata()[0], line.get_linestyle()) for line in panel.lines}
    assert lines["majority"] == (50.0, "--")
    assert lines["full data"] == (90.0, "-")
    assert [text.get_text() for text in panel.texts] == ["54.0 ± 2.8  (n = 1 × 2)", "70.0 ± 10.0  (n = 1 × 3)"]
    assert panel.get_xlabel() == "test accuracy %\n(1,234 rows)"


def test_one_panel_per_task_and_chance_where_there_is_no_majority(fabric: Fabric, panels, tmp_path):
    tasks = [fabric.task(f"task{k}") for k in range(5)]
    draw(filled(fabric, {}, tasks=tasks), "title", tmp_path / "demo")
    shown = [panel for panel in panels if panel.axison]
    assert [panel.get_title() for panel in shown] == [f"task{k}" for k in range(5)]
    assert all("chance" in [line.get_label() for line in panel.lines] for panel in shown)
    assert [label.get_text() for label in shown[4].get_yticklabels()] == ["HL"]  # the second line names its rows


def test_an_unfinished_row_keeps_its_place(fabric: Fabric, panels, tmp_path):
    experiment = fabric.experiment({}, RANDOM)
    draw(collect(experiment, fabric.store), "title", tmp_path / "demo")
    assert [text.get_text() for text in panels[0].texts] == ["missing", "missing"]


def test_full_data_alone_is_drawn_as_a_bar(fabric: Fabric, panels, tmp_path):
    draw(filled(fabric, FULL), "title", tmp_path / "demo")
    assert [bar.get_width() for bar in panels[0].patches] == pytest.approx([90.0])


def test_nothing_is_clipped_at_the_border(fabric: Fabric, tmp_path):
    png, _ = draw(
        filled(fabric, MAJORITY, RANDOM, {"distill.method.attention_labels": ["none", "all"]}, FULL),
        "t",
        tmp_path / "demo",
    )
    image = imread(png)  # [height, width]: grey
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert (border == 1).all()
    assert (image < 0.5).any()
