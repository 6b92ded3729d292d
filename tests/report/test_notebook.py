"""What notebooks call: where an experiment is looked for, and that its committed runs suffice."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import load
from pipeline.errors import InputError
from pipeline.report import notebook
from pipeline.stage4_aggregate import run
from tests.report.report_fabric import FULL, RANDOM, Fabric

ANALYSIS = Path(__file__).resolve().parents[2] / "analysis"
MODES = {"distill.method": [{"labels": a, "attention_labels": "cls"} for a in ("hard", "unrestricted")]}


@pytest.fixture
def project(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose experiment ``mine`` is finished; the working folder is its ``analysis``."""
    for folder in ("configs", "analysis/results"):
        (fabric.folder / folder).mkdir(parents=True)
    grids = (RANDOM | {"distill.seed": [0, 1]}, MODES | {"distill.seed": [0, 1]}, FULL)
    for cell in fabric.experiment(*grids, name="mine").cells:
        fabric.answer(cell, [0.6, 0.7, 0.65])
    (fabric.folder / "mine.yaml").rename(fabric.folder / "configs" / "mine.yaml")
    monkeypatch.delenv("TEXTDD_ROOT", raising=False)
    monkeypatch.chdir(fabric.folder / "analysis")
    return fabric.folder


def test_the_project_is_found_from_below(project: Path) -> None:
    results = notebook.gather("mine")
    assert results.home == project
    assert repr(results) == "mine: 7 of 7 cells have results"
    assert "7 cells, of which 7 are read from the store and 0 from the committed runs" in results._repr_markdown_()
    assert notebook.gather("configs/mine.yaml").name == "mine"
    assert Path.cwd() == project / "analysis", "left as it was"


def test_the_committed_runs_suffice(project: Path, fabric: Fabric) -> None:
    """All tables are the same without the store, the data and the encoder; what needs artifacts says so."""
    with_store = [str(show(notebook.gather("mine"))) for show in (notebook.beside_paper, notebook.claims)]
    run(load(project / "configs" / "mine.yaml"), fabric.store, project / "analysis" / "results")
    shutil.rmtree(fabric.store.root)
    fabric.data.unlink()
    results = notebook.gather("mine")
    assert "0 are read from the store and 7 from the committed runs" in results._repr_markdown_()
    assert [str(show(results)) for show in (notebook.beside_paper, notebook.claims)] == with_store
    committed = (project / "analysis" / "results" / "mine.table2.md").read_text()
    assert str(notebook.table(results)) == committed
    for show in (notebook.attention, notebook.tokens):
        assert str(show(results)).startswith("Not drawn: no file of a set of SL + AL is in checkpoints or analysis/rel")
    for show in (notebook.bars, notebook.budget, notebook.losses, notebook.compute):
        drawn = show(results)
        assert drawn._repr_png_().startswith(b"\x89PNG")
        assert drawn.pdf.is_file()
        assert repr(drawn).endswith(f"{drawn.pdf.name} in analysis/figures")


def test_full_data_of_another_experiment(project: Path, fabric: Fabric) -> None:
    fabric.experiment(MODES | {"distill.seed": [0, 1]}, name="bare")
    (project / "bare.yaml").rename(project / "configs" / "bare.yaml")
    (alone,) = [
        line for line in str(notebook.beside_paper(notebook.gather("bare"))).splitlines() if "| HL + AL" in line
    ]
    assert alone.endswith("| – / 97.2 |"), "without full data of ours only the paper's share"
    lines = str(notebook.beside_paper(notebook.gather("bare", full_data="mine"))).splitlines()
    (line,) = [line for line in lines if line.startswith("| HL + AL")]
    own = [line for line in str(notebook.beside_paper(notebook.gather("mine"))).splitlines() if "| HL + AL" in line]
    assert [line] == own


def test_outside_of_a_project(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("nowhere"))
    with pytest.raises(InputError, match="open the notebook inside the project"):
        notebook.gather("mine")


def test_another_name_is_suggested(project: Path) -> None:
    with pytest.raises(InputError, match=r"configs/mien\.yaml: no such file.*mine\.yaml"):
        notebook.gather("mien")


def test_committed_runs_are_read_without_torch(tmp_path: Path) -> None:
    """Which takes longer to import than most tables to make."""
    code = "import sys; from pipeline.report import notebook as n; found = n.gather('vectors_start'); n.table(found)"
    found = subprocess.run(
        [sys.executable, "-c", f"{code}; print(repr(found), 'torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ANALYSIS,
        env=os.environ | {"PYTHONPATH": str(ANALYSIS.parent), "TEXTDD_ROOT": str(tmp_path)},
    )
    assert found.stdout.split(":")[0] == "vectors_start"
    assert found.stdout.split()[-1] == "False"
