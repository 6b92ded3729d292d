"""The status of an experiment for people (a summary, a table, a picture that renews itself) and for scripts (JSON)."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from pipeline.launch.scheduler import clock, ranges
from pipeline.launch.stages import MODULES, StageName
from pipeline.launch.status import Row, State

_COLORS: dict[State, str] = {
    "done": "32",
    "running": "36",
    "pending": "33",
    "failed": "31",
    "partial": "35",
    "missing": "2",
}
_URGENCY: tuple[State, ...] = ("failed", "partial", "running", "pending", "missing", "done")
_SMALL = 30  # rows; of larger grids only what is not done is listed, and what is equal shares a line


@dataclass(frozen=True)
class Left:
    """What a stage still has to do.

    Attributes:
        seconds: by artifact, of those for which anything was measured: what is left of it.
        cells: all that are not done.

    """

    seconds: Mapping[str, float]
    cells: int

    @property
    def hours(self) -> float | None:
        """Of one device each; ``None`` where nothing was measured and something is left."""
        return sum(self.seconds.values()) / 3600 if self.seconds or not self.cells else None

    def __str__(self) -> str:
        hours = "nothing measured yet" if self.hours is None else f"about {self.hours:.1f} hours of computing"
        return f"{self.cells} cells left, {hours}" if self.cells else "nothing left"


def left(rows: Sequence[Row]) -> dict[StageName, Left]:
    """What is left of every stage.

    By the median time of done cells that differ in seeds only, else by what ``python -m pipeline estimate`` predicted
    of the cell, else by the median of the stage.
    """
    measured: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.state == "done" and row.seconds is not None:
            measured[row.kind].append(row.seconds)
            measured[row.stage].append(row.seconds)
    result = {}
    for stage in MODULES:
        seconds = {}
        open_rows = [row for row in rows if row.stage == stage and row.state != "done"]
        for row in open_rows:
            if row.seconds_left is not None:
                seconds[row.name] = row.seconds_left
            elif (whole := _whole(row, measured)) is not None:
                seconds[row.name] = whole * (1 - (row.progress or 0) / (row.total or 1))
        result[stage] = Left(seconds, len(open_rows))
    return result


def _whole(row: Row, measured: Mapping[str, Sequence[float]]) -> float | None:
    """Seconds of all of a cell."""
    if row.kind in measured:
        return statistics.median(measured[row.kind])
    if row.predicted is not None:
        return row.predicted
    return statistics.median(measured[row.stage]) if row.stage in measured else None


def to_json(rows: Sequence[Row]) -> str:
    """For scripts: ``counts`` by stage and state, ``hours_left`` by stage, and every row in ``cells``."""
    counts = {stage: Counter(row.state for row in rows if row.stage == stage) for stage in MODULES}
    hours = {stage: one.hours for stage, one in left(rows).items()}
    whole = {"format": "textdd-status/1", "counts": counts, "hours_left": hours, "cells": [asdict(row) for row in rows]}
    return json.dumps(whole, indent=1, ensure_ascii=False)


def text(
    rows: Sequence[Row], width: int = 100, color: bool = False, everything: bool = False, note: str | None = None
) -> str:
    """For people: a line per stage, then a table; of a large grid only what is not done, equal things on one line.

    Args:
        rows: from :func:`~pipeline.launch.status.rows`.
        width: characters of a line; a log's path may be longer.
        color: with the escape sequences of a terminal.
        everything: every row of a large grid, too.
        note: a last line, such as what the scheduler did not answer.

    """
    lines = [*_summary(rows, color), ""]
    whole = everything or len(rows) <= _SMALL
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if whole or row.state != "done":
            alone = row.name if whole or row.state == "running" else ""
            groups[row.stage, row.state, row.reason, row.why, alone].append(row)
    order = sorted(groups.values(), key=lambda group: 0 if whole else _URGENCY.index(group[0].state))
    longest = max((len(_what(group)) for group in order), default=0)
    for group in order:
        lines += _lines(group, width, min(longest, max(20, width - 46)), color)
    return "\n".join(lines if note is None else [*lines, "", note]).rstrip()


def _summary(rows: Sequence[Row], color: bool) -> Iterator[str]:
    remaining = left(rows)
    for stage in MODULES:
        ours = [row for row in rows if row.stage == stage]
        count = Counter(row.state for row in ours)
        parts = [_painted(f"{count[state]:>5} {state}", state, color) for state in _COLORS if count[state]]
        going = [remaining[stage].seconds.get(row.name) for row in ours if row.state in ("running", "pending")]
        if count["running"] and None not in going:
            seconds = [one for one in going if one is not None]
            parts.append(f"  eta {duration(max(sum(seconds) / count['running'], max(seconds[: count['running']])))}")
        yield f"{stage:<8} " + "".join(parts)


def _lines(group: Sequence[Row], width: int, column: int, color: bool) -> Iterator[str]:
    """The line of equal rows; of failed ones also why, and the log's path on a line of its own."""
    row = group[0]
    cells = ranges(index for one in group for index in one.cells)
    head = f"{cells if len(cells) < 10 else cells[:8] + '…':>9}  {row.stage:<8}  "
    what = f"{_cut(_what(group), column):<{column}}"
    room = max(12, width - len(head) - len(what) - 11)
    name = row.name.partition("/")[2]
    name = name if len(name) <= room else "…" + name[1 - room :]
    yield head + _painted(f"{row.state:<7}", row.state, color) + f"  {what}  {name}"
    if row.state == "failed":
        why = row.why if row.reason is None or row.reason in row.why else f"{row.reason}: {row.why}"
        yield _cut(f"{'':>11}{' '.join(why.split())}", width)
        if row.log is not None:
            yield f"{'':>11}{row.log}"


