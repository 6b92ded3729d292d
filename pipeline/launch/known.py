"""Experiments whose artifacts somebody wants: those in ``configs/``, those given, and whatever was run.

A run with ``--set`` is an experiment that no file has. Every run is therefore written down below the store's root, in
``experiments/<name>.json``, with its whole grid; one that was only submitted, by an earlier version, is found there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from pydantic import ValidationError

from pipeline.config import Experiment, load
from pipeline.config.cluster_file import DEFAULT_PATH
from pipeline.errors import InputError
from pipeline.launch.submission import Submission
from pipeline.store import Store
from pipeline.store.atomic import read_json, write_text


def experiments(
    configs: Iterable[str], cluster_file: str | None = None, settings: Collection[str] = ()
) -> list[Experiment]:
    """The experiments of files: those given, and ``configs/*.yaml`` but for clusters' files.

    Args:
        configs: paths.
        cluster_file: one that is no experiment either.
        settings: of the given ones, as ``--set``; without them they are kept, too.

    Raises:
        InputError: one of them cannot be read, or there is none, by which everything would be superseded.

    """
    clusters = {path.resolve() for path in (DEFAULT_PATH, Path(cluster_file or DEFAULT_PATH))}
    known = [path for path in sorted(DEFAULT_PATH.parent.glob("*.yaml")) if not path.name.startswith("cluster")]
    files = [path for path in known if path.resolve() not in clusters]
    given = [path for path in map(Path, configs) if path.resolve() not in clusters]
    if not files and not given:
        raise InputError(
            "no experiment is here (configs/*.yaml), so everything would be superseded; "
            "go to the folder of the repository, or give the experiments whose artifacts are to be kept"
        )
    if settings and not given:
        raise InputError("--set: of which experiment? type: python -m pipeline prune CONFIG --set …")
    return [*map(load, [*files, *given]), *(load(path, settings) for path in given if settings)]


def remember(experiment: Experiment, store: Store) -> None:
    """Writes down that an experiment was run, so that its artifacts are wanted until somebody says otherwise."""
    typed = experiment.typed.model_copy(update={"only": ()})
    text = experiment.model_copy(update={"only": None, "typed": typed}).model_dump_json()
    path = _record(store, experiment.name)
    if not path.exists() or path.read_text() != text:  # every element of an array comes by here
        write_text(path, text)


def forget(name: str, store: Store) -> None:
    """Takes back what :func:`remember` wrote."""
    _record(store, name).unlink(missing_ok=True)


def recorded(given: Iterable[Experiment], store: Store, logs: Path, without: Collection[str] = ()) -> list[Experiment]:
    """What was run besides ``given``, as it was when it was run last.

    Args:
        given: whose files say what they want by now, whatever was run.
        store: of the artifacts.
        logs: folder of all logs, with the submissions.
        without: names of runs that are to be forgotten.

    Raises:
        InputError: one was written by another version of the code, or there is none of a name in ``without``.

    """
    paths = {}
    for table in sorted(logs.glob("*/submissions/*/submission.json")):  # the oldest first
        if (table.parent / "experiment.json").exists() and Submission.read(table.parent).root == store.root.resolve():
            paths[table.parents[2].name] = table.parent / "experiment.json"
    paths |= {path.stem: path for path in (store.root / "experiments").glob("*.json")}
    for one in given:
        paths.pop(one.name, None)
    if unknown := [name for name in without if name not in paths]:
        raise InputError(f"--forget {unknown[0]}: no such run is recorded; recorded: {', '.join(sorted(paths))}")
    return [_read(name, path) for name, path in sorted(paths.items()) if name not in without]


def _record(store: Store, name: str) -> Path:
    return store.root / "experiments" / f"{name}.json"


def _read(name: str, path: Path) -> Experiment:
    try:
        return Experiment.model_validate(read_json(path), strict=False)
    except ValidationError as error:
        raise InputError(
            f"{path}: this run was recorded by another version of the code, so that its artifacts are not known; run "
            f"it again, or let them go: python -m pipeline prune --forget {name}"
        ) from error
