"""What is committed in ``analysis/results`` follows from the runs that are committed beside it, to the byte."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import nbformat
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


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_tables_follow_from_the_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # which the paths of a config are relative to
    experiment, out = load(f"configs/{name}.yaml"), tmp_path / "results"
    out.mkdir()
    search = experiment.report.search
    of_search = [f"{search}.csv", f"{search}.ledger.csv"] if search else []
    for source in (RESULTS / found for found in [*(name + suffix for suffix in RUNS), *of_search]):
        if source.is_file():
            shutil.copy(source, out)
    run(experiment, Store(tmp_path / "empty"), out)
    made = {file.name: file for file in out.iterdir() if file.suffix in READ and file.name.startswith(f"{name}.")}
    kept = [file for file in RESULTS.glob(f"{name}.*") if file.suffix in READ and ".set-" not in file.name]
    assert kept
    for file in kept:
        assert made[file.name].read_text() == file.read_text(), f"{file.name}: stage 4 gives another one"


@pytest.mark.parametrize(("name", "texts"), [("table2", 4), ("table3", 4), ("vectors", 2)])
def test_notebooks_show_what_is_committed(
    name: str, texts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their first cells run again on the committed runs, without a store; every text they show is the one they kept."""
    monkeypatch.setenv("TEXTDD_ROOT", str(tmp_path / "empty"))
    monkeypatch.chdir(ROOT / "analysis")
    monkeypatch.setattr("pipeline.report.notebook.Results.figure", lambda _, kind: tmp_path / kind)
    names: dict[str, object] = {}
    compared = 0
    for cell in nbformat.read(f"{name}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            *lines, last = ast.parse(cell.source).body
            assert isinstance(last, ast.Expr)
            exec(compile(ast.Module(lines, []), name, "exec"), names)
            shown = eval(compile(ast.Expression(last.value), name, "eval"), names)
            kept = cell.outputs[0].data
            if "text/markdown" in kept:
                assert shown._repr_markdown_() == kept["text/markdown"], (
                    f"{cell.source}: TEXTDD_ROOT=/none jupyter execute --inplace"
                )
                compared += 1
    assert compared == texts
