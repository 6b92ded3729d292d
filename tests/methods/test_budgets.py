"""Budgets add up, leave no class out and follow the class frequencies; rows of classes alternate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.methods.budgets import apportioned, interleaved, per_class

COUNTS = st.lists(st.integers(60, 5000), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(counts=COUNTS, shots=st.integers(1, 10), budget=st.sampled_from(["uniform", "prior", "sqrt"]))
def test_budgets_add_up_and_leave_no_class_out(counts: list[int], shots: int, budget: str) -> None:
    found = per_class(np.array(counts), shots, budget)
    assert sum(found) == len(counts) * shots
    assert min(found) >= 1
    for one in range(len(counts)):
        for other in range(len(counts)):
            if counts[one] > counts[other]:
                assert found[one] >= found[other]


@settings(max_examples=200, deadline=None)
@given(counts=COUNTS, shots=st.integers(1, 10), budget=st.sampled_from(["prior", "sqrt"]))
def test_no_budget_is_a_whole_sample_from_its_share(counts: list[int], shots: int, budget: str) -> None:
    """Where no class has less than one sample by right."""
    weights = np.array(counts) if budget == "prior" else np.sqrt(counts)
    exact = weights / weights.sum() * len(counts) * shots
    if exact.min() >= 1:
        assert np.abs(np.array(per_class(np.array(counts), shots, budget)) - exact).max() < 1


@pytest.mark.parametrize(
    ("budget", "shots", "wanted"),
    [
        ("uniform", 5, [5, 5, 5]),
        ("prior", 5, [13, 1, 1]),  # 15 x 10 / 1000 = 0.15, so one; 14 x (900, 90) / 990 = 12.73, 1.27
        ("sqrt", 5, [11, 3, 1]),  # 15 x (30, 9.49, 3.16) / 42.65 = 10.55, 3.34, 1.11
        ("prior", 1, [1, 1, 1]),
    ],
)
def test_budgets_by_hand(budget: str, shots: int, wanted: list[int]) -> None:
    assert per_class(np.array([900, 90, 10]), shots, budget) == wanted


def test_equal_remainders_go_to_the_first() -> None:
    assert apportioned(4, np.ones(3), [1, 1, 1]) == [2, 1, 1]


def test_a_class_with_too_few_rows_is_refused() -> None:
    with pytest.raises(InputError, match="class 1 has 3 training rows, too few for shots: 4"):
        per_class(np.array([9, 3]), 4, "uniform")
    assert per_class(np.array([9, 3]), 4, "prior") == [6, 2]
    with pytest.raises(InputError, match="class 2 has 0 training rows, too few for its 1 samples"):
        per_class(np.array([9, 3, 0]), 2, "sqrt")


def test_classes_alternate_until_the_smaller_are_empty() -> None:
    rows = interleaved([np.array([10, 11, 12]), np.array([20]), np.array([30, 31])])
    assert rows.tolist() == [10, 20, 30, 11, 31, 12]
