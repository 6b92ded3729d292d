"""Progress: what runs, how far it is, how it goes, how long it still takes; a bar, or lines in a batch log."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

_INTERVAL = 30.0  # seconds between two lines
_EARLY = 2.0  # until the first line with a pace: whoever has just submitted a job wants to know whether it works
_LINE = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class _Lines(tqdm):  # type: ignore[type-arg]  # at run time it takes no parameter
    """Lines for a file: where it begins, an early one, one per interval, and the last state however it ends."""

    _written: float | None = None  # the state that the last line had

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Writes a line, unless nothing is new."""
        if self.n != self._written:
            self.mininterval = _EARLY if self._written is None else _INTERVAL
            self._written = self.n
            self.fp.write(f"{self}\n")
            self.fp.flush()

    def close(self) -> None:
        """Writes the last state."""
        if not self.disable:
            self.display()
        self.disable = True  # what else tqdm does is to clean up a terminal


def bar(total: int, what: str, unit: str, done: int = 0, fractions: bool = False, shown: bool = True) -> tqdm[Any]:
    """A bar on standard error; where that is not a terminal, a line now and then and no carriage returns.

    ``fractions`` shows parts of a unit that are done; one that is not ``shown`` does nothing at all.
    """
    facts: dict[str, Any] = {"total": total, "initial": done, "desc": what, "unit": unit, "unit_scale": fractions}
    if sys.stderr.isatty():
        return tqdm(**facts, mininterval=0.5, dynamic_ncols=True, smoothing=0.05, disable=not shown)
    # miniters=0: look at the clock at every step, whatever the pace was. smoothing=0: the pace of the whole run, of
    # which validations are a part.
    return _Lines(**facts, miniters=0, bar_format=_LINE, smoothing=0, disable=not shown)


def quiet_libraries() -> None:
    """Leaves the terminal to the stages' own bars: no loading bars and no load reports of other libraries."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
