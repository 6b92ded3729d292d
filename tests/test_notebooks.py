"""The notebooks: short, without logic, outputs kept; executed against a small experiment of two tasks, really run."""

from __future__ import annotations

import ast
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.image import imread
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

from tests.conftest import carried_out

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ("table2", "table3", "figures", "vectors")
LOGIC = (
    *(ast.FunctionDef, ast.Lambda, ast.ClassDef, ast.For, ast.While, ast.If, ast.IfExp, ast.Try, ast.With),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.BinOp, ast.Compare, ast.BoolOp),
)
ONE = {"evaluate.initialisations": [1]}
AL = {"labels": "unrestricted", "attention_labels": "cls"}


def committed(name: str) -> NotebookNode:
    return nbformat.read(ROOT / "analysis" / f"{name}.ipynb", as_version=4)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_at_most_ten_cells_without_logic(name: str) -> None:
    notebook = committed(name)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= 10
    for cell in code(notebook):
        tree = ast.parse(cell.source)
        assert not [node for node in ast.walk(tree) if isinstance(node, LOGIC)], cell.source
        assert sum(isinstance(node, ast.Call) for node in ast.walk(tree)) in (1, 2), cell.source
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert imported <= {"pipeline.report"}
    assert re.search(r'^EXPERIMENT = "\w+"$', code(notebook)[0].source, re.MULTILINE)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_outputs_are_kept_and_hold_no_error(name: str) -> None:
    notebook = committed(name)
    for cell in code(notebook):
        assert cell.outputs, f"{name}: {cell.source} has no output; type: make notebooks"
        assert {output.output_type for output in cell.outputs} == {"execute_result"}, cell.source
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, 1 + len(code(notebook))))
    assert not re.search(r"(/tmp|/home|/root|/Users)/\w", nbformat.writes(notebook)), "paths of one machine"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_experiment_that_is_named_is_there(name: str) -> None:
    found = re.search(r'EXPERIMENT = "(\w+)"', code(committed(name))[0].source)
    assert found is not None
    assert (ROOT / "configs" / f"{found[1]}.yaml").is_file()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Callable[[str], Path], corpus_file: Path) -> Path:
    """A folder with the notebooks, a config and a store that holds all of its results."""
    home = tmp_path_factory.mktemp("project")
    for folder in ("configs", "analysis", "logs"):
        (home / folder).mkdir()
    for name in NOTEBOOKS:
        shutil.copy(ROOT / "analysis" / f"{name}.ipynb", home / "analysis")
    source = {"kind": "files", "train": str(corpus_file)}
    tasks = [
        {"name": "sst2", "source": source, "text": "text"},
        {"name": "mrpc", "source": source, "text": "text", "metric": "accuracy_f1"},
    ]
    whole = {
        "base": {
            "prepare": {"task": tasks[0], "model": str(encoder_folder("bert")), "dev": 40, "test": 40},
            "distill": {
                "method": {
                    **{"name": "ddal", "sequence_length": 8, "learning_rate": 0.1},
                    "outer": {"steps": 2, "batch_size": 8},
                    "validation": {"every": 2, "initialisations": 2, "examples": 8},
                },
                "runtime": {"threads": 1},
            },
            "evaluate": {"protocol": {"name": "ddal"}, "initialisations": 2, "runtime": {"threads": 1}},
        },
        "grids": [
            {"distill.method": [{"name": "majority"}], "evaluate.protocol": [{"name": "majority"}], **ONE},
            {
                "distill.method": [{"name": "random"}],
                "distill.seed": [0, 1],
                "evaluate.protocol": [{"name": "finetune", "steps": 5}],
                **ONE,
            },
            {
                "distill.method": [
                    {"labels": a, "attention_labels": b} for a in ("hard", "unrestricted") for b in ("none", "cls")
                ],
                "distill.seed": [0, 1],
            },
            {"distill.method": [AL | {"steps": 3}, AL | {"steps": 3, "shots": 3}, AL | {"shots": 3, "batch_shots": 3}]},
            {
                "distill.method": [{"name": "full"}],
                "evaluate.protocol": [{"name": "finetune", "steps": 20}],
                "evaluate.initialisations": [2],
            },
        ],
    }
    whole["grids"] = [{"prepare.task": tasks} | grid for grid in whole["grids"]]  # type: ignore[union-attr]
    really_run(home, "mini", whole)
    small = {"name": "bptt", "student": {"name": "mlp", "width": 8}, "steps": 5}
    learned = small | {"outer": {"steps": 2, "batch_size": 8}, "validation": {"every": 2, "initialisations": 2}}
    recipe = {"name": "vectors", "student": small["student"], "steps": 5}
    on_vectors = whole | {
        "base": {
            "prepare": whole["base"]["prepare"] | {"vectors": "cls"},  # type: ignore[operator]
            "distill": {"runtime": {"threads": 1}},
            "evaluate": {"protocol": recipe, "initialisations": 2},
        },
        "grids": [
            {"prepare.task": tasks, "distill.method": [{"name": "random"}, learned], "distill.method.shots": [1, 2]},
            {"prepare.task": tasks, "distill.method": [{"name": "full"}]},
        ],
    }
    really_run(home, "mini_vectors", on_vectors)
    return home


def really_run(home: Path, name: str, experiment: dict[str, Any]) -> None:
    """All cells of an experiment, through all stages."""
    path = home / "configs" / f"{name}.yaml"
    path.write_text(yaml.safe_dump(experiment))
    carried_out(path, home / "checkpoints")


