"""Where named things lie, and what they count as: files by their content, hub ids by their recorded revision."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import SoftFileLease, Timeout

from pipeline import stopping
from pipeline.config.data import FileSource, HubSource, Model, SavedSource
from pipeline.config.files import LocalFile
from pipeline.config.schema import Frozen, canonical
from pipeline.errors import InputError, StageError
from pipeline.store.atomic import read_json, write_json

_LOCK_SECONDS = 30.0  # after which the lock of a process that died is taken over
_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow")
_ARCHIVES = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz")
_WEIGHTS = (".h5", ".hdf5", ".npz", ".pt", ".pth", ".ckpt", ".safetensors")
_FILES = frozenset((*_TABLES, *_ARCHIVES, *_WEIGHTS))


def locate(name: str) -> Path | None:
    """The local path that ``name`` means, or ``None`` for a hub id.

    ``package:NAME/path`` is a path inside an installed package. A name is a path if it exists, starts with ``.``, ``/``
    or ``~``, has more than one slash, or ends as files of rows, archives and weights do (``.csv``, ``.zip``, ``.h5``):
    any other ending is a version, as in ``facebook/opt-2.7b``.

    Raises:
        InputError: the package is not installed, or there is no such path.

    """
    if name.startswith("package:"):
        package, _, inside = name.removeprefix("package:").partition("/")
        folder = _package_folder(package)
        if folder is None:
            raise InputError(
                f"{name}: package '{package}' is not installed; type: pip install {package.replace('_', '-')}"
            )
        path = folder / inside
    else:
        path = Path(name).expanduser()
        written_as_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or path.suffix.lower() in _FILES
        if not written_as_path and not path.exists():
            return None
    if not path.exists():
        raise _missing(name, "an existing path, package:NAME/path, or a hub id")
    return path


class Places:
    """Resolves the references of configs, remembering digests and hub revisions in the store's root."""

    def __init__(self, root: Path) -> None:
        self._digests = root / ".digests.json"
        self._revisions = root / "revisions.json"
        self._known: dict[str, Any] = read_json(self._digests) or {}

    def resolve(self, config: Frozen) -> Any:
        """What ``config`` counts as in an address, or ``None`` where it counts as itself (see ``schema.canonical``).

        A hub reference whose revision was never recorded counts with none: it is recorded before anything is made.

        Raises:
            InputError: a local path does not exist.

        """
        if isinstance(config, HubSource):
            revision = self.revision("dataset", config.id, config.revision)
            return {
                "kind": "hub",
                "id": config.id,
                "subset": config.subset,
                "revision": revision,
                "splits": canonical(config.splits),
            }
        if isinstance(config, FileSource):
            splits = {"train": config.train, "dev": config.dev, "test": config.test}
            return {"kind": "files"} | {split: self._local(name) for split, name in splits.items() if name}
        if isinstance(config, SavedSource):
            return {"kind": "saved", "digest": self._local(config.folder), "splits": canonical(config.splits)}
        if isinstance(config, LocalFile):
            return {"digest": self._local(config.path)}
        if isinstance(config, Model):
            path = locate(config.name)
            if path is None:
                place = {"id": config.name, "revision": self.revision("model", config.name, config.revision)}
            else:
                place = {"digest": self.digest(path)}
            drawn = {} if config.pretrained else {"pretrained": False}
            return place | drawn | ({} if config.head == "classifier" else {"head": config.head})
        return None

    def revision(self, kind: str, name: str, asked: str | None) -> str | None:
        """The commit that a hub reference means: the one asked for by hash, or the one recorded, else ``None``."""
        if asked and len(asked) == 40 and set(asked) <= set("0123456789abcdef"):
            return asked
        recorded = (read_json(self._revisions) or {}).get(_hub_key(kind, name, asked))
        return recorded["revision"] if recorded else None

    def record(self, kind: str, name: str, asked: str | None, revision: str) -> str:
        """Remembers the commit that a hub reference was resolved to; every later run uses it.

        Returns:
            The commit that counts: another process may have recorded one just before.

        Raises:
            StageError: the disk is full, or the file is locked for a minute.

        """
        key = _hub_key(kind, name, asked)
        entry = {"revision": revision, "resolved": datetime.now(UTC).isoformat(timespec="seconds")}
        self._revisions.parent.mkdir(parents=True, exist_ok=True)
        lock = SoftFileLease(self._revisions.with_suffix(".lock"), lease_duration=_LOCK_SECONDS)
        with stopping.polled():
            try:
                lock.acquire(timeout=2 * _LOCK_SECONDS)
            except Timeout:
                raise StageError(f"{lock.lock_file}: held by another process for a minute; run again") from None
            try:
                known = read_json(self._revisions) or {}
                if key not in known:
                    write_json(self._revisions, known | {key: entry})
                return str(known.get(key, entry)["revision"])
            finally:
                lock.release()

    def digest(self, path: Path) -> str:
        """SHA-256 of a file's bytes, or of the names and digests of all files below a folder."""
        place = os.path.realpath(path)
        if os.path.isdir(place):
            lines = [f"{name} {self._of_file(f'{place}/{name}')}" for name in _files_below(place)]
            return hashlib.sha256("\n".join(lines).encode()).hexdigest()
        return self._of_file(place)

    def _of_file(self, path: str) -> str:
        status = os.stat(path)
        key = f"{path} {status.st_size} {status.st_mtime_ns}"
        if key not in self._known:
            with open(path, "rb") as file:
                self._known[key] = hashlib.file_digest(file, "sha256").hexdigest()
            self._remember()
        return str(self._known[key])

    def _remember(self) -> None:
        """Saves the digests where there is a store already: looking (``status``, ``--dry-run``) makes none."""
        if self._digests.parent.is_dir():
            with contextlib.suppress(OSError, StageError):  # only a cache: a read-only or full store is no obstacle
                write_json(self._digests, self._known)

    def _local(self, name: str) -> str:
        path = locate(name)
        if path is None:
            raise _missing(name, "an existing path, or package:NAME/path")
        return self.digest(path)


def _missing(name: str, allowed: str) -> InputError:
    whence = "" if Path(name).expanduser().is_absolute() else f", seen from {Path.cwd()}"
    return InputError(f"{name}: no such file or folder{whence}; give {allowed}")


def _files_below(folder: str) -> list[str]:
    """Relative paths of all files, in the order of their parts; plain strings, as this is asked for every cell."""
    found = []
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        inside = at[len(folder) + 1 :]
        found += [f"{inside}/{name}" if inside else name for name in files]
    return sorted((name for name in found if os.path.isfile(f"{folder}/{name}")), key=lambda name: name.split("/"))


@functools.cache
def _found_package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(name)  # which is not remembered: it may be installed later
    return Path(spec.submodule_search_locations[0])


def _package_folder(name: str) -> Path | None:
    try:
        return _found_package(name)
    except ModuleNotFoundError:
        return None


def _hub_key(kind: str, name: str, asked: str | None) -> str:
    return f"{kind}:{name}@{asked or 'main'}"
