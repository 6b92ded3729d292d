"""One folder per artifact, addressed by its config; one process at a time works on it.

``checkpoints/<stage>/<slug>-<8 hex>/``. The slug is for eyes; the hex is the identity, the SHA-256 of the config's
canonical form. Beside the artifact lie ``config.json`` (the full config, compared on every hit), ``done.json`` once it
is finished, or ``failed.json`` with the last attempt's reason.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import SoftFileLease, Timeout
from pydantic import TypeAdapter

from pipeline.config import Distill, Evaluate, Model, Prepare
from pipeline.config.data import FileSource, HubSource, SavedSource
from pipeline.config.methods import LocalFile
from pipeline.config.schema import Frozen, canonical, introduced_value, is_runtime
from pipeline.errors import InputError, StageError
from pipeline.store.atomic import is_full, read_json, write_json
from pipeline.store.places import Places
from pipeline.store.provenance import job_name, provenance

Stage = Prepare | Distill | Evaluate
State = Literal["done", "running", "failed", "partial", "missing"]
STAGE_NAMES: dict[type[Stage], str] = {Prepare: "prepare", Distill: "distill", Evaluate: "evaluate"}
LEASE_SECONDS = 120.0
_REFERENCES = (HubSource, FileSource, SavedSource, Model, LocalFile)


class Store:
    """The folder of all artifacts.

    Args:
        root: by default ``$TEXTDD_ROOT`` or ``checkpoints``.

    """

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root or os.environ.get("TEXTDD_ROOT") or "checkpoints")
        self.places = Places(self.root)

    @classmethod
    def of(cls, out: Path) -> Store:
        """The store that an artifact's folder lies in."""
        return cls(out.parent.parent)

    def identity(self, config: Stage) -> Any:
        """The canonical form of ``config`` with every reference resolved; plain JSON."""
        return {"stage": STAGE_NAMES[type(config)], "config": canonical(config, self.places.resolve)}

    def cell(self, config: Stage) -> Cell:
        """The artifact that ``config`` describes, whether or not it exists yet.

        Raises:
            InputError: a local file of the config does not exist.

        """
        text = json.dumps(self.identity(config), sort_keys=True, ensure_ascii=False)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return Cell(config, self.root / STAGE_NAMES[type(config)] / f"{config.slug}-{digest[:8]}", digest)


