"""What the other ranks of an attempt used: a record of each beside the attempt's, ``attempts/003.rank1.json``.

The first rank holds the cell and writes the attempt itself; without these a cell on four GPUs would cost one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from pipeline.errors import StageError
from pipeline.store.atomic import read_json, write_json
from pipeline.store.usage import Beat, Meter, Usage


@contextmanager
def aiding(folder: Path, rank: int) -> Iterator[None]:
    """Writes down what this process uses inside, as the ``rank``-th of the attempt that runs in ``folder``."""
    names = [path.stem for path in (folder / "attempts").glob("*.json") if path.stem.isdigit()]
    place = folder / "attempts" / f"{max(names, key=int)}.rank{rank}.json" if names else None
    meter = Meter()

    def note() -> None:
        with suppress(OSError, StageError):  # the first rank finds a full disk, and says so
            if place is not None:
                write_json(place, asdict(meter.read()))

    beat = Beat(note)
    try:
        yield
    finally:
        beat.stop()
        note()


def aides_of(folder: Path) -> list[Usage]:
    """What other ranks than the first used, in all attempts at the cell in ``folder``."""
    found = sorted(path for path in (folder / "attempts").glob("*.json") if re.fullmatch(r"\d+\.rank\d+", path.stem))
    return [Usage(**record) for record in map(read_json, found) if record is not None]
