"""Where an experiment's tables are, and as of when: known to those who write them and to those who only look."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.store.atomic import replacing

OUT = Path("analysis/results")  # by default


def last(name: str, out: Path) -> Path:
    """The file of the experiment ``name`` below ``out`` that stage 4 writes last: see :func:`write_last`."""
    return out / f"{name}.csv"


def write_last(path: Path, text: str, began: float) -> None:
    """Writes a file whose time is that at which the store was first looked at, in seconds since 1970.

    It stands for the others, all written before it: results that are newer than it came too late for these tables.
    """
    with replacing(path) as aside:
        aside.write_text(text)
        os.utime(aside, (began, began))
