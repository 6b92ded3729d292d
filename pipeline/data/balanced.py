"""Real batches with equally many rows of every class."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.data.tokenised import BLOCK
from pipeline.randomness import numpy_generator

Integers = np.ndarray[Any, np.dtype[np.int64]]


class BalancedOrder:
    """Which rows the real batch of outer step k holds: a pure function of (seed, k), as in ``TrainingOrder``.

    Every class is an endless sequence of seeded permutations of its rows, of which each batch takes the next
    batch_size / C: within a class all rows are seen equally often (up to one), rows of small classes more often than
    those of large ones. Where a permutation ends within a batch, or a class has fewer rows than its part, a row can be
    in a batch twice. The classes take turns, so that the first C rows of a batch have one of each.

    With ``bucket``, the next 50 batches' rows of every class are sorted by length, and the batches shuffled.

    Args:
        labels: [rows] classes.
        lengths: [rows] tokens.
        classes: C, each with at least one row.
        batch_size: a multiple of C.
        seed: of every draw.
        bucket: sort by length.

    """

    def __init__(
        self, labels: Integers, lengths: Integers, classes: int, batch_size: int, seed: int, bucket: bool = False
    ) -> None:
        assert batch_size % classes == 0
        self.rows = [np.flatnonzero(labels == label) for label in range(classes)]
        assert all(map(len, self.rows))
        self.lengths, self.batch_size, self.seed, self.bucket = lengths, batch_size, seed, bucket
        self._latest: tuple[int, list[Integers]] = (-1, [])

    @property
    def batches_per_epoch(self) -> int:
        """As many batches as have the split's number of rows, though not every row once."""
        return max(1, len(self.lengths) // self.batch_size)

    def at(self, step: int) -> Integers:
        """[batch_size] row positions of step ``step``'s batch."""
        number, position = divmod(step, BLOCK)
        if self._latest[0] != number:
            self._latest = (number, self._block(number))
        return self._latest[1][position]

    def _block(self, number: int) -> list[Integers]:
        """The 50 batches from ``number`` · 50 on."""
        parts = []
        for label in range(len(self.rows)):
            drawn = self._stream(label, number)
            if self.bucket:
                drawn = drawn[np.argsort(self.lengths[drawn], kind="stable")]
            parts.append(drawn.reshape(BLOCK, -1))
        batches = np.stack(parts, axis=-1).reshape(BLOCK, -1)  # [batch, turn, class]
        if self.bucket:
            batches = numpy_generator(self.seed, "bucketed balanced batches", number).permutation(batches)
        return list(batches)

    def _stream(self, label: int, number: int) -> Integers:
        """The rows that block ``number`` takes of a class."""
        rows, size = self.rows[label], BLOCK * self.batch_size // len(self.rows)
        start = number * size
        passes = range(start // len(rows), -(-(start + size) // len(rows)))
        drawn = [numpy_generator(self.seed, "balanced batches", label, each).permutation(rows) for each in passes]
        skipped = start - passes.start * len(rows)
        return np.concatenate(drawn)[skipped : skipped + size]
