"""Rules that rank rows by what students, trained on the whole training split, make of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import EL2N, ByScores, Distill, LossRank
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Split
from pipeline.methods.budgets import Integers
from pipeline.methods.coresets.vectors import load_student, trained
from pipeline.students.scoring import score

Scores = np.ndarray[Any, np.dtype[np.float64]]


def ranked(
    config: Distill, prepared: Prepared, train: Split, candidates: Sequence[Integers], shares: Sequence[int]
) -> list[Integers]:
    """The rows of every class with the lowest or highest mean score; of equal ones the lower row."""
    method = config.method
    assert isinstance(method, LossRank | EL2N)
    scores = mean_scores(config, prepared, train.select(np.concatenate(candidates)), train)
    ends = np.cumsum([0, *map(len, candidates)])
    ordered = [
        rows[best_first(scores[start:end], method.keep == "highest")]
        for rows, start, end in zip(candidates, ends, ends[1:], strict=False)
    ]
    return [rows[:share] for rows, share in zip(ordered, shares, strict=True)]


def mean_scores(config: Distill, prepared: Prepared, rows: Split, train: Split) -> Scores:
    """[rows] scores averaged over the method's trainings, each from a fresh classifier and in an order of its own."""
    method = config.method
    assert isinstance(method, ByScores)
    student, C = load_student(config, prepared), len(prepared.classes)
    rule = error_length if isinstance(method, EL2N) else cross_entropy
    total = torch.zeros(len(rows), dtype=torch.float64)
    for number in range(method.trainings):
        theta = trained(student, train, C, method.training, config.seed, number)
        total += rule(score(student, theta, rows.by_length(student.device)), rows.labels)
    return np.asarray(total / method.trainings)


def best_first(scores: Scores, highest: bool) -> Integers:
    """Positions by score; of equal ones the lower first."""
    return np.argsort(-scores if highest else scores, kind="stable").astype(np.int64)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """[rows] −log softmax(logits)_y."""
    return F.cross_entropy(logits.double(), labels, reduction="none")


def error_length(logits: Tensor, labels: Tensor) -> Tensor:
    """[rows] ‖softmax(logits) − one-hot(y)‖₂ (EL2N; Paul, Ganguli and Dziugaite, NeurIPS 2021)."""
    error = logits.double().softmax(dim=-1) - F.one_hot(labels, logits.shape[1])
    return error.square().sum(dim=-1).sqrt()
