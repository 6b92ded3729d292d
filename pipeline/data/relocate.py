"""The data and the encoder of a set that was made elsewhere: the same content under another path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Model, Prepare
from pipeline.config.data import FileSource, HubSource, JoinedSource, SavedSource, Task
from pipeline.errors import InputError
from pipeline.store import locate

_SPLITS = ("train", "dev", "test")
Digest = Callable[[Path], str]


def relocated(
    config: Prepare, content: Mapping[str, Any], given: Sequence[Path], model: Path | None, digest: Digest
) -> Prepare:
    """The config with paths that exist here.

    Args:
        config: as the set was made with.
        content: what it counted as then (``Store.identity``); files whose digest is not in it are matched by name.
        given: files, or folders to look through, that may hold the data.
        model: where the encoder is; None leaves it where it was.
        digest: SHA-256 of a file's bytes, or of a folder's.

    Raises:
        InputError: a file is not here, what is here has another content, or all data are of the hub.

    """
    hubs = [one.source for one in config.task.parts or (config.task,) if isinstance(one.source, HubSource)]
    if given and len(hubs) == len(config.task.parts or (config.task,)):
        named = " and ".join(hub.id + (f" at {hub.revision}" if hub.revision else "") for hub in hubs)
        raise InputError(f"--data: the data are of the hub, {named}; leave --data out")
    task = _task(config.task, content.get("task", {}).get("source", {}), given, digest)
    return config.model_copy(update={"task": task, "model": _encoder(config.model, model)})


def _task(task: Task, recorded: Mapping[str, Any], given: Sequence[Path], digest: Digest) -> Task:
    source = task.source
    found: FileSource | SavedSource | HubSource | JoinedSource
    if isinstance(source, JoinedSource):
        of_each = recorded.get("tasks", [{}] * len(source.tasks))
        each = zip(source.tasks, of_each, strict=True)
        moved = tuple(_task(one, then.get("source", {}), given, digest) for one, then in each)
        found = source.model_copy(update={"tasks": moved})
    elif isinstance(source, HubSource):
        found = source
    elif isinstance(source, SavedSource):
        found = source.model_copy(update={"folder": _place(source.folder, recorded.get("digest"), given, digest, True)})
    else:
        paths = {name: path for name in _SPLITS if (path := getattr(source, name)) is not None}
        places = {name: _place(path, recorded.get(name), given, digest, False) for name, path in paths.items()}
        found = source.model_copy(update=places)
    return task.model_copy(update={"source": found})


def _encoder(model: Model, given: Path | None) -> Model:
    if given is not None:
        if not given.exists():
            raise InputError(f"--model {given}: no such folder; give the encoder's")
        return model.model_copy(update={"name": str(given.absolute()), "revision": None})
    try:
        locate(model.name)
    except InputError as error:
        raise InputError(f"{error}; or say where the encoder is: --model FOLDER") from error
    return model


def _place(name: str, wanted: str | None, given: Sequence[Path], digest: Digest, folder: bool) -> str:
    """Where the content of ``name`` is: among what was given, or else where it was."""
    own = _existing(name)
    candidates = [*_candidates(given, Path(name).suffix, folder), *([own] if own is not None else [])]
    if wanted is None:
        named = [path for path in candidates if path.name == Path(name).name]
        if named:
            return name if named[0] is own else str(named[0].absolute())
    for path in candidates if wanted is not None else []:
        if digest(path) == wanted:
            return name if path is own else str(path.absolute())
    seen = f"; looked at {', '.join(map(str, candidates[:4]))}" if candidates else ""
    content = f" with sha256 {wanted[:12]}…" if wanted else ""
    raise InputError(f"{name}: no such data{content} here{seen}; say where they are: --data FILE_OR_FOLDER")


def _existing(name: str) -> Path | None:
    try:
        return locate(name)
    except InputError:
        return None


def _candidates(given: Sequence[Path], suffix: str, folder: bool) -> Iterator[Path]:
    for path in given:
        if not path.exists():
            raise InputError(f"--data {path}: no such file or folder")
        if folder:
            yield from (each for each in (path, *sorted(path.rglob("*"))) if each.is_dir())
        elif path.is_dir():
            yield from sorted(path.rglob(f"*{suffix}"))
        else:
            yield path
