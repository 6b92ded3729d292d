"""What an artifact records of where it came from."""

from __future__ import annotations

import functools
import platform
import socket
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.store.atomic import read_json

LIBRARIES = ("torch", "transformers", "datasets", "tokenizers", "h5py", "numpy", "scikit-learn", "scipy")


def provenance() -> dict[str, Any]:
    """Git revision and whether the tree was changed, library versions, machine, time."""
    return {
        **code(),
        "versions": {name: _version(name) for name in LIBRARIES} | {"python": platform.python_version()},
        "host": socket.gethostname(),
        "time": now(),
    }


def now() -> str:
    """The time in UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def code() -> dict[str, Any]:
    """Git revision and whether the tree was changed; of a copy of the package, those of what it was copied from."""
    root = Path(__file__).resolve().parents[2]
    copied = read_json(root / "provenance.json")
    if copied is not None:
        return {key: copied[key] for key in ("git_revision", "git_dirty")}
    revision = _git(root, "rev-parse", "HEAD")
    dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no")) if revision else None
    return {"git_revision": revision, "git_dirty": dirty}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@functools.cache  # a search through everything that is installed
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
