"""``python -m pipeline prune``: what is superseded, said, asked about and removed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from pipeline.errors import StageError
from pipeline.launch.known import experiments, forget, recorded, remember
from pipeline.launch.prune import find, readable, remove
from pipeline.launch.scheduler import Scheduler
from pipeline.store import Store


def prune(
    configs: Sequence[str],
    store: Store,
    logs: Path,
    cluster_file: str | None,
    *,
    yes: bool,
    settings: Sequence[str] = (),
    without: Sequence[str] = (),
) -> None:
    """Says what is superseded, asks, and removes it; where nobody can be asked, only with ``yes``.

    Args:
        configs: files of experiments to keep.
        store: of the artifacts.
        logs: folder of all logs.
        cluster_file: that is no experiment.
        yes: do not ask.
        settings: of ``configs``; what they make is kept from now on.
        without: names of runs that are to be forgotten.

    Raises:
        InputError: see :func:`~.known.experiments` and :func:`~.known.recorded`.
        StageError: see :func:`remove`; or some of it could not be removed.

    """
    files, scheduler = experiments(configs, cluster_file, settings), Scheduler.here()
    for one in files if settings else ():
        if one.typed.settings:
            remember(one, store)
    runs = recorded(files, store, logs, without)
    found = find([*files, *runs], store, logs, scheduler)
    print(f"kept: what these refer to: {', '.join(one.name for one in files)}")
    for one in runs:
        print(f"kept: what {one.name} refers to, run by: {one.typed.command('run')}  (--forget {one.name} lets it go)")
    print(found)
    if any(item.kind == "artifact" for item in found.items):
        print("to keep those of a run with --set that is not named above: python -m pipeline prune CONFIG --set …")
    if found.items and not yes:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            print("nothing was removed: the same command with --yes removes it")
            return
        if not typer.confirm("remove all of this?"):
            print("nothing was removed")
            return
    for one in runs:  # those that only a submission knows, before it goes
        remember(one, store)
    for name in without:
        forget(name, store)
    if not found.items:
        return
    freed, left = remove(found, [*files, *runs], store, logs, scheduler)
    print(f"{readable(freed)} freed")
    if left:
        raise StageError("not removed: " + "; ".join(left))
