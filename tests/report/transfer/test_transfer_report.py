"""The transfer matrix: its lines and columns, what retention is of, against numbers worked out by hand."""

from __future__ import annotations

import csv
import math
from typing import Any

import pytest
from matplotlib.axes import Axes

from pipeline.config import Evaluate, Experiment
from pipeline.report.collect import collect
from pipeline.report.transfer.matrix import Matrix, matrices
from pipeline.report.transfer.tables import matrix_table, retention, write_transfer
from pipeline.stage4_aggregate import run
from pipeline.store import Store
from tests.report.report_fabric import FULL, MAJORITY, RANDOM, Fabric

BERT, ROBERTA, XLNET = "bert-tiny", "roberta-tiny", "xlnet-tiny"


@pytest.fixture
def models(fabric: Fabric) -> list[str]:
    for name in (ROBERTA, XLNET):
        (fabric.folder / name).mkdir()
        (fabric.folder / name / "config.json").write_text(f'{{"name": "{name}"}}')
    return [str(fabric.folder / name) for name in (BERT, ROBERTA, XLNET)]


def sets(models: list[Any], seeds: list[int], **more: Any) -> dict[str, Any]:
    """Random sentences of BERT's, learned from by all three."""
    return RANDOM | {"distill.seed": seeds, "evaluate.data.model": models, **more}


def fill(fabric: Fabric, experiment: Experiment, scores: dict[Any, list[float]]) -> None:
    """By method (a reference), or by the students' encoder and the set's seed; what is not named stays missing."""

    def of(cell: Evaluate) -> dict[str, list[float]] | None:
        students = cell.prepared.model.name.rpartition("/")[2]
        keys = ((cell.source.method.name, students), (cell.source.method.name, students, cell.source.seed))
        found = next((scores[key] for key in keys if key in scores), None)
        return None if found is None else dict.fromkeys(cell.splits, found)

    fabric.fill(experiment, of)


def matrix(fabric: Fabric, experiment: Experiment) -> Matrix:
    (found,) = matrices(experiment, collect(experiment, fabric.store))
    return found


SCORES: dict[Any, list[float]] = {
    ("random", BERT, 1): [0.48, 0.52],
    ("random", BERT, 2): [0.6, 0.6],
    ("random", ROBERTA, 1): [0.3, 0.5],
    ("random", ROBERTA, 2): [0.5, 0.58],
    ("random", XLNET, 2): [0.45],
}


def test_lines_are_sets_and_columns_students(fabric: Fabric, models: list[str]) -> None:
    both = sets(models, [1], **{"prepare.model": models[:2]})
    experiment = fabric.experiment(MAJORITY, both, {"distill.method.labels": ["hard"]}, FULL)
    found = matrix(fabric, experiment)
    assert [(line.label, line.source) for line in found.lines] == [("random real", BERT), ("random real", ROBERTA)]
    assert [column.model for column in found.columns] == [BERT, ROBERTA, XLNET]
    assert [line.own.model for line in found.lines if line.own] == [BERT, ROBERTA]
    assert [len(line.entries) for line in found.lines] == [3, 3]


def test_without_full_data_retention_is_of_the_same_sets_on_their_own_encoder(
    fabric: Fabric, models: list[str]
) -> None:
    """Set 1 keeps 0.4 of 0.5, set 2 0.54 of 0.6; XLNet's students learned from set 2 alone: 0.45 of 0.6."""
    experiment = fabric.experiment(sets(models, [1, 2]))
    fill(fabric, experiment, SCORES)
    found = matrix(fabric, experiment)
    (line,) = found.lines
    kept = [found.retention(line, column) for column in found.columns]
    assert [each and each.of for each in kept] == ["own encoder"] * 3
    assert [each and each.share for each in kept] == pytest.approx([1.0, 0.94 / 1.1, 0.75])
    assert [each and each.std for each in kept] == [0.0, pytest.approx(0.1 / math.sqrt(2)), None]
    assert [retention(found, line, column) for column in found.columns] == ["", "85.5 ± 7.1 %", "75.0 %"]


def test_with_full_data_retention_is_of_the_columns_encoder(fabric: Fabric, models: list[str]) -> None:
    experiment = fabric.experiment(sets(models, [1, 2]), FULL | {"prepare.model": models[:2]})
    fill(fabric, experiment, SCORES | {("full", BERT): [0.8], ("full", ROBERTA): [0.9, 1.0]})
    found = matrix(fabric, experiment)
    (line,) = found.lines
    bert, roberta, xlnet = (found.retention(line, column) for column in found.columns)
    assert bert == (pytest.approx(0.55 / 0.8), pytest.approx(0.1 / 0.8 / math.sqrt(2)), "full data")
    assert roberta == (pytest.approx(0.47 / 0.95), pytest.approx(0.14 / 0.95 / math.sqrt(2)), "full data")
    assert xlnet == (pytest.approx(0.75), None, "own encoder")
    caption = " ".join(matrix_table("demo", found).caption)
    assert f"on all training rows: {BERT} (80.0, n = 1 × 1), {ROBERTA} (95.0, n = 1 × 2)." in caption
    assert f"Retention of {XLNET}: share of the same sets' score" in caption


