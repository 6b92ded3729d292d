"""What cells are expected to take, by the name of the artifact: ``probes/predictions.json``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.store.atomic import read_json, write_json


@dataclass(frozen=True)
class Prediction:
    """What one cell takes: wall seconds, processor seconds of all threads, main memory and GPU memory (MiB)."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    gpu_peak_mb: float | None = None


def predictions(root: Path) -> dict[str, Prediction]:
    """All that were made, by ``<stage>/<folder>``."""
    return {name: Prediction(**facts) for name, facts in (read_json(_place(root)) or {}).items()}


def remember(root: Path, found: Mapping[str, Prediction], gone: Collection[str] = ()) -> None:
    """Adds predictions; newer ones replace older ones, and those of ``gone`` are forgotten.

    Raises:
        StageError: the disk is full.

    """
    kept = {name: one for name, one in predictions(root).items() if name not in gone} | dict(found)
    write_json(_place(root), {name: asdict(prediction) for name, prediction in kept.items()})


def _place(root: Path) -> Path:
    return root / "probes" / "predictions.json"