class Cell:
    """One artifact: its config, its folder, its state."""

    def __init__(self, config: Stage, folder: Path, digest: str) -> None:
        self.config = config
        self.folder = folder
        self.digest = digest
        self._lease_file = folder / "lease"

    @property
    def state(self) -> State:
        """Whether the artifact is finished, being worked on, failed, begun, or not there."""
        if self._is_done():
            return "done"
        if self.holder() is not None:
            return "running"
        if (self.folder / "failed.json").exists():
            return "failed"
        return "partial" if (self.folder / "config.json").exists() else "missing"

    def failure(self) -> str | None:
        """The reason of the last failed attempt."""
        record = read_json(self.folder / "failed.json")
        return None if record is None else str(record["reason"])

    def seconds(self) -> float | None:
        """Wall seconds that the finished artifact took, all attempts together."""
        record = read_json(self.folder / "done.json")
        return None if record is None else float(record["seconds"])

    def holder(self) -> str | None:
        """Who holds the lease, or ``None`` if nobody does or the holder stopped refreshing it."""
        try:
            age = time.time() - self._lease_file.stat().st_mtime
        except OSError:
            return None
        record = read_json(self.folder / "holder.json")
        if age > LEASE_SECONDS or record is None or _is_dead(record):
            return None
        return str(record["who"])

    def check(self) -> None:
        """Compares the stored full config with this one.

        Raises:
            InputError: a default changed since the artifact was made; both values are named.

        """
        stored = read_json(self.folder / "config.json")
        if stored is None:
            return
        for path, then, now in _differences(stored, self.config):
            name = _as_written(path, self.config)
            raise InputError(
                f"{self.folder}: made with {name} = {then!r}, but that default is now {now!r}; write {name}: {then!r} "
                f"to compute with the old value in another folder, or remove this one to make it anew"
            )

    @contextmanager
    def claim(self) -> Iterator[Path | None]:
        """Holds the cell for this process; marks it done when the block ends well, failed when it raises.

        Yields:
            The folder to write to; or ``None`` if another process finished the cell just before this one got it.

        Raises:
            StageError: another process holds the cell.
            InputError: the stored config differs (see :meth:`check`).

        """
        self.check()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StageError(
                f"{self.folder}: cannot be written ({error.strerror}); give another place with --root or TEXTDD_ROOT"
            ) from error
        left_behind = self._left_behind()
        lease = SoftFileLease(self._lease_file, lease_duration=LEASE_SECONDS, on_compromise=self._lost)
        try:
            lease.acquire(timeout=self._patience(), poll_interval=0.1)
        except Timeout:
            raise StageError(
                f"{self.folder}: held by {self.holder() or 'another process'}; wait for it or stop it, then run again"
            ) from None
        began = time.monotonic() - left_behind
        try:
            if self._is_done():
                yield None
                return
            write_json(
                self.folder / "holder.json",
                {"who": job_name(), "pid": os.getpid(), "host": os.uname().nodename, "since": time.time()},
            )
            write_json(self.folder / "config.json", self.config.model_dump(mode="json"))
            (self.folder / "failed.json").unlink(missing_ok=True)
            yield self.folder
            seconds = self._spent(began)
            write_json(self.folder / "done.json", {"identity": self.digest, "seconds": seconds, **provenance()})
            (self.folder / "spent.json").unlink(missing_ok=True)
        except OSError as error:
            self._give_up(error, began)
            if is_full(error):
                raise StageError(f"{self.folder}: no space left on the disk; free some and run again") from error
            raise
        except BaseException as error:
            self._give_up(error, began)
            raise
        finally:
            (self.folder / "holder.json").unlink(missing_ok=True)
            lease.release()

    def _is_done(self) -> bool:
        return (self.folder / "done.json").exists()

    def _left_behind(self) -> float:
        """Seconds of an attempt that was killed outright: from its start to the last sign of life of its lease."""
        record = read_json(self.folder / "holder.json")
        if record is None or self.holder() is not None or not self._lease_file.exists():
            return 0.0
        return float(max(0.0, self._lease_file.stat().st_mtime - record["since"]))

    def _patience(self) -> float:
        """Seconds to wait for the lease: more than its duration where the holder seems to have died on another node."""
        try:
            age = time.time() - self._lease_file.stat().st_mtime
        except OSError:
            return 1.0
        return LEASE_SECONDS + 5 if age > LEASE_SECONDS else 1.0

    def _spent(self, began: float) -> float:
        earlier = read_json(self.folder / "spent.json") or {"seconds": 0.0}
        return round(float(earlier["seconds"]) + time.monotonic() - began, 3)

    def _give_up(self, error: BaseException, began: float) -> None:
        reason = str(error) if isinstance(error, InputError | StageError) else f"{type(error).__name__}: {error}"
        try:
            write_json(self.folder / "spent.json", {"seconds": self._spent(began)})
            if isinstance(error, KeyboardInterrupt):
                return  # begun, and to be continued
            write_json(self.folder / "failed.json", {"reason": reason, "time": _now(), "who": job_name()})
        except (OSError, StageError):
            return  # the disk may be full: the error that is on its way says so

    def _lost(self, compromise: Any) -> None:
        # Runs on the heartbeat thread, where an exception would be swallowed. Whoever took over writes from now on.
        os.write(2, f"{self.folder}: lost the lease ({compromise.reason}); stopping before the next write\n".encode())
        os._exit(75)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _as_written(path: str, config: Stage) -> str:
    """The dotted key as an experiment's YAML has it: ``source.…`` is the stage before."""
    stages = list(STAGE_NAMES.values())
    stage = stages.index(STAGE_NAMES[type(config)])
    while stage and path.startswith("source."):
        path, stage = path.removeprefix("source."), stage - 1
    return f"{stages[stage]}.{path}"


def _is_dead(record: dict[str, Any]) -> bool:
    if record.get("host") != os.uname().nodename:
        return False
    try:
        os.kill(int(record["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _plain(value: Any) -> Any:
    return TypeAdapter(Any).dump_python(value, mode="json")


def _differences(stored: Any, config: Frozen, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted path, stored value, today's value of everything that differs.

    What a reference resolves to is compared by the address already, so paths and names may differ here.
    """
    for name, field in type(config).model_fields.items():
        if is_runtime(field) or (isinstance(config, _REFERENCES) and name != "splits"):
            continue
        value = getattr(config, name)
        then = stored[name] if name in stored else _plain(introduced_value(field))
        dotted = f"{path}{name}"
        if isinstance(value, Frozen) and isinstance(then, dict):
            yield from _differences(then, value, dotted + ".")
        else:
            now = _plain(value)
            if now != then:
                yield dotted, then, now
