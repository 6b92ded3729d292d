"""Among which rows a coreset is chosen: each text once, a draw of the seed with the classes' shares."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from pipeline.config import Herding
from pipeline.data.tokenised import Split, tokenise
from pipeline.errors import InputError
from pipeline.methods.coresets import candidates
from pipeline.methods.coresets.candidates import distinct, drawn
from tests.conftest import build_tokenizer, corpus


def method(**options: Any) -> Herding:
    return Herding(name="herding", **options)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """90 rows of class 0 and 30 of class 1; rows 0 and 1 come again at the end, and row 1 also with the other label."""
    rows = corpus(180, seed=5)
    rows = [row for row in rows if row["label"] == 0] + [row for row in rows if row["label"] == 1][:30]
    rows += [rows[0], rows[1], {"text": rows[1]["text"], "label": 1}]
    tokenizer = build_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return Split(tokenise(Dataset.from_list(rows), ("text",), tokenizer, 40), tokenizer)


def test_every_text_of_a_class_counts_once(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "_ROWS", 7)
    texts = [(*row["input_ids"], row["label"]) for row in split.rows]
    found = distinct(split)
    assert found.tolist() == [row for row, text in enumerate(texts) if text not in texts[:row]]
    assert {120, 121}.isdisjoint(found.tolist())
    assert 122 in found.tolist(), "the same text with another label is another sample"


def test_all_rows_of_each_class_in_order(split: Split) -> None:
    for options in ({}, {"candidates": 10_000}):
        rows = drawn(split, [2, 2], method(**options), seed=0)
        assert [len(of_class) for of_class in rows] == [90, 31]
        labels = split.labels.numpy()
        for label, of_class in enumerate(rows):
            assert (labels[of_class] == label).all()
            assert (np.diff(of_class) > 0).all()


def test_a_draw_keeps_the_shares_and_follows_the_seed(split: Split) -> None:
    def found(seed: int, count: int = 40, shares: tuple[int, int] = (1, 1)) -> list[np.ndarray]:
        return drawn(split, shares, method(candidates=count), seed)

    assert [len(rows) for rows in found(0)] == [30, 10]  # 40 x (90, 31) / 121 = 29.75, 10.25
    assert [row.tolist() for row in found(3)] == [row.tolist() for row in found(3)]
    assert found(3)[0].tolist() != found(4)[0].tolist()
    seen = Counter(row for seed in range(60) for rows in found(seed) for row in rows.tolist())
    assert len(seen) == 121, "every row has a chance"
    assert set(found(0, 12)[0].tolist()) < set(found(0, 40)[0].tolist()), "a larger draw contains the smaller"


def test_a_class_has_at_least_as_many_candidates_as_samples(split: Split) -> None:
    assert [len(rows) for rows in drawn(split, [4, 16], method(candidates=24), seed=0)] == [8, 16]


def test_too_few_rows_or_candidates_are_refused(split: Split, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="class 1 has 31 different training rows, too few for its 32 samples"):
        drawn(split, [32, 32], method(shots=32), seed=0)
    with pytest.raises(InputError, match="candidates: 9 are fewer than the 10 samples"):
        drawn(split, [5, 5], method(shots=5, candidates=9), seed=0)
