"""``vectors.h5`` of a prepared task: a frozen vector per row; readable with h5py alone.

A dataset [rows, D] per split, float32 or float16, in chunks of rows, in the split's own order; where rows are centred,
``mean`` [D], the mean over train that was subtracted from all of them. Root attribute: ``format``. What an interrupted
run has is in the folder ``vectors.partial`` beside it, and the next one goes on there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from pipeline import stopping
from pipeline.data.tokenised import Batch, Split
from pipeline.errors import InputError
from pipeline.progress import bar
from pipeline.store.atomic import read_json, replacing, write_json

FORMAT = "textdd-vectors/1"
FILE, PARTIAL, MEAN = "vectors.h5", "vectors.partial", "mean"
_ROWS = 1024  # rows of a chunk of the file
_SAVED = 32  # batches of 64 rows between two saves
Embed = Callable[[Iterator[tuple[Tensor, Batch]]], Iterator[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class VectorSplit:
    """Vectors [rows, D] float32 and labels [rows] of one split."""

    vectors: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Tensor) -> VectorSplit:
        """The split of these rows."""
        return VectorSplit(self.vectors[rows], self.labels[rows])

    def to(self, device: torch.device | str) -> VectorSplit:
        """The split on ``device``."""
        return VectorSplit(self.vectors.to(device), self.labels.to(device))


def write(
    folder: Path,
    splits: Mapping[str, Split],
    embed: Embed,
    width: int,
    dtype: str,
    device: torch.device,
    of: str,
    *,
    centred: bool = False,
) -> None:
    """Writes ``vectors.h5`` under ``folder``; one that was killed goes on after the last batches it saved.

    Args:
        folder: of the prepared task.
        splits: by name.
        embed: (row positions, batch), … -> (row positions, vectors [rows, D]), ….
        width: D.
        dtype: of the file.
        device: where batches are put.
        of: what the vectors are made of; parts of another run count only where theirs is the same.
        centred: the mean over train is subtracted from every row.

    Raises:
        Stopped: a signal came; what was made so far is kept.

    """
    aside = folder / PARTIAL
    if (read_json(aside / "done.json") or {}).get("of") != of:
        shutil.rmtree(aside, ignore_errors=True)
    done: dict[str, Any] = read_json(aside / "done.json") or {"of": of, "rows": dict.fromkeys(splits, 0)}
    aside.mkdir(parents=True, exist_ok=True)
    total = sum(map(len, splits.values()))
    with bar(total, "vectors", "row", sum(done["rows"].values())) as shown, stopping.polled():
        for name, split in splits.items():
            _embed_split(aside, name, split, embed, (len(split), width), np.dtype(dtype), device, done, shown)
    with replacing(folder / FILE) as path, h5py.File(path, "w") as file:
        file.attrs["format"] = FORMAT
        mean = None
        if centred:
            mean = np.load(aside / "train.npy", mmap_mode="r").mean(axis=0, dtype=np.float64).astype(np.float32)
            file.create_dataset(MEAN, data=mean)
        for name, split in splits.items():
            made = np.load(aside / f"{name}.npy", mmap_mode="r")
            to = file.create_dataset(name, made.shape, made.dtype, chunks=(min(_ROWS, len(split)), width))
            for start in range(0, len(split), _ROWS):
                part = made[start : start + _ROWS]
                to[start : start + _ROWS] = part if mean is None else part.astype(np.float32) - mean
    shutil.rmtree(aside)


def _embed_split(
    aside: Path,
    name: str,
    split: Split,
    embed: Embed,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    device: torch.device,
    done: dict[str, Any],
    shown: Any,
) -> None:
    """Fills ``<name>.npy`` from where it ends; ``done`` says how many rows, in order of length, are on the disk."""
    path, begun = aside / f"{name}.npy", done["rows"][name]
    made = np.lib.format.open_memmap(path, "r+" if begun else "w+", dtype, shape)

    def save() -> None:
        made.flush()
        write_json(aside / "done.json", done)

    for number, (positions, vectors) in enumerate(embed(split.by_length(device, after=begun)), start=1):
        made[positions.numpy()] = vectors.numpy()
        done["rows"][name] += len(positions)
        shown.update(len(positions))
        if number % _SAVED == 0 or stopping.requested():
            save()
            stopping.check()
    save()


def read(folder: Path, name: str, labels: Tensor) -> VectorSplit:
    """A split's vectors with its ``labels`` [rows].

    Raises:
        InputError: the task was prepared without vectors, or the file is not whole.

    """
    return VectorSplit(_read(folder, name), labels)


def read_mean(folder: Path) -> Tensor:
    """What was subtracted from every row of centred vectors, [D] float32.

    Raises:
        InputError: as :func:`read`.

    """
    return _read(folder, MEAN)


def _read(folder: Path, name: str) -> Tensor:
    path = folder / FILE
    if not path.is_file():
        raise InputError(f"{folder}: prepared without vectors; add vectors: cls, or mean, to prepare and run stage 1")
    try:
        with h5py.File(path, "r") as file:
            return torch.from_numpy(np.asarray(file[name], dtype=np.float32))
    except (OSError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not whole ({reason}); remove the folder and run stage 1 again") from error
