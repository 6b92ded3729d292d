"""What a set of text begins as: real training sentences, at random or chosen, or the words that tell classes apart.

:func:`beginning` is the set that is nothing but that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import Beginning, Distill, Sentences
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Split, shortened
from pipeline.distilled import DistilledSet, Recipe
from pipeline.errors import InputError
from pipeline.methods.coresets.geometry import nearest_to_centroids
from pipeline.methods.coresets.vectors import load_student
from pipeline.methods.text.set import Vocabulary
from pipeline.randomness import derive, numpy_generator
from pipeline.students.encoder import Student
from pipeline.students.vocabulary import frame

Scores = np.ndarray[Any, np.dtype[np.float64]]
_RARE = 2000


def beginning(config: Distill, prepared: Prepared) -> DistilledSet:
    """The set of ``sentences``: what learned text begins as.

    Raises:
        InputError: see :func:`check_length`, :func:`candidates` and :func:`starts`.

    """
    method, texts = config.method, len(config.source.task.text)
    assert isinstance(method, Sentences)
    check_length(method, prepared.manifest)
    student = load_student(config, prepared)
    marks, vocabulary = frame(prepared.tokenizer, texts), Vocabulary.of(method, prepared, student, texts)
    pools = candidates(method, prepared, vocabulary, marks, config.seed)
    (token_ids,) = starts(method, prepared, pools, vocabulary, marks, student, config.seed)
    C = len(prepared.classes)
    label_ids = torch.arange(len(token_ids)) % C
    return DistilledSet(
        labels=F.one_hot(label_ids, C).float(),
        label_ids=label_ids,
        recipe=Recipe("finetune"),
        token_ids=token_ids,
        token_type_ids=vocabulary.segments(token_ids),
    )


def check_length(method: Beginning, manifest: dict[str, Any]) -> None:
    """Refuses samples that are longer than what students read.

    Raises:
        InputError: they are.

    """
    if method.sequence_length > manifest["max_length"]:
        raise InputError(
            f"sequence_length: {method.sequence_length} is more than the {manifest['max_length']} tokens to which "
            f"sentences are cut (prepare.max_length); give at most that"
        )


def starts(
    method: Beginning,
    prepared: Prepared,
    pools: Sequence[Tensor],
    vocabulary: Vocabulary,
    marks: Sequence[Sequence[int]],
    student: Student,
    seed: int,
    count: int = 1,
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
        count: starts that are drawn, of ``real`` sentences; there is one of everything else.

    Raises:
        InputError: see :func:`telling_words`.

    """
    if method.initialise == "real":
        return [_turns([_draw(pool, method, seed, label, k) for label, pool in enumerate(pools)])
                for k in range(count)]  # fmt: skip
    if method.initialise == "centres":
        vectors = [_vectors(pool, vocabulary, student, seed) for pool in pools]
        seeds = [derive(seed, "centres of text", label) % 2**32 for label in range(len(pools))]
        rows = [nearest_to_centroids(v, method.shots, number) for v, number in zip(vectors, seeds, strict=True)]
        return [_turns([pool[torch.from_numpy(chosen)] for pool, chosen in zip(pools, rows, strict=True)])]
    telling = class_scores(prepared, vocabulary.barred, len(vocabulary.matrix))
    if method.initialise == "telling":
        return [_turns([pool[telling_rows(pool, row, method.shots)] for pool, row in zip(pools, telling, strict=True)])]
    width = method.sequence_length - sum(map(len, marks))
    words = [telling_words(row, method.shots, width, label).tolist() for label, row in enumerate(telling)]
    framed = [[put_together(_dealt(own, len(marks) - 1), marks) for own in of_class] for of_class in words]
    return [_turns([torch.tensor(samples) for samples in framed])]


def _turns(of_classes: Sequence[Tensor]) -> Tensor:
    """[C · shots, S]: the first sample of every class, the second of every class, …"""
    return torch.stack(list(of_classes), dim=1).flatten(end_dim=1)


def _draw(pool: Tensor, method: Beginning, seed: int, label: int, start: int) -> Tensor:
    """[shots, S] of start number ``start``; starts share none while the class has enough."""
    order = numpy_generator(seed, "initial sentences", label).permutation(len(pool))
    return pool[np.take(order, range(start * method.shots, (start + 1) * method.shots), mode="wrap")]


