"""Tokenised splits: what is in a row, which rows are in a batch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.tokenised import BLOCK, Split, TrainingOrder, content_hash, tokenise, tokenise_plainly
from tests.conftest import build_tokenizer, corpus


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    tokenizer = build_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    rows = Dataset.from_list(corpus(101, seed=5))
    return Split(tokenise(rows, ("text",), tokenizer, 9), tokenizer)


def test_a_language_model_reads_text_alone_and_keeps_both_texts_of_a_pair(split: Split) -> None:
    def words(*texts: str) -> Dataset:
        return Dataset.from_list([{"one": texts[0], "other": texts[1], "label": 1}])

    tokenizer = split.tokenizer
    ids = tokenizer("word1 word2 word3 word4 word5", add_special_tokens=False)["input_ids"]
    alone = tokenise_plainly(words("word1 word2", "x"), ("one",), tokenizer, 9)[0]
    assert (alone["input_ids"], alone["length"], "first" in alone) == (ids[:2], 2, False)
    whole = tokenise_plainly(words("word1 word2", "word3 word4 word5"), ("one", "other"), tokenizer, 9)[0]
    assert (whole["input_ids"], whole["first"], whole["length"]) == (ids, 2, 5)
    # the longer text loses its end first; then both in turn
    cut = tokenise_plainly(words("word1", "word2 word3 word4 word5"), ("one", "other"), tokenizer, 3)[0]
    assert (cut["input_ids"], cut["first"]) == ([ids[0], *ids[1:3]], 1)
    even = tokenise_plainly(words("word1 word2 word3", "word4 word5"), ("one", "other"), tokenizer, 2)[0]
    assert (even["input_ids"], even["first"]) == ([ids[0], ids[3]], 1)


def test_rows_are_truncated_and_keep_their_order(split: Split) -> None:
    original = corpus(101, seed=5)
    assert split.labels.tolist() == [row["label"] for row in original]
    for tokens, row in zip(split.rows, original, strict=True):
        words = row["text"].split()[:7]
        assert split.tokenizer.convert_ids_to_tokens(tokens["input_ids"]) == ["[CLS]", *words, "[SEP]"]
        assert tokens["length"] == len(tokens["input_ids"]) <= 9
    assert max(split.lengths) == 9


def test_a_split_survives_the_disk(split: Split, tmp_path: Path) -> None:
    split.rows.save_to_disk(tmp_path / "dev")
    again = Split.load(tmp_path / "dev", split.tokenizer)
    assert again.rows.to_list() == split.rows.to_list()
    assert content_hash(again.rows) == content_hash(split.rows)


def test_the_hash_sees_tokens_labels_and_order(split: Split) -> None:
    digest = content_hash(split.rows)
    assert content_hash(split.select(range(100)).rows) != digest
    assert content_hash(split.select([1, 0, *range(2, 101)]).rows) != digest
    flipped = split.rows.map(lambda row: {"label": 1 - row["label"]}, keep_in_memory=True)
    assert content_hash(flipped) != digest


def test_a_batch_is_padded_masked_and_of_a_multiple_of_eight(split: Split) -> None:
    rows = [3, 50, 7]
    batch = split.batch(rows)
    assert batch["input_ids"].shape[1] % 8 == 0
    assert batch["labels"].tolist() == [split.rows[row]["label"] for row in rows]
    for position, row in enumerate(rows):
        ids = split.rows[row]["input_ids"]
        assert batch["input_ids"][position].tolist() == ids + [0] * (batch["input_ids"].shape[1] - len(ids))
        assert batch["attention_mask"][position].sum() == len(ids)
        assert batch["attention_mask"][position, : len(ids)].all()
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels"}


@pytest.mark.parametrize("size", [1, 7, 64, 101, 1000])
def test_batches_cover_every_row_once_in_order_of_length(split: Split, size: int) -> None:
    batches = split.batches(size=size)
    positions = torch.cat([rows for rows, _ in batches])
    assert sorted(positions.tolist()) == list(range(101))
    assert all(len(rows) == len(batch["labels"]) <= size for rows, batch in batches)
    lengths = split.lengths[positions.numpy()]
    assert (np.diff(lengths) >= 0).all()
    labels = torch.cat([batch["labels"] for _, batch in batches])
    assert (labels == split.labels[positions]).all()


def test_batches_are_also_made_one_at_a_time(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a large split is never in memory as a whole."""
    made, true = [], Split.batch

    def batch(self: Split, *arguments: object) -> object:
        made.append(1)
        return true(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Split, "batch", batch)
    one_by_one = split.by_length(size=16)
    first = next(one_by_one)
    assert len(made) == 1
    for found, wanted in zip([first, *one_by_one], split.batches(size=16), strict=True):
        assert torch.equal(found[0], wanted[0])
        assert torch.equal(found[1]["input_ids"], wanted[1]["input_ids"])


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 80), min_size=2, max_size=5),
    share=st.floats(0.05, 1.2),
    seed=st.integers(0, 2**40),
)
def test_stratified_keeps_class_shares(counts: list[int], share: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(seed).shuffle(labels)
    whole = Split(Dataset.from_dict({"label": labels, "row": np.arange(len(labels))}), None)
    rows = max(1, round(share * len(labels)))
    drawn = whole.stratified(rows, seed, "test")
    chosen = drawn.rows["row"][:]
    assert len(chosen) == min(rows, len(labels)) == len(set(chosen))
    assert chosen == sorted(chosen)
    present = Counter(drawn.rows["label"])
    for label, count in enumerate(counts):
        assert abs(present[label] - len(chosen) * count / len(labels)) <= 1.0 + 1e-9
    assert whole.stratified(rows, seed, "test").rows["row"][:] == chosen


def test_stratified_differs_by_seed_and_purpose(split: Split) -> None:
    draws = [split.stratified(20, *name).rows.to_list() for name in ((1, "a"), (2, "a"), (1, "b"))]
    assert draws[0] != draws[1]
    assert draws[0] != draws[2]
    assert split.stratified(101, 1, "a") is split


orders = given(
    rows=st.integers(1, 300),
    size=st.integers(1, 40),
    seed=st.integers(0, 2**40),
    bucket=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@orders
def test_an_epoch_is_a_permutation_and_drops_the_incomplete_batch(
    rows: int, size: int, seed: int, bucket: bool
) -> None:
    lengths = np.random.default_rng(seed).integers(3, 30, rows)
    order = TrainingOrder(lengths, size, seed, bucket)
    steps = order.batches_per_epoch
    assert steps == max(1, rows // size)
    epochs = []
    for epoch in range(2):
        batches = [order.at(epoch * steps + step) for step in range(steps)]
        seen = np.concatenate(batches)
        assert len(set(seen.tolist())) == len(seen), "no row twice in an epoch"
        assert set(seen.tolist()) <= set(range(rows))
        assert all(len(batch) == min(size, rows) for batch in batches), "never a smaller batch, never an empty one"
        epochs.append(seen)
    assert len(epochs[0]) == steps * min(size, rows)


@settings(max_examples=40, deadline=None)
@orders
def test_a_batch_is_a_pure_function_of_seed_and_step(rows: int, size: int, seed: int, bucket: bool) -> None:
    lengths = np.random.default_rng(seed).integers(3, 30, rows)
    steps = [17, 0, 5, 17, 3]
    used = TrainingOrder(lengths, size, seed, bucket)
    for step in steps:
        fresh = TrainingOrder(lengths, size, seed, bucket)
        assert used.at(step).tolist() == fresh.at(step).tolist()


def test_epochs_and_seeds_differ() -> None:
    lengths = np.full(64, 5)
    order, other = TrainingOrder(lengths, 64, 1), TrainingOrder(lengths, 64, 2)
    drawn = [order.at(0).tolist(), order.at(1).tolist(), other.at(0).tolist()]
    assert all(sorted(batch) == list(range(64)) for batch in drawn)
    assert len({tuple(batch) for batch in drawn}) == 3


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 900), size=st.integers(1, 6), seed=st.integers(0, 1000))
def test_bucketing_keeps_the_rows_and_pads_less(rows: int, size: int, seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(3, 60, rows)
    plain, bucketed = (TrainingOrder(lengths, size, seed, bucket) for bucket in (False, True))
    steps = plain.batches_per_epoch
    per_block = [
        [
            [order.at(step).tolist() for step in range(start, min(start + BLOCK, steps))]
            for start in range(0, steps, BLOCK)
        ]
        for order in (plain, bucketed)
    ]
    padded = []
    for blocks in per_block:
        padded.append(sum(max(lengths[batch]) * len(batch) for block in blocks for batch in block))
    for before, after in zip(*per_block, strict=True):
        assert sorted(row for batch in before for row in batch) == sorted(row for batch in after for row in batch)
    assert padded[1] <= padded[0]


def test_pairs_are_told_apart(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"a": ["good word1"], "b": ["bad"], "label": [0]})
    tokens = tokenise(rows, ("a", "b"), build_tokenizer(tmp_path), 40)[0]
    assert tokens["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    assert tokens["length"] == 6
    assert "attention_mask" not in tokens
