"""The house keeps its shape: which room may know of which, and that all of it is installed."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def test_arrows_point_down_only() -> None:
    done = contract(ROOT)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_an_arrow_that_points_up_is_found(tmp_path: Path) -> None:
    """The contract can fail: the same house with one import too many."""
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    wrong = tmp_path / "pipeline" / "store" / "upwards.py"
    wrong.write_text("from pipeline.methods import make\n\n__all__ = ['make']\n")
    done = contract(tmp_path)
    assert done.returncode == 1
    assert "pipeline.store.upwards -> pipeline.methods" in done.stdout


def test_every_folder_with_code_is_installed() -> None:
    """A folder without ``__init__.py`` can be imported here and is missing in a wheel."""
    folders = {file.parent for file in (ROOT / "pipeline").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


# what is imported -> what is installed, where names differ
_PROJECTS = {"PIL": "pillow", "mlflow": "mlflow-skinny", "pydantic_core": "pydantic", "sklearn": "scikit-learn",
             "yaml": "pyyaml"}  # fmt: skip


def declared() -> dict[str, list[Requirement]]:
    """What pyproject.toml asks for, by the name of the extra; what everybody gets under the empty name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = {"": project["dependencies"], **project["optional-dependencies"]}
    return {name: [Requirement(line) for line in lines] for name, lines in lists.items()}


def test_what_is_imported_is_declared() -> None:
    """And nothing else, in what everybody installs; extras may be for libraries that others load."""
    found = set()
    for file in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").partition(".")[0])
    imported = {canonicalize_name(_PROJECTS.get(name, name)) for name in found - sys.stdlib_module_names - {"pipeline"}}
    named = {extra: {canonicalize_name(one.name) for one in asked} for extra, asked in declared().items()}
    assert imported - set.union(*named.values()) == set()
    assert named[""] - imported == set()


def test_the_exact_versions_are_such_as_are_allowed() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    exact = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    exact = {canonicalize_name(name): version for name, version in exact.items()}
    for extra, asked in declared().items():
        for one in asked:
            version = exact.get(canonicalize_name(one.name))
            assert version is not None or extra == "nf4" or one.name == "textdd", f"{one} is not in constraints.txt"
            assert version is None or one.specifier.contains(version), f"{one}, but constraints.txt has {version}"


def test_errors_name_extras_that_there_are() -> None:
    texts = "\n".join(file.read_text() for file in (ROOT / "pipeline").rglob("*.py"))
    named = {name for names in re.findall(r"pip install 'textdd\[([a-z0-9,]+)\]", texts) for name in names.split(",")}
    assert "nf4" in named
    assert named <= declared().keys()


def contract(root: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "lint-imports"
    return subprocess.run([program, "--no-cache"], cwd=root, capture_output=True, text=True, check=False)
