"""What is committed in ``analysis/results`` follows from the runs that are committed beside it, to the byte."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.config import load
from pipeline.stage4_aggregate import run
from pipeline.store import Store

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "analysis" / "results"
RUNS = (".runs.csv", ".robustness.runs.csv", ".h5", ".ledger.csv")
READ = (".csv", ".md", ".tex")  # figures hold the versions of what drew them
EXPERIMENTS = sorted(
    name
    for name in (file.name.removesuffix(".runs.csv") for file in RESULTS.glob("*.runs.csv"))
    if name != "quickstart" and not name.endswith(".robustness")  # the quickstart rewrites its own on every machine
)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_tables_follow_from_the_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # which the paths of a config are relative to
    experiment, out = load(f"configs/{name}.yaml"), tmp_path / "results"
    out.mkdir()
    for found in [*RUNS, *([".csv"] if (search := experiment.report.search) else [])]:
        source = RESULTS / f"{search if found == '.csv' else name}{found}"
        if source.is_file():
            shutil.copy(source, out)
    run(experiment, Store(tmp_path / "empty"), out)
    made = {file.name: file for file in out.iterdir() if file.suffix in READ and file.name.startswith(f"{name}.")}
    kept = [file for file in RESULTS.glob(f"{name}.*") if file.suffix in READ and ".set-" not in file.name]
    assert kept
    for file in kept:
        assert made[file.name].read_text() == file.read_text(), f"{file.name}: stage 4 gives another one"
