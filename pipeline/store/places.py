"""Where named things lie, and what they count as: files by their content, hub ids by their recorded revision."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.config.data import FileSource, HubSource, Model, SavedSource
from pipeline.config.methods import LocalFile
from pipeline.config.schema import Frozen, canonical
from pipeline.errors import InputError, StageError
from pipeline.store.atomic import read_json, write_json


def locate(name: str) -> Path | None:
    """The local path that ``name`` means, or ``None`` for a hub id.

    ``package:NAME/path`` is a path inside an installed package; a name that starts with ``.``, ``/`` or ``~``, or that
    exists, is a path.

    Raises:
        InputError: the package is not installed, or there is no such path.

    """
    if name.startswith("package:"):
        package, _, inside = name.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise InputError(
                f"{name}: package '{package}' is not installed; type: pip install {package.replace('_', '-')}"
            )
        path = Path(spec.submodule_search_locations[0]) / inside
    else:
        path = Path(name).expanduser()
        if not path.exists() and not name.startswith((".", "/", "~")) and name.count("/") <= 1 and not path.suffix:
            return None
    if not path.exists():
        raise InputError(f"{name}: no such file or folder; give an existing path, package:NAME/path, or a hub id")
    return path


class Places:
    """Resolves the references of configs, remembering digests and hub revisions in the store's root."""

    def __init__(self, root: Path) -> None:
        self._digests = root / ".digests.json"
        self._revisions = root / "revisions.json"
        self._known: dict[str, Any] = read_json(self._digests) or {}

    def resolve(self, config: Frozen) -> Any:
        """What ``config`` counts as in an address, or ``None`` where it counts as itself (see ``schema.canonical``).

        A hub reference whose revision was never recorded counts as unresolved: see :meth:`unresolved`.

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
            return place | ({} if config.pretrained else {"pretrained": False})
        return None

    def revision(self, kind: str, name: str, asked: str | None) -> str | None:
        """The commit that a hub reference means: the one asked for by hash, or the one recorded, else ``None``."""
        if asked and len(asked) == 40 and set(asked) <= set("0123456789abcdef"):
            return asked
        recorded = (read_json(self._revisions) or {}).get(_hub_key(kind, name, asked))
        return recorded["revision"] if recorded else None

    def record(self, kind: str, name: str, asked: str | None, revision: str) -> None:
        """Remembers the commit that a hub reference was resolved to; every later run uses it."""
        known = read_json(self._revisions) or {}
        entry = {"revision": revision, "resolved": datetime.now(UTC).isoformat(timespec="seconds")}
        write_json(self._revisions, known | {_hub_key(kind, name, asked): entry})

    def digest(self, path: Path) -> str:
        """SHA-256 of a file's bytes, or of the names and digests of all files below a folder."""
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
            lines = [f"{file.relative_to(path).as_posix()} {self.digest(file)}" for file in files]
            return hashlib.sha256("\n".join(lines).encode()).hexdigest()
        status = path.stat()
        key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
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
            raise InputError(f"{name}: no such file or folder")
        return self.digest(path)


def _hub_key(kind: str, name: str, asked: str | None) -> str:
    return f"{kind}:{name}@{asked or 'main'}"
