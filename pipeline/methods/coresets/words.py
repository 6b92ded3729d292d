"""The rule on words: sentences whose tokens are much commoner in their class than in the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Split
from pipeline.methods.budgets import Integers
from pipeline.students.vocabulary import unwritable_ids

Scores = np.ndarray[Any, np.dtype[np.float64]]
_RARE = 2000


def most_telling(
    prepared: Prepared, train: Split, candidates: Sequence[Integers], shares: Sequence[int]
) -> list[Integers]:
    """The rows of every class by :func:`telling`, whole words and signs counted; of equal ones the first."""
    vocabulary = len(prepared.tokenizer)
    barred = unwritable_ids(prepared.tokenizer, vocabulary, whole_words=True)
    scores = class_scores(train, len(prepared.classes), barred, vocabulary)
    return [
        rows[telling([np.unique(ids) for ids in train.rows[rows]["input_ids"]], of_class, share)]
        for rows, of_class, share in zip(candidates, scores, shares, strict=True)
    ]


def class_scores(train: Split, classes: int, barred: Sequence[int], vocabulary: int) -> Scores:
    """[C, vocabulary] how much a token's presence speaks for a class: log of the ratio of its shares, ones added.

    Of a token that k of a class's n rows have, and k' of the n' others, log (k+1)/n − log (k'+1)/n'; of one that less
    than a row in 2,000 has, and of one that is ``barred``, 0. (z-scores, which prefer frequent words, chose worse.)
    """
    labels = train.labels.numpy()
    counts = np.zeros((classes, vocabulary))
    for label, ids in zip(labels.tolist(), train.rows["input_ids"], strict=True):
        counts[label, np.unique(ids)] += 1
    rows, total = np.bincount(labels, minlength=classes)[:, None], counts.sum(axis=0)
    found: Scores = np.log((counts + 1) / rows) - np.log((total - counts + 1) / (len(labels) - rows))
    found[:, total < len(labels) / _RARE] = 0.0
    found[:, list(barred)] = 0.0
    return found


def telling(rows: Sequence[Integers], scores: Scores, shots: int) -> Integers:
    """Greedy: the row whose tokens, each counted once in all that are chosen, have the highest sum of scores.

    Tokens that speak against the class count every time. Of equal rows the one with the highest sum at first is taken,
    of these the first.

    Args:
        rows: of every sentence its distinct tokens.
        scores: [vocabulary] of the class.
        shots: how many are chosen.

    Returns:
        [shots] positions in ``rows``, in the order in which they were chosen.

    """
    order, scores, chosen = ranked(rows, scores), scores.copy(), list[int]()
    for _ in range(shots):
        sums = np.asarray([scores[tokens].sum() for tokens in rows])
        sums[chosen] = -np.inf
        chosen.append(int(order[sums[order].argmax()]))
        scores[rows[chosen[-1]]] = np.minimum(scores[rows[chosen[-1]]], 0.0)
    return np.asarray(chosen, dtype=np.int64)


def ranked(rows: Sequence[Integers], scores: Scores) -> Integers:
    """Positions of sentences, given as their distinct tokens, by the sum of their scores, the highest first."""
    return np.argsort([-scores[tokens].sum() for tokens in rows], kind="stable")