def _what(group: Sequence[Row]) -> str:
    """What a line says besides names and state."""
    row = group[0]
    if len(group) > 1:
        return f"{len(group)} cells" + (f": {row.why}" if row.why and row.state != "failed" else ", such as")
    unit = "step" if row.stage == "distill" else "initialisation"
    parts = [f"{unit} {row.progress}/{row.total}" if row.total is not None and row.state != "done" else ""]
    if row.state == "running":
        parts += [row.why, "" if row.seconds_left is None else f"{duration(row.seconds_left)} left"]
        parts += ["" if row.slot_seconds is None else f"slot {duration(row.slot_seconds)}", row.node or ""]
    elif row.state == "done":
        parts.append(duration(row.seconds))
    elif row.state == "failed":
        parts += [
            f"attempt {row.attempts}" if row.attempts else "",
            f"job {row.job}" if row.job else "",
            row.node or "",
        ]
    else:
        parts.append(row.why)
    if row.interrupted and row.state != "done" and "interrupted" not in row.why:
        parts.append(f"interrupted {row.interrupted}x")
    return ", ".join(part for part in parts if part)


def _painted(words: str, state: State, color: bool) -> str:
    return f"\x1b[{_COLORS[state]}m{words}\x1b[0m" if color else words


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"


def duration(seconds: float | None) -> str:
    """Seconds as ``45s``, ``12m``, ``2h10m`` or ``3d04h``."""
    if seconds is None:
        return ""
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours >= 48:
        return f"{hours // 24}d{hours % 24:02}h"
    return f"{hours}h{minutes % 60:02}m" if hours else f"{minutes}m" if minutes else f"{seconds:.0f}s"


def watch(refresh: Callable[[], tuple[Sequence[Row], str | None]], seconds: float, out: TextIO | None = None) -> None:
    """Shows the status again and again until nothing runs and nothing is pending, or Ctrl-C.

    A terminal is redrawn; elsewhere, after the first picture, every change of a state is a line.

    Args:
        refresh: rows, and what the scheduler did not answer; called once per picture.
        seconds: between two pictures.
        out: by default standard output.

    """
    out = out or sys.stdout
    before: dict[str, Row] | None = None
    try:
        while True:
            rows, note = refresh()
            if out.isatty():
                out.write(_picture(rows, note, first=before is None))
            elif before is None:
                out.write(text(rows, note=note) + "\n")
            else:
                changed = (row for row in rows if row.name not in before or before[row.name].state != row.state)
                out.writelines(
                    f"{clock(time.time())} {row.name} {row.state} {row.why}".rstrip() + "\n" for row in changed
                )
            out.flush()
            if note is None and not any(row.state in ("running", "pending") for row in rows):
                return
            before = {row.name: row for row in rows}
            time.sleep(seconds)
    except KeyboardInterrupt:
        return


def _picture(rows: Sequence[Row], note: str | None, first: bool) -> str:
    """What redraws a terminal without flicker; what does not fit is counted."""
    width, height = shutil.get_terminal_size()
    lines = text(rows, width, color=True, note=note).splitlines()
    if len(lines) >= height:
        lines[height - 2 :] = [f"… {len(lines) - height + 2} more lines: status without --watch"]
    return ("\x1b[2J" if first else "") + "\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J"
