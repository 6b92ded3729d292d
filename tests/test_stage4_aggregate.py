import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent / "report"))
from pipeline.errors import InputError
from pipeline.report.files import last
from pipeline.stage4_aggregate import run
from pipeline.store import Store
from tests.report.report_fabric import FULL, MAJORITY, RANDOM, Fabric

NAMES = [
    *("csv", "runs.csv", "h5", "ledger.csv", "tests.csv"),
    *("table1.csv", "table1.md", "table1.tex", "table2.csv", "table2.md", "table2.tex", "png", "pdf"),
    *("pareto.png", "pareto.pdf"),
]


@pytest.fixture
def fabric(tmp_path: Path) -> Fabric:
    return Fabric(tmp_path)


def filled(fabric: Fabric, **more):
    experiment = fabric.experiment(MAJORITY, RANDOM, {"distill.method.learning_rate": [0.1, 0.2]}, FULL, **more)
    values = {"majority": [0.5], "random": [0.52, 0.56], "ddal": [0.6, 0.7, 0.8], "full": [0.9]}
    fabric.fill(experiment, lambda c: dict.fromkeys(c.splits, values[c.source.method.name]))
    return experiment


def test_writes_all_files_and_returns_what_it_wrote(fabric: Fabric, tmp_path: Path):
    summary = run(filled(fabric), fabric.store, tmp_path / "out")
    assert [file.name for file in summary.files] == [f"demo.{name}" for name in NAMES]
    assert sorted(tmp_path.joinpath("out").iterdir()) == sorted(summary.files)  # and nothing beside them
    assert "| HL | 70.0 ± 10.0 |" in summary.markdown
    assert (tmp_path / "out/demo.table2.md").read_text() in summary.markdown
    assert "70.0 ± 10.0" in (tmp_path / "out/demo.table2.csv").read_text()
    frame = pd.read_csv(tmp_path / "out/demo.csv").set_index(["row", "metric", "split"])
    assert frame.loc[("HL", "accuracy", "test"), "mean"] == pytest.approx(0.7)
    assert summary.problems == ()


def test_the_same_results_give_the_same_bytes(fabric: Fabric, tmp_path: Path):
    first = run(filled(fabric), fabric.store, tmp_path / "one").files
    second = run(filled(fabric), Store(fabric.store.root), tmp_path / "two").files
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert b"CreationDate" not in first[-1].read_bytes()


def test_a_grid_with_one_result_still_names_everything(fabric: Fabric, tmp_path: Path):
    experiment = fabric.experiment(MAJORITY, {}, tasks=[fabric.task("one"), fabric.task("two")])
    fabric.finish(experiment.cells[0], {"test": [0.5], "dev": [0.5]})
    two = [cell for cell in experiment.cells if cell.source.source.task.name == "two"]
    fabric.fail(two[0].source.source, "no column 'text';\n  columns: a, b")
    summary = run(experiment, fabric.store, tmp_path / "out")
    assert sorted(problem.stage for problem in summary.problems) == ["distill", "prepare", "prepare"]
    assert "Without results (3):" in summary.markdown
    assert f"{two[1].slug}: stage prepare is failed: no column 'text'; columns: a, b" in summary.markdown
    assert "| HL | missing | failed |" in summary.markdown


def test_without_any_result_what_is_there_is_left_as_it_is(fabric: Fabric, tmp_path: Path):
    """Also where runs are archived, of other data: they would be replaced by none at all."""
    out, experiment = tmp_path / "out", fabric.experiment()
    with pytest.raises(InputError, match=r"demo: no cell has results yet, so that .*out is left as it is; python -m"):
        run(experiment, fabric.store, out)
    assert not out.exists()
    fabric.answer(experiment.cells[0], [0.5, 0.6])
    run(experiment, fabric.store, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    fabric.data.write_text("text,label\nother,1\nrows,0\n")
    with pytest.raises(InputError, match="no cell has results yet"):
        run(experiment, Store(tmp_path / "elsewhere"), out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_file_that_is_written_last_is_as_old_as_the_look_at_the_store(
    fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Results that come while the tables are made are not in them."""
    out, experiment = tmp_path / "out", filled(fabric)
    seen, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda aside, path: (seen.append(Path(path).name), replace(aside, path)))
    began = time.time()
    done = run(experiment, fabric.store, out)
    assert seen[-1] == last(experiment.name, out).name
    drawn = (out / "demo.pareto.pdf").stat().st_mtime
    assert began - 0.1 <= last(experiment.name, out).stat().st_mtime < drawn - 0.2
    assert last(experiment.name, out) in done.files


def test_nothing_is_written_when_the_choice_is_impossible(fabric: Fabric, tmp_path: Path):
    with pytest.raises(InputError, match="dev"):
        run(filled(fabric, splits=["test"]), fabric.store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command_line(fabric: Fabric, tmp_path: Path):
    filled(fabric)
    command = [
        sys.executable,
        "-m",
        "pipeline.stage4_aggregate",
        str(tmp_path / "demo.yaml"),
        "--out",
        str(tmp_path / "out"),
    ]
    place = ["--root", str(fabric.store.root), "--set", "distill.method.learning_rate=0.2"]
    done = subprocess.run([*command, *place], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| HL | 70.0 ± 10.0 |" in done.stdout
    assert "searched" not in done.stdout  # --set left one alternative
    written = [Path(line) for line in done.stdout.splitlines() if line.endswith(".table2.tex")]
    assert len(written) == 1
    assert written[0].parent == tmp_path / "out"
    assert written[0].name.startswith("demo.set-")  # a variant leaves the experiment's own tables alone
    wrong = subprocess.run(
        [*command, "--set", "distill.method.learning_rat=1"], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
    assert "learning_rate" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_needs_no_torch_and_starts_light():
    code = (
        "import sys, pipeline.stage4_aggregate; light = not {'pandas', 'matplotlib', 'scipy'} & set(sys.modules); "
        "import pipeline.report.collect; print(light, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