def test_lines_are_told_apart_as_rows_are(fabric: Fabric, models: list[str]) -> None:
    """Also where what is told apart differs in sets that no other encoder learns from."""
    at_home = {"distill.method.labels": ["hard"], "distill.method.outer.lr": [0.1, 0.01]}
    moved = sets(models[:2], [1], **{"evaluate.protocol.steps": [50, 20]})
    apart = {"apart": ["evaluate.protocol.steps", "distill.method.outer.lr"]}
    experiment = fabric.experiment(at_home, moved, report=apart)
    fabric.fill(experiment, lambda cell: {split: [0.6, 0.7] for split in cell.splits})
    found = matrix(fabric, experiment)
    assert [line.label for line in found.lines] == ["random real, steps=50", "random real, steps=20"]
    assert [len(line.entries) for line in found.lines] == [2, 2], "its own encoder's and the other one's"


def test_of_a_single_set_beside_full_data_initialisations_give_the_deviation(fabric: Fabric, models: list[str]) -> None:
    experiment = fabric.experiment(sets(models, [1]), FULL)
    fill(fabric, experiment, SCORES | {("full", BERT): [0.8]})
    found = matrix(fabric, experiment)
    kept = found.retention(found.lines[0], found.columns[0])
    assert kept == (pytest.approx(0.5 / 0.8), pytest.approx(0.04 / 0.8 / math.sqrt(2)), "full data")


def test_nothing_is_retained_of_nothing(fabric: Fabric, models: list[str]) -> None:
    experiment = fabric.experiment(sets(models, [1, 2]))
    fill(fabric, experiment, {key: values for key, values in SCORES.items() if key[1] != BERT})
    found = matrix(fabric, experiment)
    assert [found.retention(found.lines[0], column) for column in found.columns] == [None] * 3
    zero = fabric.experiment(sets(models, [3]))
    fill(fabric, zero, {("random", BERT): [0.0], ("random", ROBERTA): [0.5]})
    found = matrix(fabric, zero)
    assert found.retention(found.lines[0], found.columns[1]) is None


def test_a_set_that_its_own_encoder_never_learns_from(fabric: Fabric, models: list[str]) -> None:
    experiment = fabric.experiment(sets(models[1:], [1, 2]))
    fill(fabric, experiment, SCORES)
    found = matrix(fabric, experiment)
    assert [column.model for column in found.columns] == [ROBERTA, XLNET]
    assert found.lines[0].own is None
    assert found.retention(found.lines[0], found.columns[0]) is None
    table = matrix_table("demo", found).frame
    assert list(table.iloc[0]) == ["random real", BERT, "47.0 ± 10.8 / 6.3", "45.0", "2 × 2 / 1 × 1"]


def test_columns_that_were_seen_are_marked(fabric: Fabric, models: list[str], panels: list[Axes]) -> None:
    """Not the sets' own encoder's, which is named, nor of the row beside it that was made with one encoder alone."""
    text = {"distill.method": [{"name": "text"}], "evaluate.protocol": [{"name": "finetune"}]}
    experiment = fabric.experiment(
        text | {"distill.others": [[], [{"model": models[1]}]], "evaluate.data.model": models}, tasks=[fabric.task()]
    )
    fabric.fill(experiment, lambda cell: {split: [0.5] for split in cell.splits})
    found = matrix(fabric, experiment)
    assert [line.label for line in found.lines] == ["text (swaps)", f"text (swaps, also for {ROBERTA})"]
    assert [[line.saw(column) for column in found.columns] for line in found.lines] == [
        [False] * 3,
        [False, True, False],
    ]
    shown = matrix_table("demo", found)
    entries = [list(row)[2:5] for _, row in shown.frame.iterrows()]
    assert entries == [
        ["50.0", "50.0 (100.0 %)", "50.0 (100.0 %)"],
        ["50.0", "50.0 (100.0 %) [seen]", "50.0 (100.0 %)"],
    ]
    assert sum("[seen]" in sentence for sentence in shown.caption) == 1
    _, files = write_transfer(experiment, collect(experiment, fabric.store), fabric.folder / "demo")
    with open(files[0]) as file:
        assert [row["seen"] for row in csv.DictReader(file)] == ["False"] * 4 + ["True", "False"]
    frames = [(patch.get_x() + 0.48, patch.get_y() + 0.46, patch.get_linewidth()) for patch in panels[0].patches]
    assert sorted(frames) == [(0, 0, 2.2), (0, 1, 2.2), (pytest.approx(1), pytest.approx(1), 0.9)]


def test_a_matrix_per_task(fabric: Fabric, models: list[str]) -> None:
    experiment = fabric.experiment(sets(models, [1]), tasks=[fabric.task("one"), fabric.task("two")])
    found = matrices(experiment, collect(experiment, fabric.store))
    assert [each.task for each in found] == ["one", "two"]
    assert [len(each.columns) for each in found] == [3, 3]


