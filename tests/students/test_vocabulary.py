"""The nearest token, beside a search over the whole vocabulary by other means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from transformers import BertTokenizerFast

from pipeline.students.vocabulary import Measure, nearest_tokens, neighbours, surviving, unwritable_ids

MEASURES: list[Measure] = ["cosine", "l2"]


def words(rows: int = 50, width: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("measure", MEASURES)
def test_it_is_the_nearest_of_all(measure: Measure) -> None:
    matrix, vectors = words(), words(24, seed=1).view(4, 6, 6)
    every = cdist(vectors.reshape(-1, 6).double(), matrix.double(), "cosine" if measure == "cosine" else "euclidean")
    found = nearest_tokens(vectors, matrix, measure)
    assert found.ids.shape == found.distances.shape == (4, 6)
    assert found.ids.flatten().tolist() == every.argmin(axis=1).tolist()
    np.testing.assert_allclose(found.distances.flatten(), every.min(axis=1), atol=1e-12)


def test_the_two_measures_can_disagree() -> None:
    matrix = torch.tensor([[10.0, 0.0], [0.5, 0.5]])
    vector = torch.tensor([1.0, 0.1])
    assert nearest_tokens(vector, matrix, "cosine").ids.item() == 0
    assert nearest_tokens(vector, matrix, "l2").ids.item() == 1


@pytest.mark.parametrize("measure", MEASURES)
def test_a_token_is_nearest_to_itself(measure: Measure) -> None:
    """Also in a large vocabulary, where expanding the square loses the digits of a distance of zero."""
    matrix = words(3000, 64) + 30
    found = nearest_tokens(matrix[[7, 2999]], matrix, measure)
    assert found.ids.tolist() == [7, 2999]
    assert found.distances.abs().max() < 1e-12


@pytest.mark.parametrize("measure", MEASURES)
def test_of_equals_the_smallest_id(measure: Measure) -> None:
    matrix = torch.cat([words(5), words(5)])
    assert nearest_tokens(words(5), matrix, measure).ids.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("measure", MEASURES)
def test_some_tokens_can_be_left_out(measure: Measure) -> None:
    matrix = words()
    found = nearest_tokens(matrix, matrix, measure, without=[3, 4])
    assert not {3, 4} & set(found.ids.tolist())
    assert found.ids[[0, 1, 2]].tolist() == [0, 1, 2]


@pytest.mark.parametrize("measure", MEASURES)
def test_the_batch_changes_nothing(measure: Measure) -> None:
    matrix, vectors = words(), words(33, seed=2)
    one, all_ = nearest_tokens(vectors, matrix, measure, batch=1), nearest_tokens(vectors, matrix, measure, batch=99)
    assert torch.equal(one.ids, all_.ids)


def test_a_row_of_zeros_is_near_to_nothing_by_cosine() -> None:
    """Padding tokens often have one."""
    matrix = torch.tensor([[0.0, 0.0], [-1.0, 0.1], [1.0, 0.0]])
    found = nearest_tokens(torch.tensor([1.0, 0.0]), matrix)
    assert (found.ids.item(), found.distances.item()) == (2, pytest.approx(0.0))


@pytest.mark.parametrize("measure", MEASURES)
def test_the_vocabulary_may_come_in_parts(measure: Measure) -> None:
    """Of equals in different parts, too, the smallest id."""
    matrix, vectors = torch.cat([words(40), words(40)]), words(24, seed=1)
    whole = nearest_tokens(vectors, matrix, measure, without=[3, 50])
    parts = nearest_tokens(vectors, matrix, measure, without=[3, 50], tokens=7)
    assert torch.equal(whole.ids, parts.ids)
    assert torch.equal(whole.distances, parts.distances)
    assert (whole.ids < 40).sum() + (whole.ids == 43).sum() == 24


PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]", "play", "the", "##ing", "##er", ",", "9"]


@pytest.fixture
def pieces(tmp_path: Path) -> BertTokenizerFast:
    """Words, continuations and a token that no text has."""
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))


def test_which_tokens_can_be_written(pieces: BertTokenizerFast) -> None:
    """A continuation can follow a word; ``[unused1]`` is read as its letters; row 12 of the matrix is no token."""
    pieced, whole = (unwritable_ids(pieces, 13, whole_words=whole) for whole in (False, True))
    assert [PIECES[i] for i in range(12) if i not in pieced] == ["play", "the", "##ing", "##er", ",", "9"]
    assert [PIECES[i] for i in range(12) if i not in whole] == ["play", "the", ",", "9"]
    assert 12 in pieced
    assert 12 in whole


@pytest.mark.parametrize(
    ("tokens", "found"),
    [
        (["[CLS]", "the", "play", "##ing", "[SEP]", "[PAD]"], (3, 3, True)),
        (["[CLS]", "##ing", "the"], (1, 2, False)),  # read as "#", "#", "ing", which this vocabulary lacks
        (["the", ",", "##er", "play"], (3, 4, False)),  # ",er"
        ([], (0, 0, True)),
    ],
)
def test_what_comes_back_from_text(pieces: BertTokenizerFast, tokens: list[str], found: tuple[int, int, bool]) -> None:
    assert surviving(pieces, [PIECES.index(token) for token in tokens]) == found


@pytest.mark.parametrize("measure", MEASURES)
def test_neighbours_in_the_order_of_their_distance(measure: Measure) -> None:
    """Beside SciPy's distances: the token itself, allowed or not, then the allowed others; all where count is large."""
    matrix, without = words(40), [3, 7]
    every = cdist(matrix.double(), matrix.double(), "cosine" if measure == "cosine" else "euclidean")
    tokens = torch.tensor([[0, 3], [12, 39]])
    found = neighbours(tokens, matrix, 5, measure, without=without, batch=3)
    assert found.shape == (2, 2, 5)
    for token, own in zip(tokens.flatten().tolist(), found.view(4, 5).tolist(), strict=True):
        others = [other for other in every[token].argsort().tolist() if other != token and other not in without]
        assert own == [token, *others[:4]]
    assert neighbours(tokens, matrix, 1000, measure, without=without).shape == (2, 2, 38)


def test_neighbours_that_are_equally_near() -> None:
    matrix = torch.tensor([[0.0], [1.0], [-1.0], [1.0]])
    assert neighbours(torch.tensor([0, 3]), matrix, 4, "l2").tolist() == [[0, 1, 2, 3], [3, 1, 0, 2]]
