"""The runs of an experiment as two files beside its tables, small enough to commit: artifacts may go, tables stay.

``<experiment>.runs.csv`` has one line per (cell, initialisation, split) with every metric, ``<experiment>.h5`` the
predictions on the reported split, the outer losses of its sets and, as JSON, the facts that tables show of a cell: its
config, what its files counted as, the seconds of its set, the sizes of the splits. Tables are the same to the byte from
these as from the store. A cell is looked up by its config as written, so that neither data nor encoder need to be
there; where they are, another content than the archived one is another cell.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from pydantic import ValidationError

from pipeline.config import Evaluate, Prepare, Stage
from pipeline.config.schema import canonical
from pipeline.errors import InputError
from pipeline.evaluation.predictions import Predicted, get, put
from pipeline.report import outer_losses
from pipeline.report.finished import NUMBERS, RESULTS, Finished
from pipeline.store import Store
from pipeline.store.atomic import replacing, write_text
from pipeline.store.cells import check_stored

FORMAT = "textdd-runs/1"
_PLACE = ["cell", "initialisation", "split", "seconds"]
_SHOWN = ("classes", "sizes", "class_counts")  # of a manifest


class Archive:
    """The archived cells of an experiment; none where the files are not there.

    Args:
        stem: the files' path without ``.runs.csv`` and ``.h5``.
        store: says what the files of a config count as now.

    One file without the other is a write that was broken off, or one of them was lost: it is replaced where the store
    still has every cell that it names.

    Raises:
        InputError: a file is not whole.

    """

    def __init__(self, stem: Path, store: Store) -> None:
        self._store = store
        self.runs, self.h5 = (stem.with_name(stem.name + suffix) for suffix in (".runs.csv", ".h5"))
        self._cells: dict[str, Any] = {}
        self._prepared: dict[str, Any] = {}
        self._unreadable: set[str] = set()  # what a file without the other one names
        if self.runs.is_file() or self.h5.is_file():
            self._read()

    def __len__(self) -> int:
        """Archived cells, those that cannot be read included."""
        return len(self._cells) + len(self._unreadable)

    def find(self, config: Evaluate) -> Finished | None:
        """A cell, or None where it is not archived.

        Raises:
            InputError: it was made with another default, or is in one of the two files alone.

        """
        name = name_of(config)
        self._check_readable({name})
        fact = self._cells.get(name)
        if fact is None or not self._is_same(config, fact["identity"]):
            return None
        check_stored(fact["config"], config, self.runs)
        facts = fact["identity"], self._frames[name], fact["distill_seconds"]
        parents = fact.get("parent_seconds", {})  # of sets that go back to others alone
        losses = name_of(config.source)
        read = (lambda split: self._predictions(name, split)), (lambda: self._losses(losses))
        return Finished(config, *facts, *read, True, parents)

    def evaluations(self) -> list[tuple[Evaluate, pd.DataFrame]]:
        """Every archived cell with its runs, as in ``results.csv``; those of other versions are left out.

        Raises:
            InputError: one of the two files stands without the other.

        """
        self._check_readable(self._unreadable)
        found = []
        for name, fact in self._cells.items():
            with contextlib.suppress(ValidationError):
                found.append((Evaluate.model_validate(fact["config"]), self._frames[name]))
        return found

    def manifest(self, prepare: Prepare) -> dict[str, Any]:
        """What tables show of a manifest; empty where it is not archived."""
        return dict(self._prepared.get(name_of(prepare), {}))

    def write(self, cells: Iterable[tuple[Finished, str]], prepared: Iterable[tuple[Prepare, dict[str, Any]]]) -> None:
        """Replaces both files.

        Args:
            cells: with the split of each whose predictions are kept.
            prepared: tasks with their manifests.

        Raises:
            InputError: one of them stands without the other, and names cells that would be lost.
            StageError: the disk is full.

        """
        named = {name_of(finished.config): (finished, split) for finished, split in cells}
        self._check_readable(self._unreadable - named.keys())
        facts = {
            "cells": {name: _fact(finished) for name, (finished, _) in named.items()},
            "prepared": {
                name_of(prepare): {key: manifest[key] for key in _SHOWN if key in manifest}
                for prepare, manifest in prepared
            },
        }
        predictions = {name: finished.predictions(split) for name, (finished, split) in named.items()}
        sets = {name_of(finished.config.source): finished for finished, _ in named.values()}
        losses = {name: finished.losses() for name, finished in sets.items()}
        with replacing(self.h5) as aside, h5py.File(aside, "w", libver="latest") as file:
            file.attrs["format"] = FORMAT
            text = np.frombuffer(json.dumps(facts, sort_keys=True).encode(), np.uint8)
            file.create_dataset("facts", data=text, compression="gzip")
            for name, found in predictions.items():
                if found is not None:
                    put(file.create_group(f"predictions/{name}/{named[name][1]}"), found, level=9)
            for name, points in losses.items():
                if points is not None:
                    outer_losses.put(file.require_group("losses"), name, points)
        runs = _wide({name: finished.runs for name, (finished, _) in named.items()})
        write_text(self.runs, runs.to_csv(index=False, lineterminator="\n"))
        self._unreadable = set()
        self._read()

    def _read(self) -> None:
        try:
            facts = self._facts() if self.h5.is_file() else {"cells": {}, "prepared": {}}
            frame = pd.read_csv(self.runs, dtype=str, keep_default_na=False) if self.runs.is_file() else _wide({})
            self._frames = {str(name): rows[RESULTS] for name, rows in _long(frame).groupby("cell", sort=False)}
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{self.runs} and {self.h5.name}: not whole ({reason}); restore or remove both") from error
        if not (self.runs.is_file() and self.h5.is_file()):
            self._unreadable = facts["cells"].keys() | self._frames.keys()
        self._cells = {name: fact for name, fact in facts["cells"].items() if name in self._frames}
        self._prepared = facts["prepared"]

    def _facts(self) -> dict[str, Any]:
        with h5py.File(self.h5, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise InputError(f"{self.h5}: its format is {file.attrs.get('format')!r}, not '{FORMAT}'")
            facts: dict[str, Any] = json.loads(file["facts"][:].tobytes())
        return facts

    def _check_readable(self, names: set[str]) -> None:
        if self._unreadable & names:
            there, gone = sorted((self.runs, self.h5), key=lambda path: not path.is_file())
            raise InputError(f"{there}: stands without {gone.name}; restore that one, or remove this one")

    def _predictions(self, name: str, split: str) -> Predicted | None:
        with h5py.File(self.h5, "r") as file:
            place = f"predictions/{name}/{split}"
            return get(file[place]) if place in file else None

    def _losses(self, name: str) -> outer_losses.Points | None:
        with h5py.File(self.h5, "r") as file:
            return outer_losses.get(file["losses"], name) if "losses" in file else None

    def _is_same(self, config: Evaluate, then: Any) -> bool:
        try:
            return _agrees(then, self._store.identity(config)["config"])
        except InputError:  # data or encoder are not there
            return True


def _fact(finished: Finished) -> dict[str, Any]:
    config = finished.config.model_dump(mode="json")
    parents = {"parent_seconds": dict(finished.parent_seconds)} if finished.parent_seconds else {}
    return {"config": config, "identity": finished.identity, "distill_seconds": finished.distill_seconds, **parents}


def name_of(config: Stage) -> str:
    """What a cell or a task is called in the files: its config as written, wherever its data and encoder lie."""
    text = json.dumps(canonical(config), sort_keys=True, ensure_ascii=False)
    return f"{config.slug}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _agrees(then: Any, now: Any) -> bool:
    """Whether two identities are equal, but for revisions of the hub that were not resolved here."""
    if now is None or then is None:
        return True
    if isinstance(then, dict) and isinstance(now, dict):
        return then.keys() == now.keys() and all(_agrees(then[key], now[key]) for key in now)
    return bool(then == now)


def _wide(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Numbers as text, all their digits: a metric that was not measured is empty, one that is not a number is nan."""
    if not runs:
        return pd.DataFrame(columns=_PLACE)
    whole = pd.concat([frame.assign(cell=name) for name, frame in runs.items()])
    written = whole.assign(value=[repr(float(value)) for value in whole["value"]])
    wide = written.pivot(index=_PLACE, columns="metric", values="value").sort_index(axis=1)
    return wide.reindex(list(runs), level="cell").reset_index()


def _long(rows: pd.DataFrame) -> pd.DataFrame:
    metrics = [name for name in rows.columns if name not in _PLACE]
    long = rows.melt(_PLACE, metrics, var_name="metric", value_name="value")
    long = long[long["value"] != ""]
    return long[["cell", *RESULTS]].astype(NUMBERS)
