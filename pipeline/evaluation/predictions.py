"""``predictions.h5``: what every initialisation answered on every row, so that tests between cells need no re-run.

Readable with h5py alone. Attributes: ``format`` and ``classes`` (C). One group per split, with

====================  =====================  ==================================================
``predicted``         [initialisations, rows]  predicted classes, the smallest unsigned integer
``labels``            [rows]                   true classes, likewise
``initialisations``   [initialisations]        the number of each, as in ``results.csv``
====================  =====================  ==================================================

Rows are in the split's own order. No torch here: tables read this.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.store.atomic import replacing

FORMAT = "textdd-predictions/1"
_COLUMNS = 256  # rows of the split per chunk: gzip finds what the initialisations before answered to them
Classes = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Predicted:
    """The answers of one cell on one split.

    Attributes:
        classes: C.
        labels: [rows] true classes.
        predicted: [initialisations, rows].
        initialisations: the number of each.

    """

    classes: int
    labels: Classes
    predicted: Classes
    initialisations: tuple[int, ...]


class Predictions:
    """The predictions of one cell while it is evaluated; the file is replaced as a whole.

    Args:
        path: the file; what is in it stays.
        labels: [rows] true classes of every split.
        classes: C.

    """

    def __init__(self, path: Path, labels: Mapping[Any, npt.ArrayLike], classes: int) -> None:
        self._path, self._classes = path, classes
        self._kind = np.min_scalar_type(classes - 1)
        self._labels = {split: np.asarray(true, self._kind) for split, true in labels.items()}
        found = {split: read(path, split) for split in labels}
        self._found: dict[int, dict[str, Classes]] = {}
        whole = [set(each.initialisations) if each else set() for each in found.values()]
        for number in sorted(set.intersection(*whole)):
            at = {s: each.predicted[each.initialisations.index(number)] for s, each in found.items() if each}
            self._found[number] = at

    @property
    def done(self) -> set[int]:
        """The initialisations that are in the file."""
        return set(self._found)

    def keep(self, initialisations: Collection[int]) -> None:
        """Drops all others."""
        if dropped := self.done - set(initialisations):
            for number in dropped:
                del self._found[number]
            self._write()

    def add(self, initialisation: int, predicted: Mapping[Any, npt.ArrayLike]) -> None:
        """Adds the predicted classes [rows] of one initialisation on every split.

        Raises:
            StageError: the disk is full.

        """
        self._found[initialisation] = {split: np.asarray(predicted[split], self._kind) for split in self._labels}
        self._write()

    def _write(self) -> None:
        if not self._found:  # a chunk of no rows cannot be written
            self._path.unlink(missing_ok=True)
            return
        numbers = tuple(sorted(self._found))
        with replacing(self._path) as aside, h5py.File(aside, "w") as file:
            file.attrs["format"] = FORMAT
            for split, labels in self._labels.items():
                predicted = np.stack([self._found[number][split] for number in numbers])
                put(file.create_group(split), Predicted(self._classes, labels, predicted, numbers))


def read(path: Path, split: str) -> Predicted | None:
    """The predictions on one split; None where there are none.

    Raises:
        InputError: not a whole file of predictions, or of another format.

    """
    if not path.is_file():
        return None
    try:
        with h5py.File(path, "r") as file:
            kind = file.attrs.get("format")
            if kind != FORMAT:
                raise InputError(
                    f"{path}: its format is {kind!r}, not '{FORMAT}'; remove the folder, run stage 3 again"
                )
            return get(file[split]) if split in file else None
    except (OSError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not whole ({reason}); remove the folder and run stage 3 again") from error


def put(group: Any, found: Predicted, level: int = 6) -> None:
    """Writes predictions into an empty group of an HDF5 file; gzip's ``level`` 9 is smaller, and ten times slower."""
    group.attrs["classes"] = found.classes
    kind = np.min_scalar_type(found.classes - 1)
    chunks = (len(found.predicted), min(_COLUMNS, len(found.labels)))
    how: dict[str, Any] = {"compression": "gzip", "compression_opts": level}
    group.create_dataset("predicted", data=found.predicted.astype(kind), chunks=chunks, **how)
    group.create_dataset("labels", data=found.labels.astype(kind), **how)
    group.create_dataset("initialisations", data=np.asarray(found.initialisations, "<u4"))


def get(group: Any) -> Predicted:
    """What :func:`put` wrote."""
    numbers = tuple(int(number) for number in group["initialisations"][:])
    return Predicted(int(group.attrs["classes"]), group["labels"][:], group["predicted"][:], numbers)
