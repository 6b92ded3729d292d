"""Runs shared with a corpus, beside a search in strings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.tokenised import Split
from pipeline.report.card.overlap import Corpus, Tokens
from tests.conftest import build_tokenizer

Rows = list[list[int]]
ROWS = st.lists(st.lists(st.integers(5, 8), max_size=9), min_size=1, max_size=6)


def corpus(rows: Rows, folder: Path | None = None) -> Corpus:
    tokenizer = build_tokenizer(folder) if folder else None
    return Corpus(Split(Dataset.from_dict({"input_ids": [[2, *row, 3] for row in rows]}), tokenizer), [0, 2, 3])  # type: ignore[arg-type]


def tokens(*ids: int) -> Tokens:
    return np.array(ids, np.int64)


def text(row: list[int]) -> str:
    return "".join(map(str, row))


def longest(sequence: list[int], rows: Rows) -> int:
    pieces = [text(sequence[a:b]) for a in range(len(sequence)) for b in range(a + 1, len(sequence) + 1)]
    return max((len(piece) for piece in pieces if any(piece in text(row) for row in rows)), default=0)


@given(ROWS, ROWS)
def test_as_by_searching_in_strings(rows: Rows, sequences: Rows) -> None:
    here, given = corpus(rows), [tokens(*sequence) for sequence in sequences]
    found = here.shared(given)
    grams = [text(sequence[at : at + 3]) for sequence in sequences for at in range(len(sequence) - 2)]
    seen = [any(gram in text(row) for row in rows) for gram in grams]
    assert found.longest == max(longest(sequence, rows) for sequence in sequences)
    assert found.ngrams == pytest.approx(sum(seen) / len(seen) if seen else 0.0)
    assert here.whole_rows(given) == sum(sequence != [] and sequence in rows for sequence in sequences)


def test_special_tokens_and_padding_are_no_text() -> None:
    found = corpus([[5, 6, 7]])
    assert found.text([2, 5, 6, 7, 3, 0, -1]).tolist() == [5, 6, 7]
    assert found.whole_rows([found.text([5, 2, 6, 7])]) == 1


def test_no_run_goes_over_the_end_of_a_row() -> None:
    found = corpus([[5, 6], [7, 8]]).shared([tokens(5, 6, 7, 8)])
    assert (found.longest, found.ngrams) == (2, 0.0)


def test_random_sequences_have_the_corpus_tokens_and_are_the_same_every_time() -> None:
    here = corpus([[5, 5, 5, 6]] * 3)
    first, again, other = (here.drawn([400, 3], 1, purpose) for purpose in ("a", "a", "b"))
    assert [len(each) for each in first] == [400, 3]
    assert (first[0] == again[0]).all()
    assert (first[0] != other[0]).any()
    assert 250 < (first[0] == 5).sum() < 350
    assert set(first[0]) == {5, 6}
