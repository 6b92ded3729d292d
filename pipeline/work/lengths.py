"""How long the rows of a prepared task are, in tokens: what the counts of computing rest on. Each is read once."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Split, TrainingOrder

Rows = np.ndarray[Any, np.dtype[np.int64]]


@functools.lru_cache(maxsize=32)
def split_of(folder: Path, name: str) -> Split:
    """A split of prepared data."""
    return Prepared(folder).split(name)


@functools.lru_cache(maxsize=32)
def lengths_in(folder: Path, name: str) -> Rows:
    """Tokens of every row of a split."""
    return split_of(folder, name).lengths


def lengths_of_task(folder: Path, name: str, task: str) -> Rows:
    """Of joined tasks the rows of one."""
    return lengths_in(folder, name)[Prepared(folder).rows_of(task, name)]


@functools.lru_cache(maxsize=64)
def lengths_of_part(folder: Path, name: str, rows: int | None, seed: int, purpose: str) -> Rows:
    """Tokens of every row of a stratified draw."""
    split = split_of(folder, name)
    return split.stratified(rows or len(split), seed, purpose).lengths


@functools.lru_cache(maxsize=64)
def lengths_read(folder: Path, batch_size: int, seed: int, bucket: bool, batches: int, *, padded: bool) -> Rows:
    """Tokens of every row of the first real batches, ``padded`` to the longest of each, in multiples of 8."""
    lengths = lengths_in(folder, "train")
    order = TrainingOrder(lengths, batch_size, seed, bucket)
    found = [lengths[order.at(number)] for number in range(batches)]
    return np.concatenate([np.full_like(each, -(-each.max() // 8) * 8) if padded else each for each in found])
