"""Progress bars: what runs, how far it is, how it goes, how long it still takes."""

from __future__ import annotations

import sys

from tqdm import tqdm


def bar(total: int, what: str, unit: str, done: int = 0) -> tqdm[None]:
    """A bar on standard error; where that is not a terminal it is redrawn twice a minute at most."""
    return tqdm(
        total=total,
        initial=done,
        desc=what,
        unit=unit,
        mininterval=0.5 if sys.stderr.isatty() else 30.0,
        dynamic_ncols=sys.stderr.isatty(),
        smoothing=0.05,
    )