@pytest.fixture
def executed(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., NotebookNode]:
    """Executes a copy of a notebook with another experiment in its first cell, and all else as it is.

    In this process, where the demo has a kernel of its own.
    """
    monkeypatch.chdir(project / "analysis")
    monkeypatch.delenv("TEXTDD_ROOT", raising=False)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # a shell puts its own there

    def run(name: str, experiment: str = "mini") -> NotebookNode:
        notebook = nbformat.read(project / "analysis" / f"{name}.ipynb", as_version=4)
        for cell in code(notebook):
            cell.outputs = []
        first = code(notebook)[0]
        named = re.sub(r'EXPERIMENT = "\w+"', f'EXPERIMENT = "{experiment}"', first.source)
        whole = re.sub(r"SETTINGS = \[.*?\]", "SETTINGS = []", named, flags=re.DOTALL)
        first.source = re.sub(r'FULL_DATA = "\w*"', 'FULL_DATA = ""', whole)
        assert first.source != code(committed(name))[0].source
        shell = InteractiveShell(config=Config(HistoryManager={"enabled": False}))
        for cell in code(notebook):
            done = shell.run_cell(cell.source)
            done.raise_error()
            data, _ = shell.display_formatter.format(done.result)
            cell.outputs = [NotebookNode(data=data)]
        return notebook

    return run


def shown(cell: NotebookNode) -> str:
    (output,) = cell.outputs
    return str(output.data["text/markdown"])


@pytest.mark.parametrize("name", ["table2", "table3"])
def test_a_table_is_drawn_from_any_experiment(
    executed: Callable[[str], NotebookNode], project: Path, name: str
) -> None:
    first, table, beside, claims, figure = code(executed(name))
    assert "**mini**: 30 cells, of which 30 are read from the store and 0 from the committed runs" in shown(first)
    assert "a SAMPLE of train: 240 of 67,349 rows" in shown(first)
    assert "| full data |" in shown(table)
    assert "Test split read in this experiment" in shown(table)
    assert "| sst2: paper (BERT-base) |" in shown(beside)
    assert "HL, 1 step, 1 shot |" in shown(beside)
    assert "| 81.6 ± 2.4 |" in shown(beside)
    assert "% of full, ours / paper" in shown(beside), "another encoder than the paper's"
    for claim in ("attention labels help", "soft labels help", "the same data", "different data per step"):
        assert shown(claims).count(f"| {claim}") == {"a": 4, "s": 4, "t": 2, "d": 2}[claim[0]]
    assert "image/png" in figure.outputs[0].data
    check_figures(project, "mini.scores" if name == "table2" else "mini.budget")


def test_figures_are_drawn_from_any_experiment(executed: Callable[[str], NotebookNode], project: Path) -> None:
    first, *figures = code(executed("figures"))
    assert "**mini**" in shown(first)
    assert all("image/png" in cell.outputs[0].data for cell in figures)
    kinds = ("budget", "losses", "attention", "tokens", "pareto")
    check_figures(project, *(f"mini.{kind}" for kind in kinds))


def test_the_notebook_of_vectors_draws_score_against_budget(
    executed: Callable[..., NotebookNode], project: Path
) -> None:
    first, budget, table, compute = code(executed("vectors", "mini_vectors"))
    assert "**mini_vectors**: 10 cells, of which 10 are read from the store" in shown(first)
    assert "image/png" in budget.outputs[0].data
    for row in ("random real, MLP, 5 steps, 2 shots", "Full-BPTT (T 5), MLP, 5 steps, 2 shots", "full data, MLP"):
        assert f"| {row}" in shown(table)
    assert "image/png" in compute.outputs[0].data
    check_figures(project, "mini_vectors.budget", "mini_vectors.pareto")


def check_figures(project: Path, *stems: str) -> None:
    for stem in stems:
        png = project / "analysis" / "figures" / f"{stem}.png"
        picture = imread(png)
        channels = picture[..., :3] if picture.ndim == 3 else picture[..., None]
        assert min(picture.shape[:2]) > 400
        assert channels.std() > 0.02, "not blank"
        assert (channels.max(-1) == channels.min(-1)).all(), "grey alone"
        assert png.with_suffix(".pdf").read_bytes().startswith(b"%PDF-")


def test_the_demo_distils_looks_and_uses(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another config in its first cell; what it trains answers every text with a class."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("TEXTDD_ROOT", raising=False)
    notebook = committed("demo")
    assert len(notebook.cells) <= 10
    assert all(cell.outputs and cell.execution_count for cell in code(notebook)), "outputs are kept"
    first, *_, last = code(notebook)
    assert (ROOT / str(re.findall(r'CONFIG = "([\w/.]+)"', first.source)[0])).is_file()
    named = re.sub(r'CONFIG = ".*"', 'CONFIG = "configs/mini.yaml"', first.source)
    first.source = re.sub(r'TASK = ".*"', 'TASK = "sst2"', named)
    assert first.source != code(committed("demo"))[0].source
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(project / "analysis")}}
    ).execute()
    printed = "".join(output.text for output in first.outputs if output.output_type == "stream")
    assert "| full data |" in printed, "all chunks: a busy machine hands a long table over in several"
    answers = last.outputs[-1].data["text/plain"]
    assert re.fullmatch(r"\['\w+', '\w+', '\w+'\]", answers), answers
