"""Class-balanced real batches: equal numbers, a pure function of seed and step, every row of a class equally often."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.balanced import BalancedOrder
from pipeline.data.tokenised import BLOCK

Integers = np.ndarray[Any, np.dtype[np.int64]]
problems = given(
    counts=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    each=st.integers(1, 6),
    seed=st.integers(0, 2**40),
    bucket=st.booleans(),
)


def problem(counts: list[int], seed: int = 0) -> tuple[Integers, Integers]:
    """Labels in a random order, and lengths."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(len(counts)), counts))
    return labels, random.integers(3, 60, len(labels))


@settings(max_examples=40, deadline=None)
@problems
def test_every_batch_has_equally_many_of_every_class(counts: list[int], each: int, seed: int, bucket: bool) -> None:
    labels, lengths = problem(counts, seed)
    C = len(counts)
    order = BalancedOrder(labels, lengths, C, each * C, seed, bucket)
    for step in (0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 7):
        rows = order.at(step)
        assert Counter(labels[rows].tolist()) == dict.fromkeys(range(C), each)
        assert labels[rows[:C]].tolist() == list(range(C)), "a few rows of it have every class"


@settings(max_examples=40, deadline=None)
@problems
def test_a_batch_is_a_pure_function_of_seed_and_step(counts: list[int], each: int, seed: int, bucket: bool) -> None:
    labels, lengths = problem(counts, seed)
    made = labels, lengths, len(counts), each * len(counts), seed, bucket
    used = BalancedOrder(*made)
    for step in (117, 0, 53, 117, 3):
        assert used.at(step).tolist() == BalancedOrder(*made).at(step).tolist()


@settings(max_examples=30, deadline=None)
@problems
def test_rows_of_a_class_are_seen_equally_often(counts: list[int], each: int, seed: int, bucket: bool) -> None:
    labels, lengths = problem(counts, seed)
    C = len(counts)
    order = BalancedOrder(labels, lengths, C, each * C, seed, bucket)
    # bucketing moves rows between the batches of a block, so whole blocks are counted
    seen = np.bincount(np.concatenate([order.at(step) for step in range(2 * BLOCK)]), minlength=len(labels))
    for label, count in enumerate(counts):
        times = seen[labels == label]
        assert times.sum() == 2 * BLOCK * each
        assert times.max() - times.min() <= 1, (label, count)


def test_a_pass_has_every_row_once_before_any_twice() -> None:
    labels, lengths = problem([12, 40])
    order = BalancedOrder(labels, lengths, 2, 8, seed=1)
    rows = np.concatenate([order.at(step) for step in range(10)])
    large, small = rows[labels[rows] == 1], rows[labels[rows] == 0]
    assert sorted(large.tolist()) == np.flatnonzero(labels == 1).tolist()
    passes = [small[start : start + 12].tolist() for start in (0, 12, 24)]
    assert all(sorted(each) == np.flatnonzero(labels == 0).tolist() for each in passes)
    assert passes[0] != passes[1] != passes[2], "each in an order of its own"


def test_seeds_differ() -> None:
    labels, lengths = problem([30, 30])
    drawn = [BalancedOrder(labels, lengths, 2, 30, seed).at(0).tolist() for seed in (1, 2)]
    assert drawn[0] != drawn[1]


def test_bucketing_keeps_the_rows_of_a_block_and_pads_less() -> None:
    labels, lengths = problem([400, 1000])
    plain, bucketed = (BalancedOrder(labels, lengths, 2, 16, 5, bucket) for bucket in (False, True))
    blocks = [[order.at(step) for step in range(BLOCK, 2 * BLOCK)] for order in (plain, bucketed)]
    assert sorted(np.concatenate(blocks[0]).tolist()) == sorted(np.concatenate(blocks[1]).tolist())
    padded = [sum(lengths[rows].max() * len(rows) for rows in block) for block in blocks]
    assert padded[1] < 0.6 * padded[0]
    longest = [lengths[rows].max() for rows in blocks[1]]
    assert longest != sorted(longest), "lengths do not rise from batch to batch"


@pytest.mark.parametrize(("counts", "size", "batches"), [([10, 30], 4, 10), ([3, 4], 20, 1), ([7, 8], 4, 3)])
def test_an_epoch_has_as_many_batches_as_a_shuffled_one(counts: list[int], size: int, batches: int) -> None:
    assert BalancedOrder(*problem(counts), 2, size, seed=0).batches_per_epoch == batches
