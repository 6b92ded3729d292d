"""Progress bars: what runs, how far it is, how it goes, how long it still takes."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def bar(total: int, what: str, unit: str, done: int = 0, fractions: bool = False, shown: bool = True) -> tqdm[Any]:
    """A bar on standard error; where that is not a terminal it is redrawn twice a minute at most.

    ``fractions`` shows parts of a unit that are done; a bar that is not ``shown`` only counts.
    """
    return tqdm(
        total=total,
        initial=done,
        desc=what,
        unit=unit,
        mininterval=0.5 if sys.stderr.isatty() else 30.0,
        dynamic_ncols=sys.stderr.isatty(),
        smoothing=0.05,
        unit_scale=fractions,
        disable=not shown,
    )


def quiet_libraries() -> None:
    """Leaves the terminal to the stages' own bars: no loading bars and no load reports of other libraries."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
