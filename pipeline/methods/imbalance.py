"""Classes of unequal size: which real batches methods see, what their outer loss weighs, what validation compares."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score, matthews_corrcoef
from torch import Tensor
from torch.nn import functional as F

from pipeline.bilevel import CROSS_ENTROPY, OuterLoss
from pipeline.config import BPTT, DDAL, ClassWeights, CrossEntropy, Outer, RealLoss, Selection, Text, VectorOuter
from pipeline.data.balanced import BalancedOrder
from pipeline.data.tokenised import TrainingOrder
from pipeline.errors import InputError
from pipeline.methods.budgets import Integers


def check_classes(method: DDAL | BPTT | Text, manifest: dict[str, Any]) -> None:
    """Refuses options that need rows of every class, or batches that classes share equally, where they are not there.

    Raises:
        InputError: a class has no training rows, or the batch cannot be divided equally.

    """
    outer, C = method.outer, len(manifest["classes"])
    budget = method.division
    by_counts = {
        "outer.sampling: balanced": outer.sampling == "balanced",
        f"outer.loss: {outer.loss.name}": not isinstance(outer.loss, CrossEntropy),
        f"budget: {budget}": budget != "uniform",
    }
    asked = [words for words, given in by_counts.items() if given]
    if not asked:
        return
    for name, rows in zip(manifest["classes"], manifest["class_counts"]["train"], strict=True):
        if rows == 0:
            raise InputError(f"class '{name}' has no training rows, so {asked[0]} means nothing; remove it")
    if outer.sampling == "balanced" and outer.batch_size % C:
        below, above = outer.batch_size // C * C, -(-outer.batch_size // C) * C
        allowed = f"{below} or {above}" if below else f"{above}"
        raise InputError(
            f"outer.sampling: balanced gives each of {C} classes the same number of rows, and outer.batch_size: "
            f"{outer.batch_size} is no multiple of {C}; give {allowed}"
        )


def real_order(
    labels: Tensor, lengths: Integers, classes: int, outer: Outer | VectorOuter, seed: int
) -> TrainingOrder | BalancedOrder:
    """Which of the training rows, of these classes [rows] and tokens [rows], the real batches hold."""
    bucket = isinstance(outer, Outer) and outer.bucket_by_length
    if outer.sampling == "shuffled":
        return TrainingOrder(lengths, outer.batch_size, seed, bucket)
    return BalancedOrder(labels.numpy(), lengths, classes, outer.batch_size, seed, bucket)


def outer_loss(given: RealLoss, counts: Integers) -> OuterLoss:
    """The loss of real rows for a training split that has ``counts`` [C] rows of each class.

    * class weights: w_c ∝ 1 / n_c, or (1 − β) / (1 − β^n_c), with Σ n_c w_c = n (Cui et al., CVPR 2019, section 4);
    * logit adjustment: a_c = τ log(n_c / n) (Menon et al., ICLR 2021, equation 10).
    """
    if isinstance(given, CrossEntropy):
        return CROSS_ENTROPY
    n = counts.astype(np.float64)
    if isinstance(given, ClassWeights):
        beta = given.beta
        raw = 1 / n if beta is None else np.full_like(n, 1.0) if beta == 0 else 1 / -np.expm1(n * np.log(beta))
        return OuterLoss(weights=torch.from_numpy(raw * n.sum() / (n * raw).sum()))
    return OuterLoss(offsets=torch.from_numpy(given.tau * np.log(n / n.sum())))


def counts_of(labels: Tensor, classes: int) -> Integers:
    """[C] rows of every class, of the classes [rows] of the training split."""
    return np.bincount(labels.numpy(), minlength=classes)


def measured(by: Selection, logits: Tensor, labels: Tensor) -> float:
    """What validation compares, of logits [rows, C] and true classes [rows].

    ``balanced_loss`` is the mean over classes of their mean cross-entropy; classes without rows do not count.
    """
    if by == "loss":
        return F.cross_entropy(logits, labels).item()
    if by == "balanced_loss":
        of_rows = F.cross_entropy(logits, labels, reduction="none")
        return torch.stack([of_rows[labels == label].mean() for label in labels.unique()]).mean().item()
    guess = logits.argmax(dim=-1)
    if by == "accuracy":
        return (guess == labels).float().mean().item()
    score = balanced_accuracy_score if by == "balanced_accuracy" else matthews_corrcoef
    return float(score(labels.numpy(), guess.numpy()))
