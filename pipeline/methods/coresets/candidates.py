"""The rows among which a coreset is chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from pipeline.config import Coreset
from pipeline.data.tokenised import Split
from pipeline.errors import InputError
from pipeline.methods.budgets import Integers, apportioned
from pipeline.randomness import numpy_generator

_ROWS = 4096  # rows whose token ids are in memory together


def drawn(train: Split, shares: Sequence[int], method: Coreset, seed: int, *, key: str = "shots") -> list[Integers]:
    """Rows of every class in ascending order, each text once; a draw of (seed, class) where ``candidates`` is given.

    Args:
        train: the training split.
        shares: samples that will be chosen of every class, of which at least so many candidates are kept.
        method: how many candidates there are in all.
        seed: of the cell.
        key: what the config calls ``shots``.

    Raises:
        InputError: there are fewer different rows, or candidates, than samples.

    """
    labels, first = train.labels.numpy(), distinct(train)
    rows = [first[labels[first] == label] for label in range(len(shares))]
    for label, (of_class, share) in enumerate(zip(rows, shares, strict=True)):
        if len(of_class) < share:
            raise InputError(
                f"class {label} has {len(of_class)} different training rows, too few for its {share} samples; "
                f"lower {key} (now {method.shots})"
            )
    if method.candidates is None or method.candidates >= len(first):
        return rows
    if method.candidates < sum(shares):
        raise InputError(f"candidates: {method.candidates} are fewer than the {sum(shares)} samples; give more")
    sizes = apportioned(method.candidates, np.asarray([len(of_class) for of_class in rows], dtype=np.float64), shares)
    return [
        np.sort(numpy_generator(seed, "candidates", label).permutation(of_class)[:size])
        for label, (of_class, size) in enumerate(zip(rows, sizes, strict=True))
    ]


def distinct(train: Split) -> Integers:
    """The first row of every pair of tokens and class, in ascending order."""
    seen: set[bytes] = set()
    rows = []
    for start in range(0, len(train), _ROWS):
        found = train.rows[start : start + _ROWS]
        for offset, (ids, label) in enumerate(zip(found["input_ids"], found["label"], strict=True)):
            name = hashlib.blake2b(np.asarray([label, *ids], dtype="<i4").tobytes(), digest_size=16).digest()
            if name not in seen:
                seen.add(name)
                rows.append(start + offset)
    return np.asarray(rows, dtype=np.int64)
