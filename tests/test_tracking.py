"""Cells mirrored to a real MLflow database: one run per cell, what the files say, and never a failed cell."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import tracking
from pipeline.config import Evaluate
from pipeline.config import load as load_experiment
from pipeline.parallel import Ranks
from pipeline.stopping import Stopped
from pipeline.tracking import tracked
from tests.conftest import carried_out, table

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """MLflow needs seconds to make its tables: once for all tests, each in an experiment of its own."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def client(database: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("TEXTDD_TRACKING", "mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    return MlflowClient(database)


def runs(client: Any, name: str) -> list[Any]:
    found = client.get_experiment_by_name(name)
    return [] if found is None else list(client.search_runs([found.experiment_id], order_by=["start_time"]))


def history(client: Any, run: Any, key: str) -> list[tuple[int, float]]:
    """In the order in which the points were logged."""
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, key)]


@pytest.fixture
def cell(experiment: Write) -> Evaluate:
    return load_experiment(experiment()).cells[0]


def append(out: Path, steps: range) -> None:
    out.mkdir(parents=True, exist_ok=True)
    new = not (out / "log.csv").exists()
    with open(out / "log.csv", "a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", "epoch", "loss", "validation_loss"])
        writer.writerows([step, 0, 1 / step, 2 / step if step % 2 == 0 else ""] for step in steps)


def test_stages_mirror_what_their_files_say(experiment: Write, tmp_path: Path, client: Any) -> None:
    loaded, store = carried_out(experiment(), tmp_path / "ck")
    name = "test_stages_mirror_what_their_files_say"
    distill, evaluate = runs(client, name)
    folder = store.cell(loaded.cells[0].source).folder
    assert distill.info.run_name == folder.name
    assert (distill.info.status, evaluate.info.status) == ("FINISHED", "FINISHED")
    assert distill.data.params["distill.method.outer.steps"] == "4"
    assert distill.data.params["prepare.task.name"] == "keywords"
    assert evaluate.data.params["evaluate.protocol.name"] == "ddal"
    assert evaluate.data.params["distill.method.name"] == "ddal"
    assert evaluate.data.params["prepare.dev"] == "40.0"
    assert distill.data.tags["textdd.folder"] == str(folder.resolve())
    assert "distilled.h5" in distill.data.tags["textdd.files"]
    log = table(folder / "log.csv")
    for key in ("loss", "gradient_norm", "validation_accuracy"):
        expected = [(int(row["step"]), float(row[key])) for row in log if row[key]]
        assert history(client, distill, key) == expected
        assert expected
    results = table(store.cell(loaded.cells[0]).folder / "results.csv")
    scores = [float(row["value"]) for row in results if (row["split"], row["metric"]) == ("test", "loss")]
    assert history(client, evaluate, "test/loss") == list(enumerate(scores))
    assert evaluate.data.metrics["mean/test/loss"] == pytest.approx(sum(scores) / 2)
    assert evaluate.data.metrics["std/test/loss"] == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5)


def test_a_resumed_cell_is_one_run_with_rising_steps(cell: Evaluate, tmp_path: Path, client: Any) -> None:
    """Also where the log was cut back: steps that the run has are not logged again."""
    seen = []

    def stopped(config: Any, out: Path) -> None:
        append(out, range(1, 6))
        raise Stopped("SIGUSR2")

    def resumed(config: Any, out: Path) -> None:
        seen.extend(run.info.status for run in runs(client, "test_a_resumed_cell_is_one_run_with_rising_steps"))
        (out / "log.csv").unlink()
        append(out, range(1, 9))

    with pytest.raises(Stopped):
        tracked(stopped)(cell.source, tmp_path)
    (first,) = runs(client, "test_a_resumed_cell_is_one_run_with_rising_steps")
    assert first.info.status == "KILLED"
    tracked(resumed)(cell.source, tmp_path)
    (second,) = runs(client, "test_a_resumed_cell_is_one_run_with_rising_steps")
    assert second.info.run_id == first.info.run_id == json.loads((tmp_path / "tracking.json").read_text())["run"]
    assert (seen, second.info.status) == (["RUNNING"], "FINISHED")
    assert history(client, second, "loss") == [(step, 1 / step) for step in range(1, 9)]
    assert history(client, second, "validation_loss") == [(step, 2 / step) for step in (2, 4, 6, 8)]


def test_it_can_be_watched_while_it_runs(
    cell: Evaluate, tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "EVERY", 0.05)
    found: list[int] = []

    def slow(config: Any, out: Path) -> None:
        append(out, range(1, 4))
        with open(out / "log.csv", "a") as file:
            file.write("4,0,0.2")  # on its way
        for _ in range(600):
            (run,) = runs(client, "test_it_can_be_watched_while_it_runs")
            found[:] = [step for step, _ in history(client, run, "loss")]
            if found:
                return
            time.sleep(0.1)

    tracked(slow)(cell.source, tmp_path)
    assert found == [1, 2, 3]


def test_a_cell_that_fails_is_a_failed_run(cell: Evaluate, tmp_path: Path, client: Any) -> None:
    def failing(config: Any, out: Path) -> None:
        raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"):
        tracked(failing)(cell, tmp_path)
    (run,) = runs(client, "test_a_cell_that_fails_is_a_failed_run")
    assert run.info.status == "FAILED"


def test_only_the_first_rank_is_mirrored(cell: Evaluate, tmp_path: Path, client: Any) -> None:
    ran = []
    tracked(lambda config, out, ranks: ran.append(ranks.rank))(cell.source, tmp_path, Ranks(1, 2))
    assert ran == [1]
    assert runs(client, "test_only_the_first_rank_is_mirrored") == []


def test_variants_are_metrics_of_their_own(cell: Evaluate, tmp_path: Path, client: Any) -> None:
    def robust(config: Any, out: Path) -> None:
        lines = ["variant,initialisation,split,metric,value,seconds", "steps=x2,0,dev,accuracy,0.5,1"]
        (out / "robustness.csv").write_text("\n".join([*lines, "steps=x2,1,dev,accuracy,0.7,1", ""]))

    tracked(robust)(cell, tmp_path)
    (run,) = runs(client, "test_variants_are_metrics_of_their_own")
    assert history(client, run, "steps.x2/dev/accuracy") == [(0, 0.5), (1, 0.7)]


def test_off_by_default(cell: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEXTDD_TRACKING", raising=False)
    monkeypatch.setitem(sys.modules, "mlflow", None)  # importing it would fail
    tracked(lambda config, out: append(out, range(1, 3)))(cell.source, tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"tiny.yaml", "log.csv"}


@pytest.mark.parametrize(
    ("asked", "uri", "said"),
    [
        ("mlflow", "http://127.0.0.1:9", "not tracked from here on: MlflowException: "),
        ("wandb", "", "TEXTDD_TRACKING=wandb is not known; allowed: mlflow"),
        ("absent", "", "pip install 'textdd[tracking]'"),
    ],
)
def test_what_goes_wrong_with_tracking_is_one_line(
    experiment: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: str,
    uri: str,
    said: str,
) -> None:
    """No server, no such tracker, no MLflow: the cell is done all the same."""
    monkeypatch.setenv("TEXTDD_TRACKING", "mlflow" if asked == "absent" else asked)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    if asked == "absent":
        monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    loaded, store = carried_out(experiment(), tmp_path / "ck", "distill")
    assert store.cell(loaded.cells[0].source).state == "done"
    lines = [line for line in capsys.readouterr().err.splitlines() if "not tracked" in line]
    assert len(lines) == 1
    assert said in lines[0]
