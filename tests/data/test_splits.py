"""Carved splits: stratified, seeded, disjoint, the same every time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.config import Prepare
from pipeline.data.loading import RawSplits
from pipeline.data.splits import carve
from pipeline.errors import InputError


def config(**more: Any) -> Prepare:
    task = {"name": "mine", "source": {"kind": "files", "train": "x.csv"}, "text": ["text"]}
    return Prepare.model_validate({"task": task, "model": "m", **more})


def raw(counts: list[int], **given_splits: int) -> RawSplits:
    """A source with so many rows per class, each row of its own text."""
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    splits = {"train": Dataset.from_dict({"text": [f"row {i}" for i in range(len(labels))], "label": labels})}
    for name, rows in given_splits.items():
        splits[name] = Dataset.from_dict(
            {"text": [f"{name} {i}" for i in range(rows)], "label": [i % 2 for i in range(rows)]}
        )
    return RawSplits(splits, [f"class{label}" for label in range(len(counts))])


def texts(splits: dict[str, Dataset]) -> dict[str, list[str]]:
    return {name: list(rows["text"]) for name, rows in splits.items()}


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(8, 60), min_size=2, max_size=4),
    dev=st.one_of(st.floats(0.2, 0.4), st.integers(4, 8)),
    test=st.one_of(st.floats(0.2, 0.4), st.integers(4, 8)),
    seed=st.integers(0, 2**40),
)
@example(counts=[8, 8], dev=7, test=8, seed=0)
def test_carved_splits(counts: list[int], dev: float, test: float, seed: int) -> None:
    source, asked = raw(counts), config(dev=dev, test=test, seed=seed)
    left = sum(counts)
    left -= round(left * test) if test < 1 else int(test)
    if left - len(counts) < (round(left * dev) if dev < 1 else dev):  # train would have fewer rows than classes
        with pytest.raises(InputError, match=f"give at most {left - len(counts)}$"):
            carve(source, asked)
        return
    splits = carve(source, asked)
    assert list(splits) == ["train", "dev", "test"]
    everything = [text for found in texts(splits).values() for text in found]
    assert Counter(everything) == Counter(source.splits["train"]["text"]), "every row once, in one split"
    total = sum(counts)
    after_test = total
    for name, size in (("test", test), ("dev", dev)):
        rows = round(after_test * size) if size < 1 else int(size)
        assert len(splits[name]) == rows
        present = Counter(splits[name]["label"])
        for label, count in enumerate(counts):
            # stratified twice: each time the share is met up to rounding
            assert abs(present[label] - rows * count / total) <= 1.0 + rows / after_test
        after_test -= rows
    assert texts(carve(source, asked)) == texts(splits)


def test_another_seed_is_another_draw() -> None:
    source = raw([40, 40])
    drawn = [texts(carve(source, config(dev=10, test=10, seed=seed))) for seed in (1, 2)]
    assert drawn[0]["dev"] != drawn[1]["dev"]
    assert drawn[0]["test"] != drawn[1]["test"]


def test_given_splits_are_not_touched() -> None:
    source = raw([40, 40], dev=6, test=8)
    splits = carve(source, config(dev=0.5, test=0.5))
    assert texts(splits) == texts(source.splits)
    only_test = carve(raw([40, 40], test=8), config(dev=10))
    assert len(only_test["train"]) == 70
    assert texts(only_test)["test"] == [f"test {i}" for i in range(8)]


def test_test_is_the_same_whatever_dev_is() -> None:
    source = raw([40, 40])
    drawn = [texts(carve(source, config(dev=dev, test=10)))["test"] for dev in (4, 20, 0.3)]
    assert drawn[0] == drawn[1] == drawn[2]


@pytest.mark.parametrize(
    ("source", "asked", "words"),
    [
        (raw([9, 9]), {}, ["has no test split", "name one in the source", "prepare.test: 0.1"]),
        (
            raw([9, 9, 9], test=4),
            {"dev": 2},
            ["dev: 2 gives 2 rows for the 3 classes of column 'label'", "at least 3"],
        ),
        (raw([9, 9], test=4), {"dev": 0.05}, ["prepare.dev: 0.05 gives 1 rows for the 2 classes", "give at least 2"]),
        (raw([9, 9], test=4), {"dev": 17}, ["prepare.dev: 17 takes 17 of 18 training rows", "give at most 16"]),
        (raw([9, 1], test=4), {"dev": 3}, ["class 'class1' has fewer than 2 training rows", "name a dev split"]),
    ],
    ids=["no test", "too few rows", "too small a share", "too many rows", "rare class"],
)
def test_refused(source: RawSplits, asked: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as refusal:
        carve(source, config(**asked))
    for word in ["task mine", *words]:
        assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)