def class_scores(prepared: Prepared, barred: Sequence[int], vocabulary: int) -> Scores:
    """[C, vocabulary] how much a token's presence speaks for a class: log of the ratio of its shares, ones added.

    Of a token that k of a class's n rows have, and k' of the n' others, log (k+1)/n − log (k'+1)/n'; of one that less
    than a row in 2,000 has, and of one that is ``barred``, 0. (z-scores, which prefer frequent words, chose worse.)
    """
    train, classes = prepared.split("train"), len(prepared.classes)
    labels = train.labels.numpy()
    counts = np.zeros((classes, vocabulary))
    for label, ids in zip(labels.tolist(), train.rows["input_ids"], strict=True):
        counts[label, np.unique(ids)] += 1
    rows, total = np.bincount(labels, minlength=classes)[:, None], counts.sum(axis=0)
    found: Scores = np.log((counts + 1) / rows) - np.log((total - counts + 1) / (len(labels) - rows))
    found[:, total < len(labels) / _RARE] = 0.0
    found[:, list(barred)] = 0.0
    return found


def telling_rows(pool: Tensor, scores: Scores, shots: int) -> Tensor:
    """Greedy: the row whose words, each counted once in all that are chosen, have the highest sum of scores.

    Words that speak against the class count every time; the lowest of equal rows is taken.
    """
    scores, chosen = scores.copy(), list[int]()
    distinct = [np.unique(row) for row in pool.numpy()]
    for _ in range(shots):
        sums = np.asarray([scores[tokens].sum() for tokens in distinct])
        sums[chosen] = -np.inf
        chosen.append(int(sums.argmax()))
        scores[distinct[chosen[-1]]] = np.minimum(scores[distinct[chosen[-1]]], 0.0)
    return torch.tensor(chosen)


def telling_words(scores: Scores, shots: int, width: int, label: int) -> Tensor:
    """[shots, width] the tokens with the highest scores, dealt out in turns; the smaller id of equals first.

    Raises:
        InputError: class ``label`` has fewer that speak for it, whose score is above 0.

    """
    wanted, found = shots * width, int((scores > 0).sum())
    if found < wanted:
        raise InputError(
            f"class {label} has {found} telling words, too few for shots: {shots} of {width} words each, which are "
            f"{wanted}; lower shots or sequence_length"
        )
    best = np.argsort(-scores, kind="stable")[:wanted]
    return torch.from_numpy(best.reshape(width, shots).T.copy())


def _dealt(words: list[int], texts: int) -> list[list[int]]:
    """So many texts of consecutive words, the first ones longer where they cannot be equal."""
    return [part.tolist() for part in np.array_split(words, texts)]


def candidates(
    method: Beginning, prepared: Prepared, vocabulary: Vocabulary, marks: Sequence[Sequence[int]], seed: int
) -> list[Tensor]:
    """Of every class [rows, S] real training sentences or pairs, cut to S tokens; a draw of (seed, class).

    They have S tokens or more, and are ``method.candidates`` in all, as many of every class as can be; where samples
    begin as ``telling`` sentences, those that tell most come first.

    Of a pair, the longer text is cut.

    Raises:
        InputError: a class has too few rows of S tokens, or these are too few for a text.

    """
    train, C, S = prepared.split("train"), len(prepared.classes), method.sequence_length
    labels, lengths, least = train.labels.numpy(), train.lengths, sum(map(len, marks)) + len(marks) - 1
    if least > S:
        raise InputError(f"sequence_length: {S} has no room for a word in every text; give at least {least}")
    wanted = max(method.shots, method.candidates // C)
    found = []
    for label in range(C):
        rows = np.flatnonzero((labels == label) & (lengths >= S))
        if len(rows) < method.shots:
            raise InputError(
                f"class {label} has {len(rows)} training rows of sequence_length: {S} tokens or more, too few for "
                f"shots: {method.shots}; lower one of them"
            )
        rows = numpy_generator(seed, "candidate sentences", label).permutation(rows)[:wanted]
        found.append(_cut(train, rows, S, marks))
    if method.initialise == "telling":
        scores = class_scores(prepared, vocabulary.barred, len(vocabulary.matrix))
        found = [pool[torch.from_numpy(_telling(pool, row))] for pool, row in zip(found, scores, strict=True)]
    return found


def _telling(pool: Tensor, scores: Scores) -> Any:
    """The rows by the sum of their words' scores, the highest first."""
    return np.argsort([-scores[np.unique(row)].sum() for row in pool.numpy()], kind="stable")


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
