"""Tests against a real SLURM: ``make test-slurm``. A plain ``pytest`` leaves them out, and says so.

With ``SLURM_TEST_ACCT=none`` there is no accounting, as on some real clusters; by default there is (``db``).
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import pytest
import yaml

from tests.slurm.rig import Slurm, running

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
_COSTS = re.compile(r"seconds| s$|peak_mb|^(attempts|threads|cpu|gpu)$")  # columns that another run has otherwise


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("slurm")


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A running SLURM that every command of this process finds; each test finds it idle."""
    accounting = os.environ.get("SLURM_TEST_ACCT", "db")
    assert accounting in ("db", "none"), f"SLURM_TEST_ACCT={accounting}: db or none"
    with running(accounting) as started, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("SLURM_JOB", "SBATCH_"))]:
            patch.delenv(name)
        for name, value in started.environment.items():
            patch.setenv(name, value)
        yield started


@pytest.fixture(autouse=True)
def _nothing_left(slurm: Slurm) -> Iterator[None]:
    yield
    slurm.clean()


def made(root: Path, out: Path | None = None) -> dict[str, Any]:
    """What a run has made, for comparison with another one's: everything but times and who did it.

    Args:
        root: folder of the artifacts.
        out: folder of the tables.

    """
    found: dict[str, Any] = {}
    for folder in sorted(root.glob("*/*/")):
        # litter of a process that was killed would show here
        names = {path.name for path in folder.iterdir()} - {"attempts"}  # and a check may have been made or not
        found[folder.relative_to(root).as_posix()] = sorted(n for n in names if not n.startswith("gradient_check"))
    for path in sorted([*root.glob("*/*/*"), *root.glob("prepare/*/model/*")]):
        name = path.relative_to(root).as_posix()
        if path.name in ("manifest.json", "config.json"):
            found[name] = json.loads(path.read_text())
        elif path.suffix == ".csv":
            found[name] = _timeless(path)
        elif path.suffix == ".safetensors":
            found[name] = path.read_bytes()
        elif path.name == "distilled.h5":
            with h5py.File(path) as file:
                found |= {f"{name} {key}": (value.shape, value[()].tobytes()) for key, value in file.items()}
                about = json.loads(file.attrs["about"])
                about.pop("provenance")
                found |= {f"{name} about": about, f"{name} recipe": file.attrs["recipe"]}
        elif path.name == "done.json":
            found[name] = json.loads(path.read_text())["identity"]
    for path in sorted(out.glob("*.csv")) if out is not None else ():
        found[path.name] = _timeless(path)
    return found


def _timeless(path: Path) -> list[list[str | None]]:
    with open(path, newline="") as file:
        rows = csv.DictReader(file)
        kept = [name for name in rows.fieldnames or () if not _COSTS.search(name)]
        return [kept, *([row[name] for name in kept] for row in rows)]


@dataclass(frozen=True)
class Tiny:
    """A small experiment as a user has it: two YAML files and the command line.

    Attributes:
        folder: where its user types: ``configs/cluster.yaml`` is found from there, tables are written below it.
        config: the experiment.
        cluster: its ``cluster.yaml``.
        root: folder of the artifacts.
        logs: folder of the logs.
        environment: what a login shell has set.

    """

    folder: Path
    config: Path
    cluster: Path
    root: Path
    logs: Path
    environment: dict[str, str]

    def start(self, *words: object, **options: Any) -> subprocess.Popen[str]:
        """``python -m pipeline WORDS`` on the login node, running."""
        command = [sys.executable, "-m", "pipeline", *map(str, words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": self.folder}
        environment = {**os.environ, **self.environment}
        return subprocess.Popen(command, env=environment, **pipes | options)  # type: ignore[call-overload,no-any-return]

    def pipeline(self, *words: object, status: int = 0, **options: Any) -> str:
        """The same to its end; what it printed. A status other than ``status`` fails with what it said."""
        process = self.start(*words, **options)
        out, said = process.communicate()
        assert process.returncode == status, f"python -m pipeline {words}: {process.returncode}\n{out}{said}"
        return out


@pytest.fixture
def tiny(tmp_path: Path, experiment: Callable[..., Path], slurm: Slurm) -> Callable[..., Tiny]:
    """Writes a small experiment of three outer steps and its ``cluster.yaml``.

    ``cluster`` is merged into the latter stage by stage; everything else goes to ``experiment`` (tests/conftest.py).
    """

    def write(cluster: dict[str, Any] | None = None, **sections: Any) -> Tiny:
        method = {"outer": {"steps": 3, "batch_size": 8}} | sections.pop("method", {})
        small = {"minutes": 5, "gpus": 0, "cpus": 1, "memory_gb": 3, "at_once": 3}
        given = dict(cluster or {})
        stages = {"distill": small, "evaluate": small, "aggregate": {"minutes": 5, "memory_gb": 3}}
        for stage, more in given.pop("slurm", {}).items():
            stages[stage] = stages.get(stage, {}) | more
        root, logs = tmp_path / "artifacts", tmp_path / "logs"
        path = tmp_path / "configs" / "cluster.yaml"
        path.parent.mkdir(exist_ok=True)
        whole = {"root": str(root), "logs": str(logs), "python": sys.executable, "slurm": stages} | given
        path.write_text(yaml.safe_dump(whole))
        environment = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "TEXTDD_ROOT": str(root)}
        return Tiny(tmp_path, experiment(method=method, **sections), path, root, logs, environment)

    return write
