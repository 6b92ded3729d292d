"""Extension in one place each: the examples of the pages are applied to a copy of the package, and run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
METHODS, RECIPES = "pipeline/methods/README.md", "pipeline/evaluation/README.md"
EXAMPLES = {  # of a page, the n-th
    "a method": (METHODS, 0),
    "a student on vectors": (METHODS, 1),
    "a recipe": (RECIPES, 0),
}


def example(page: str, number: int) -> str:
    found = re.findall(r"^```diff\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return str(found[number])


@pytest.mark.parametrize(("page", "number"), EXAMPLES.values(), ids=EXAMPLES)
def test_an_example_is_short(page: str, number: int) -> None:
    lines = example(page, number).splitlines()
    added = [line for line in lines if line.startswith("+") and not line.startswith("+++")]
    assert 15 < len(added) <= 40


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as the examples leave it."""
    home = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "pipeline", home / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for what, (page, number) in EXAMPLES.items():
        done = subprocess.run(
            ["git", "apply", "--unidiff-zero"], cwd=home, input=example(page, number), text=True, capture_output=True
        )
        told = f"the lines around the example of {what} in {page} have changed; write the example anew:\n{done.stderr}"
        assert done.returncode == 0, told
    return home


@pytest.mark.parametrize("words", [["check"], ["format", "--check"]], ids=" ".join)
def test_the_examples_pass_ruff(extended: Path, words: list[str]) -> None:
    """Who begins with a copy of them starts from a clean ``make lint``; mypy would take a minute of the suite."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *words, "--no-cache", "--config", str(ROOT / "pyproject.toml"), "pipeline"],
        cwd=extended, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


IN_ONE_PROCESS = """
import sys
from pathlib import Path
from typer.testing import CliRunner
from pipeline.__main__ import app
from pipeline.config import load
from pipeline.probe import probe_distill
from pipeline.store import Store

def typed(*words):
    found = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert found.exit_code == 0, found.output
    print(found.output)

typed("run", "mine.yaml", "--no-check")
cell = next(c.source for c in load("mine.yaml").cells if c.source.method.name == "average")
store = Store()
probe_distill(cell, store.cell(cell.source).folder, Path("slice.h5"))
typed("card", str(store.cell(cell).folder / "distilled.h5"), "--license", "mit", "--no-audit")
typed("sbatch", "--cluster-file", "site.yaml")
typed("run", "vectors.yaml", "--no-check")
"""


def test_a_task_a_method_a_recipe_and_a_cluster_of_ones_own(
    extended: Path, encoder_folder: Callable[[str], Path], corpus_file: Path
) -> None:
    """A task in YAML; the new method by an old and a new recipe: tables, a slice, a card; a new student in a table."""
    source = {"kind": "files", "train": str(corpus_file)}
    experiment = {
        "base": {
            "prepare": {
                "task": {"name": "mine", "source": source, "text": "text"},
                **{"model": str(encoder_folder("bert")), "dev": 40, "test": 40},
            },
            "distill": {"method": {"name": "average"}, "runtime": {"threads": 1}},
            "evaluate": {"initialisations": 2, "runtime": {"threads": 1}},
        },
        "seeds": 2,
        "grids": [
            {"distill.method": [{"name": "random"}, {"sentences": 4}], "evaluate.protocol": [{"name": "sign"}]},
            {"distill.method.shots": [2], "evaluate.protocol": [{"name": "finetune", "steps": 5}]},
        ],
    }
    (extended / "mine.yaml").write_text(yaml.safe_dump(experiment))
    linear = {"name": "linear", "dropout": 0.1}
    bptt = {"name": "bptt", "student": linear, "steps": 3, "outer": {"steps": 2, "batch_size": 8}}
    on_vectors = {
        "base": {
            "prepare": experiment["base"]["prepare"] | {"vectors": "mean"},
            "distill": {"runtime": {"threads": 1}},
            "evaluate": {"protocol": {"name": "vectors", "steps": 5}, "initialisations": 2, "runtime": {"threads": 1}},
        },
        "grids": [
            {"distill.method": [{"name": "random"}], "evaluate.protocol": [{"student": linear}]},
            {"distill.method": [bptt]},
        ],
    }
    (extended / "vectors.yaml").write_text(yaml.safe_dump(on_vectors))
    site = {"slurm": {"all": {"partition": "rabbit", "account": "mine"}, "distill": {"minutes": 7, "gpus": 2}}}
    (extended / "site.yaml").write_text(yaml.safe_dump(site))

    environment = os.environ | {"PYTHONPATH": str(extended), "OMP_NUM_THREADS": "1"}
    environment.pop("TEXTDD_ROOT", None)
    found = subprocess.run(
        [sys.executable, "-c", IN_ONE_PROCESS], cwd=extended, env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr

    for words in ("| average, 1 shot |", "| average, 2 shots |", "sign (revision 1: steps 20, size 0.0001)"):
        assert words in found.stdout
    for words in ("| random real, linear, 5 steps |", "vectors (revision 1: linear, dropout 0.1;"):
        assert words in found.stdout
    results = pd.read_csv(extended / "analysis" / "results" / "mine.csv")
    assert set(results["n_init"]) == {2}
    assert results.loc[results["metric"] == "accuracy", "mean"].between(0, 1).all()
    assert (extended / "slice.h5").is_file()
    (card,) = (extended / "checkpoints" / "distill").glob("*average*/distilled.md")
    assert "`average`: see the method's configuration" in card.read_text()
    script = (extended / "sbatch" / "2_distill.sbatch").read_text()
    for line in ("--partition=rabbit", "--account=mine", "--time=7", "--gpus"):
        assert line in script
