"""One folder per artifact, addressed by its config; one process at a time works on it.

``checkpoints/<stage>/<slug>-<8 hex>/``. The slug is for eyes; the hex is the identity, the SHA-256 of the config's
canonical form. Beside the artifact lie ``config.json`` (the full config, compared on every hit), a record of every
attempt (:mod:`~pipeline.store.attempts`), the lease of the one that is at it, and ``done.json`` once it is finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from filelock import SoftFileLease, Timeout
from pydantic import TypeAdapter

from pipeline import stopping
from pipeline.config import Model, Stage
from pipeline.config.chain import STAGE_NAMES
from pipeline.config.data import FileSource, HubSource, SavedSource
from pipeline.config.files import LocalFile
from pipeline.config.schema import Frozen, canonical, introduced_value, is_runtime
from pipeline.errors import HeldError, InputError, StageError
from pipeline.store import attempts as records
from pipeline.store import history
from pipeline.store.aides import aides_of
from pipeline.store.atomic import forbidden, is_forbidden, is_full, read_json, write_json
from pipeline.store.cost import Cost, cost_of
from pipeline.store.places import Places
from pipeline.store.provenance import provenance

State = Literal["done", "running", "failed", "partial", "missing"]
_ASIDE = re.compile(r"\..+\.[a-z0-9_]{8}")  # what atomic.replacing leaves behind in a process that is killed
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

    @property
    def state(self) -> State:
        """Whether the artifact is finished, being worked on, failed, begun, or not there."""
        if self._is_done():
            return "done"
        last = records.last_of(self.folder)
        if last is not None and last.outcome in (None, "failed"):
            return "running" if last.outcome is None else "failed"
        return "partial" if last is not None or (self.folder / "config.json").exists() else "missing"

    def holder(self) -> str | None:
        """Who is at it, or ``None`` if nobody is or the holder stopped refreshing its lease."""
        last = records.last_of(self.folder)
        return last.who if last is not None and last.outcome is None else None

    def attempts(self) -> list[records.Attempt]:
        """All attempts so far, the oldest first."""
        return records.attempts_of(self.folder)

    def failure(self) -> str | None:
        """Why the last attempt failed; ``None`` if it did not."""
        last = records.last_of(self.folder)
        return None if last is None else last.failure

    def exhausted(self, limit: int) -> bool:
        """Whether the last ``limit`` attempts came to nothing in the same way, so that another would only repeat them.

        Attempts that were stopped do not count, nor those from before :meth:`clear_failures`.
        """
        cleared = records.cleared(self.folder)
        counting = [attempt for attempt in self.attempts() if attempt.number > cleared]
        return len(counting) >= limit and history.same_way(counting, records.rows_of(self.folder)) >= limit

    def failures(self) -> dict[Literal["out_of_memory", "timeout"], int]:
        """How many attempts ended out of memory, and how many at a time limit before they had saved anything."""
        found = self.attempts()
        return history.retry_reasons(found, records.rows_of(self.folder) if found else 0)

    @property
    def too_short(self) -> bool:
        """Whether the time slots of this process's job turned out too short for this cell."""
        last = records.last_of(self.folder)
        return last is not None and last.reason == history.TOO_SHORT and last.job == records.job_id()

    def clear_failures(self) -> None:
        """Lets :meth:`exhausted` forget the attempts so far."""
        records.clear(self.folder)

    def seconds(self) -> float | None:
        """Wall seconds that the finished artifact took, all attempts together."""
        record = read_json(self.folder / "done.json")
        return None if record is None else float(record["seconds"])

    def cost(self) -> Cost | None:
        """What its attempts have used so far, those that were killed included; ``None`` where there was none."""
        return cost_of(self.attempts(), aides_of(self.folder))

    def check(self) -> None:
        """Compares the stored full config with this one.

        Raises:
            InputError: a default changed since the artifact was made; both values are named.

        """
        stored = read_json(self.folder / "config.json")
        if stored is not None:
            check_stored(stored, self.config, self.folder)

    @contextmanager
    def claim(self) -> Iterator[Path | None]:
        """Holds the cell for this process, and records the attempt; marks the cell done when the block ends well.

        Yields:
            The folder to write to; or ``None`` if another process finished the cell just before this one got it.

        Raises:
            HeldError: another process is at the cell.
            StageError: nothing can be written there, or time slots are too short for the cell.
            InputError: the stored config differs (see :meth:`check`).
            Stopped: this process was asked to stop, before or inside the block.

        """
        stopping.check()
        self.check()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StageError(
                f"{self.folder}: cannot be written ({error.strerror}); give another place with --root or TEXTDD_ROOT"
            ) from error
        seen = records.last_write(self.folder)
        duration = records.LEASE_SECONDS
        lease = SoftFileLease(self.folder / "lease", lease_duration=duration, on_compromise=self._lost)
        attempt = None
        try:
            with stopping.polled():
                self._acquire(lease)
                if not self._is_done():
                    attempt = self._begin(seen)
            stopping.check()
            yield None if attempt is None else self.folder
            with stopping.polled():
                if attempt is not None:
                    self._finish(attempt)
                    attempt = None  # it has ended: nothing that happens from here on is its failure
        except OSError as error:
            self._give_up(attempt, error)
            if attempt is None and is_forbidden(error):
                raise forbidden(self.folder, error) from error
            if is_full(error):
                raise StageError(f"{self.folder}: no space left on the disk; free some and run again") from error
            raise
        except stopping.Stopped as stopped:
            self._give_up(attempt, stopped)
            if attempt is None or not history.stalled(self.attempts(), records.rows_of(self.folder)):
                raise
            hopeless = StageError(history.TOO_SHORT)
            self._give_up(attempt, hopeless)
            raise hopeless from stopped
        except BaseException as error:
            self._give_up(attempt, error)
            raise
        finally:
            with stopping.polled():
                lease.release()

    def _is_done(self) -> bool:
        return (self.folder / "done.json").exists()

    def _acquire(self, lease: SoftFileLease) -> None:
        """Waits until the lease runs out where its holder seems dead: silent, killed, or from before a requeue."""
        seen = records.last_sign(self.folder)
        silent = seen is not None and time.time() - seen > records.LEASE_SECONDS
        last = records.last_of(self.folder)
        dead = last is not None and (last.outcome == "killed" or records.is_earlier_start(last))
        patience = records.LEASE_SECONDS + 5 if silent or dead else 1.0

        def in_vain() -> bool:
            if stopping.requested() is not None:
                return True
            now = records.last_of(self.folder) if dead else last
            return now != last and now is not None and now.outcome is None  # somebody else was faster

        try:
            lease.acquire(timeout=patience, poll_interval=0.1, cancel_check=in_vain)
        except Timeout:
            stopping.check()
            raise HeldError(
                f"{self.folder}: held by {self.holder() or 'another process'}; wait for it or stop it, then run again"
            ) from None

    def _begin(self, seen: float | None) -> records.Running:
        for path in self.folder.iterdir():
            if _ASIDE.fullmatch(path.name):
                path.unlink(missing_ok=True)
        write_json(self.folder / "config.json", self.config.model_dump(mode="json"))
        return records.begin(self.folder, seen)

    def _finish(self, attempt: records.Running) -> None:
        records.end(attempt)
        seconds = round(sum(ended.seconds or 0.0 for ended in self.attempts()), 3)
        write_json(self.folder / "done.json", {"identity": self.digest, "seconds": seconds, **provenance()})

    def _give_up(self, attempt: records.Running | None, error: BaseException) -> None:
        # The disk may be full: the error that is on its way says so.
        with stopping.polled(), suppress(OSError, StageError):
            if attempt is not None:
                records.end(attempt, error)

    def _lost(self, compromise: Any) -> None:
        # Runs on the heartbeat thread, where an exception would be swallowed. Whoever took over writes from now on.
        os.write(2, f"{self.folder}: lost the lease ({compromise.reason}); stopping before the next write\n".encode())
        os._exit(75)


def check_stored(stored: Any, config: Stage, place: Path) -> None:
    """Compares the full config that something at ``place`` was made with, as plain JSON, with today's.

    Raises:
        InputError: a default changed in between; both values are named.

    """
    for path, then, now in _differences(stored, config):
        name = _as_written(path, config)
        raise InputError(
            f"{place}: made with {name} = {then!r}, but that default is now {now!r}; write {name}: {then!r} "
            f"to compute with the old value in another folder, or remove this one to make it anew"
        )


def _as_written(path: str, config: Stage) -> str:
    """The dotted key as an experiment's YAML has it: ``source.…`` is the stage before."""
    stages = list(STAGE_NAMES.values())
    stage = stages.index(STAGE_NAMES[type(config)])
    while stage and path.startswith("source."):
        path, stage = path.removeprefix("source."), stage - 1
    return f"{stages[stage]}.{path}"


def _holds_configs(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(isinstance(one, Frozen) for one in value)


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
        elif _holds_configs(value) and isinstance(then, list) and len(then) == len(value):
            for number, (one, before) in enumerate(zip(value, then, strict=True)):
                yield from _differences(before, one, f"{dotted}.{number}.")
        else:
            now = _plain(value)
            if now != then:
                yield dotted, then, now
