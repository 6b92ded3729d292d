"""The committed runs: the same tables to the byte when artifacts, data and encoder are gone."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from pipeline.config import load
from pipeline.errors import InputError
from pipeline.report.archive import Archive
from pipeline.report.collect import collect
from pipeline.report.finished import Finished
from pipeline.stage4_aggregate import run
from pipeline.store import Store
from tests.report.report_fabric import FULL, MAJORITY, RANDOM, Fabric

GRID = (
    MAJORITY,
    RANDOM | {"distill.seed": [0, 1, 2], "evaluate.initialisations": [1]},
    {"distill.method.labels": ["hard", "unrestricted"], "distill.seed": [0, 1], "distill.method.outer.lr": [0.1, 0.2]},
    FULL,
)


def answered(fabric: Fabric, *grids, **more):
    experiment = fabric.experiment(*(grids or GRID), splits=["dev", "test"], **more)
    for number, cell in enumerate(experiment.cells):
        fabric.answer(cell, [0.55 + number / 100, 0.57, 1 / 3 + 0.3][: min(3, cell.initialisations)])
    return experiment


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_everything_is_made_again_from_the_committed_files(fabric: Fabric, tmp_path: Path):
    experiment = answered(fabric, report={"compare": [["SL", "HL"]]})
    out = tmp_path / "out"
    run(experiment, fabric.store, out)
    first = files(out)
    assert b"nan" not in first["demo.runs.csv"]
    shutil.rmtree(fabric.store.root)
    run(experiment, Store(tmp_path / "elsewhere"), out)
    assert files(out) == first, "without artifacts"
    fabric.data.unlink()
    shutil.rmtree(fabric.model)
    again = run(load(tmp_path / "demo.yaml"), Store(tmp_path / "nowhere"), out)
    assert files(out) == first, "without data and encoder, and the archive itself stays the same"
    assert again.problems == ()
    assert "points, 95 % interval" in again.markdown


def test_only_the_archive_is_read_never_the_tables(fabric: Fabric, tmp_path: Path):
    experiment, out = answered(fabric), tmp_path / "out"
    run(experiment, fabric.store, out)
    first = files(out)
    kept = {"demo.runs.csv", "demo.h5", "demo.ledger.csv"}
    for name in first.keys() - kept:
        (out / name).unlink()
    run(experiment, Store(tmp_path / "elsewhere"), out)
    assert files(out) == first


@pytest.mark.usefixtures("no_figures")
def test_a_number_that_is_changed_in_the_csv_shows(fabric: Fabric, tmp_path: Path):
    """The tables are made from the CSV: tampering with it is seen, in the entry and in the tests."""
    experiment, out = answered(fabric), tmp_path / "out"
    run(experiment, fabric.store, out)
    frame = pd.read_csv(out / "demo.runs.csv", dtype=str, keep_default_na=False)
    frame.loc[frame["cell"].str.contains("ddal-hard"), "accuracy"] = "0.999"
    frame.to_csv(out / "demo.runs.csv", index=False)
    summary = run(experiment, Store(tmp_path / "elsewhere"), out)
    assert "| HL | 99.9" in summary.markdown
    assert "HL: predictions are not those of the results" in summary.markdown


@pytest.mark.usefixtures("no_figures")
def test_later_work_continues_from_what_was_committed(fabric: Fabric, tmp_path: Path):
    """A second task in a fresh store: the first one's entries come from the archive, the second's are added to it."""
    tasks = [fabric.task("one"), fabric.task("two")]
    experiment, out = fabric.experiment({"distill.seed": [0, 1]}, tasks=tasks), tmp_path / "out"
    one, two = ([c for c in experiment.cells if c.source.source.task.name == name] for name in ("one", "two"))
    for cell in one:
        fabric.answer(cell, [0.6, 0.7])
    assert len(run(experiment, fabric.store, out).problems) == 2
    shutil.rmtree(fabric.store.root)
    for cell in two:
        fabric.answer(cell, [0.8, 0.9])
    assert run(experiment, fabric.store, out).problems == ()
    shutil.rmtree(fabric.store.root)
    assert run(experiment, fabric.store, out).problems == ()
    frame = pd.read_csv(out / "demo.csv")
    assert set(frame["task"]) == {"one", "two"}


@pytest.mark.usefixtures("no_figures")
def test_the_store_is_preferred(fabric: Fabric, tmp_path: Path):
    experiment, out = fabric.experiment(), tmp_path / "out"
    fabric.answer(experiment.cells[0], [0.5, 0.6])
    run(experiment, fabric.store, out)
    shutil.rmtree(fabric.store.root)
    fabric.answer(experiment.cells[0], [0.9, 0.9, 0.9])
    run(experiment, fabric.store, out)
    assert pd.read_csv(out / "demo.csv")["n"].tolist()[0] == 3


@pytest.mark.usefixtures("no_figures")
def test_other_data_is_another_cell(fabric: Fabric, tmp_path: Path):
    experiment, out = fabric.experiment(), tmp_path / "out"
    fabric.answer(experiment.cells[0], [0.5, 0.6])
    run(experiment, fabric.store, out)
    fabric.data.write_text("text,label\nother,1\nrows,0\n")
    elsewhere = Store(tmp_path / "elsewhere")
    (problem,) = collect(experiment, elsewhere, Archive(out / "demo", elsewhere)).problems
    assert problem.state == "missing"


@pytest.mark.usefixtures("no_figures")
def test_hub_revisions_that_are_not_resolved_here_do_not_matter(fabric: Fabric, tmp_path: Path):
    experiment, out = fabric.experiment(tasks=["sst2"]), tmp_path / "out"
    source = experiment.cells[0].source.source.task.source
    fabric.store.places.record("dataset", source.id, source.revision, "1" * 40)
    fabric.answer(experiment.cells[0], [0.5, 0.6])
    run(experiment, fabric.store, out)
    assert run(experiment, Store(tmp_path / "fresh"), out).problems == ()
    other = Store(tmp_path / "other")
    other.places.record("dataset", source.id, source.revision, "2" * 40)
    assert len(collect(experiment, other, Archive(out / "demo", other)).problems) == 1, "another commit of the data"


@pytest.mark.usefixtures("no_figures")
def test_a_changed_default_is_refused(fabric: Fabric, tmp_path: Path):
    experiment, out = fabric.experiment(), tmp_path / "out"
    fabric.answer(experiment.cells[0], [0.5, 0.6])
    run(experiment, fabric.store, out)
    archive = Archive(out / "demo", Store(tmp_path / "elsewhere"))
    (fact,) = archive._cells.values()
    fact["config"]["seed"] = 9
    with pytest.raises(InputError, match=r"demo\.runs\.csv: made with evaluate\.seed = 9"):
        archive.find(experiment.cells[0])


@pytest.mark.usefixtures("no_figures")
def test_another_setting_is_not_found(fabric: Fabric, tmp_path: Path):
    experiment, out = fabric.experiment(), tmp_path / "out"
    fabric.answer(experiment.cells[0], [0.5, 0.6])
    run(experiment, fabric.store, out)
    archive = Archive(out / "demo", Store(tmp_path / "elsewhere"))
    assert isinstance(archive.find(experiment.cells[0]), Finished)
    assert archive.find(experiment.cells[0].model_copy(update={"initialisations": 4})) is None


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("gone", ["demo.runs.csv", "demo.h5"])
def test_one_file_without_the_other_is_refused_where_it_is_needed(fabric: Fabric, tmp_path: Path, gone: str):
    """Killed between the two, stage 4 goes on; lost, a file is not replaced by one with less in it."""
    experiment, out, elsewhere = fabric.experiment(), tmp_path / "out", Store(tmp_path / "elsewhere")
    fabric.answer(experiment.cells[0], [0.5, 0.6])
    run(experiment, fabric.store, out)
    whole = {path.name: path.read_bytes() for path in (out / "demo.runs.csv", out / "demo.h5")}
    (out / gone).unlink()
    said = f"stands without {gone}; restore that one, or remove this one"
    with pytest.raises(InputError, match=said):
        run(experiment, elsewhere, out)
    with pytest.raises(InputError, match=said):
        Archive(out / "demo", elsewhere).write([], [])
    with pytest.raises(InputError, match=said):
        Archive(out / "demo", elsewhere).evaluations()
    assert not (out / gone).exists()
    run(experiment, fabric.store, out)
    assert {name: (out / name).read_bytes() for name in whole} == whole


@pytest.mark.usefixtures("no_figures")
def test_a_torn_file_is_named(fabric: Fabric, tmp_path: Path):
    experiment, out = answered(fabric), tmp_path / "out"
    run(experiment, fabric.store, out)
    whole = (out / "demo.h5").read_bytes()
    (out / "demo.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"demo\.h5: not whole \(.*restore or remove both"):
        run(experiment, fabric.store, out)


@pytest.mark.usefixtures("no_figures")
def test_what_is_not_a_number_stays_so(fabric: Fabric, tmp_path: Path):
    """A metric that diverged is not one that was not measured."""
    experiment, out = fabric.experiment(), tmp_path / "out"
    fabric.finish(experiment.cells[0], {"test": [0.5, float("nan")], "dev": [0.5]})
    run(experiment, fabric.store, out)
    first = (out / "demo.csv").read_bytes()
    found = collect(experiment, Store(tmp_path / "elsewhere"), Archive(out / "demo", Store(tmp_path / "elsewhere")))
    (entry,) = found.entries.values()
    assert sorted(map(str, entry.chosen.runs["value"])) == sorted(["0.5", "nan", "0.5", "0.5", "nan", "0.5"])
    run(experiment, Store(tmp_path / "elsewhere"), out)
    assert (out / "demo.csv").read_bytes() == first


@pytest.mark.usefixtures("no_figures")
def test_it_stays_small(fabric: Fabric, tmp_path: Path):
    """Five sets of 20 initialisations on 1,234 rows: little more than the entropy of answers that are nearly noise."""
    experiment = fabric.experiment({"distill.seed": [0, 1, 2, 3, 4]}, splits=["test"], initialisations=20)
    for cell in experiment.cells:
        fabric.answer(cell, [0.75] * 20)
    run(experiment, fabric.store, tmp_path / "out")
    bits = 5 * 20 * 1234
    assert (tmp_path / "out" / "demo.h5").stat().st_size < 1.6 * bits / 8 + 20_000
