"""The house keeps its shape: which room may know of which, and that all of it is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

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


def contract(root: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "lint-imports"
    return subprocess.run([program, "--no-cache"], cwd=root, capture_output=True, text=True, check=False)
