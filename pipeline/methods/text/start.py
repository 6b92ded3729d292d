"""What a set of text begins as: real training sentences, at random or chosen, or the words that tell classes apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.config import Text
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Split, shortened
from pipeline.errors import InputError
from pipeline.methods.budgets import Integers
from pipeline.methods.coresets.candidates import of_length
from pipeline.methods.coresets.geometry import nearest_to_centroids
from pipeline.methods.coresets.words import Scores, class_scores, ranked, telling
from pipeline.methods.text.set import Vocabulary
from pipeline.randomness import derive, numpy_generator
from pipeline.students.encoder import Student


def starts(
    method: Text,
    prepared: Prepared,
    pools: Sequence[Tensor],
    vocabulary: Vocabulary,
    marks: Sequence[Sequence[int]],
    student: Student,
    seed: int,
) -> list[Tensor]:
    """[N, S] token ids of each start; sample i is of class i mod C.

    Args:
        method: of the cell.
        prepared: stage 1's output.
        pools: of every class the sentences [rows, S] to choose from.
        vocabulary: what tokens may become.
        marks: the special tokens before, between and after the texts of a row.
        student: whose vectors ``centres`` are of.
        seed: of the cell.

    """
    if method.initialise == "real":
        return [_turns([_draw(pool, method, seed, label, k) for label, pool in enumerate(pools)])
                for k in range(method.starts)]  # fmt: skip
    if method.initialise == "centres":
        vectors = [_vectors(pool, vocabulary, student, seed) for pool in pools]
        seeds = [derive(seed, "centres of text", label) % 2**32 for label in range(len(pools))]
        rows = [nearest_to_centroids(v, method.shots, number) for v, number in zip(vectors, seeds, strict=True)]
        return [_turns([pool[torch.from_numpy(chosen)] for pool, chosen in zip(pools, rows, strict=True)])]
    scores = _scores(prepared, vocabulary)
    if method.initialise == "telling":
        rows = [telling(_distinct(pool), row, method.shots) for pool, row in zip(pools, scores, strict=True)]
        return [_turns([pool[torch.from_numpy(chosen)] for pool, chosen in zip(pools, rows, strict=True)])]
    width = method.sequence_length - sum(map(len, marks))
    words = [telling_words(row, method.shots, width).tolist() for row in scores]
    framed = [[put_together(_dealt(own, len(marks) - 1), marks) for own in of_class] for of_class in words]
    return [_turns([torch.tensor(samples) for samples in framed])]


def _turns(of_classes: Sequence[Tensor]) -> Tensor:
    """[C · shots, S]: the first sample of every class, the second of every class, …"""
    return torch.stack(list(of_classes), dim=1).flatten(end_dim=1)


def _draw(pool: Tensor, method: Text, seed: int, label: int, start: int) -> Tensor:
    """[shots, S] of start number ``start``; starts share none while the class has enough."""
    order = numpy_generator(seed, "initial sentences", label).permutation(len(pool))
    return pool[np.take(order, range(start * method.shots, (start + 1) * method.shots), mode="wrap")]


def telling_words(scores: Scores, shots: int, width: int) -> Tensor:
    """[shots, width] the tokens with the highest scores, dealt out in turns; the smaller id of equals first."""
    best = np.argsort(-scores, kind="stable")[: shots * width]
    return torch.from_numpy(best.reshape(width, shots).T.copy())


def _dealt(words: list[int], texts: int) -> list[list[int]]:
    """So many texts of consecutive words, the first ones longer where they cannot be equal."""
    return [part.tolist() for part in np.array_split(words, texts)]


def candidates(
    method: Text, prepared: Prepared, vocabulary: Vocabulary, marks: Sequence[Sequence[int]], seed: int
) -> list[Tensor]:
    """Of every class [rows, S] real training sentences or pairs, cut to S tokens; a draw of (seed, class).

    Those of exactly S tokens come first, then the next longer ones, until there are ``method.candidates`` in all, as
    for the coreset ``telling``; where samples begin as ``telling`` sentences, those that tell most come first.

    Of a pair, the longer text is cut.

    Raises:
        InputError: a class has too few rows of S tokens, or these are too few for a text.

    """
    train, S = prepared.split("train"), method.sequence_length
    least = sum(map(len, marks)) + len(marks) - 1
    if least > S:
        raise InputError(f"sequence_length: {S} has no room for a word in every text; give at least {least}")
    rows = of_length(train, [method.shots] * len(prepared.classes), S, method.candidates, seed)
    found = [_cut(train, of_class, S, marks) for of_class in rows]
    if method.initialise == "telling":
        scores = _scores(prepared, vocabulary)
        found = [pool[torch.from_numpy(ranked(_distinct(pool), row))] for pool, row in zip(found, scores, strict=True)]
    return found


def _distinct(pool: Tensor) -> list[Integers]:
    """Of every sentence its distinct tokens."""
    return [np.unique(row) for row in pool.numpy()]


def _scores(prepared: Prepared, vocabulary: Vocabulary) -> Scores:
    """[C, vocabulary] of the training split, without what may not be put in."""
    return class_scores(prepared.split("train"), len(prepared.classes), vocabulary.barred, len(vocabulary.matrix))


def _cut(train: Split, rows: np.ndarray[Any, Any], length: int, marks: Sequence[Sequence[int]]) -> Tensor:
    """[rows, length]; special tokens stay around the texts."""
    room = length - sum(map(len, marks))
    before, *between, after = marks
    contents = (ids[len(before) : len(ids) - len(after)] for ids in train.rows[rows]["input_ids"])
    return torch.tensor([put_together(shortened(texts_in(each, between), room), marks) for each in contents])


def texts_in(content: list[int], between: Sequence[Sequence[int]]) -> list[list[int]]:
    """A row without the marks at its ends as its text or, where the marks between two are in it, both texts."""
    if not between or between[0][0] not in content:
        return [content]
    end = content.index(between[0][0])
    return [content[:end], content[end + len(between[0]) :]]


def put_together(texts: Sequence[list[int]], marks: Sequence[Sequence[int]]) -> list[int]:
    """The row of these texts, with the tokens before, between and after them."""
    before, *others = marks
    return [*before, *(token for text, mark in zip(texts, others, strict=True) for token in (*text, *mark))]


@torch.no_grad()
def _vectors(
    pool: Tensor, vocabulary: Vocabulary, student: Student, seed: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """[rows, H] first-token vectors of the frozen encoder."""
    theta, found = student.initial(seed, 0), []
    for ids in pool.to(student.device).split(64):
        numbers = vocabulary.segments(ids)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        batch |= {} if numbers is None else {"token_type_ids": numbers}
        found.append(student.vectors(theta, batch, "first").cpu())
    return torch.cat(found).numpy()