def test_what_is_written(fabric: Fabric, models: list[str], panels: list[Axes]) -> None:
    experiment = fabric.experiment(sets(models, [1, 2]), FULL)
    fill(fabric, experiment, SCORES | {("full", BERT): [0.8]})
    stem = fabric.folder / "out" / "demo"
    text, files = write_transfer(experiment, collect(experiment, fabric.store), stem)
    assert [file.name for file in files] == [f"demo.transfer.{end}" for end in ("csv", "md", "tex", "png", "pdf")]
    assert all(file.is_file() for file in files)
    line = (
        f"| random real | {BERT} | 55.0 ± 2.0 / 6.9 (68.8 ± 8.8 %) | 47.0 ± 10.8 / 6.3 (85.5 ± 7.1 %) | 45.0 (75.0 %) |"
    )
    assert f"{line} 2 × 2 / 2 × 2 / 1 × 1 |" in text.replace(r"\|", "|")
    assert files[1].read_text() == text
    assert r"47.0 $\pm$ 10.8 / 6.3 (85.5 $\pm$ 7.1 \%)" in files[2].read_text()
    with open(files[0]) as file:
        first, second, third = csv.DictReader(file)
    assert (first["students"], first["of"], float(first["full_data"])) == (BERT, "full data", 0.8)
    assert (second["made_with"], second["students"], second["n_seed"], second["n_init"]) == (BERT, ROBERTA, "2", "2")
    assert (float(second["mean"]), float(second["retention"])) == pytest.approx((0.47, 0.94 / 1.1))
    assert (third["std"], third["n"], third["state"]) == ("", "1", "done")
    drawn = [text.get_text() for text in panels[0].texts]
    assert drawn == [
        "55.0 ± 2.0 / 6.9\n69 % of full\nn = 2 × 2",
        "47.0 ± 10.8 / 6.3\n85 % of own\nn = 2 × 2",
        "45.0\n75 % of own\nn = 1 × 1",
    ]
    assert len(panels[0].patches) == 1, "one frame, around the own encoder"
    assert panels[0].patches[0].get_x() == pytest.approx(-0.48)


def test_the_higher_the_score_the_darker_and_never_too_dark_to_read(
    fabric: Fabric, models: list[str], panels: list[Axes]
) -> None:
    experiment = fabric.experiment(sets(models, [1]))
    fill(fabric, experiment, {("random", BERT): [0.9], ("random", ROBERTA): [0.5]})
    write_transfer(experiment, collect(experiment, fabric.store), fabric.folder / "demo")
    (image,) = panels[0].images
    high, low, missing = image.cmap(image.norm(image.get_array()))[0, :, 0]
    assert image.get_clim() == (50, 90)
    assert (high, low, missing) == pytest.approx((0.58, 0.98, 1.0), abs=0.01)
    assert [text.get_text().split("\n")[0] for text in panels[0].texts] == ["90.0", "50.0", "missing"]


def test_without_other_encoders_nothing_is_written(fabric: Fabric, models: list[str]) -> None:
    experiment = fabric.experiment(RANDOM, FULL | {"prepare.model": models})
    fabric.fill(experiment, lambda cell: {split: [0.5, 0.6] for split in cell.splits})
    assert write_transfer(experiment, collect(experiment, fabric.store), fabric.folder / "demo") == ("", ())
    assert not [file for file in run(experiment, fabric.store, fabric.folder / "out").files if "transfer" in file.name]


def test_before_anything_is_scored_no_students_are_named(fabric: Fabric, models: list[str]) -> None:
    caption = matrix_table("demo", matrix(fabric, fabric.experiment(sets(models, [1])))).caption
    assert [line for line in caption if line.startswith("Scored: test accuracy %")]
    assert not [line for line in caption if "Students" in line]


def test_a_language_model_is_no_student(fabric: Fabric, models: list[str]) -> None:
    reader = {"name": models[2], "head": "language"}
    asked = sets([reader], [1]) | {"evaluate.protocol": [{"name": "prompting"}]}
    experiment = fabric.experiment(sets(models[:2], [1]), asked)
    assert {cell.prepared.model.head for cell in experiment.cells} == {"classifier", "language"}
    assert [column.model for column in matrix(fabric, experiment).columns] == [BERT, ROBERTA]


def test_stage_4_shows_it(fabric: Fabric, models: list[str]) -> None:
    experiment = fabric.experiment(sets(models, [1, 2]))
    fill(fabric, experiment, SCORES)
    summary = run(experiment, fabric.store, fabric.folder / "out")
    assert "### demo: transfer to other encoders, sst2" in summary.markdown
    assert len([file for file in summary.files if ".transfer." in file.name]) == 5


def test_it_is_drawn_again_when_the_artifacts_are_gone(fabric: Fabric, models: list[str]) -> None:
    experiment = fabric.experiment(sets(models, [1, 2]), FULL)
    fill(fabric, experiment, SCORES | {("full", BERT): [0.8]})
    out = fabric.folder / "out"
    files = [file for file in run(experiment, fabric.store, out).files if ".transfer." in file.name]
    before = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    assert run(experiment, Store(fabric.folder / "empty"), out).archived == 6
    assert [file.read_bytes() for file in files] == before
