"""Metrics of one student on one split; fractions (MCC in -1 … 1, loss in nats)."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor
from torch.nn import functional as F

BINS = 15


def measure(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """All metrics of predicted logits.

    Args:
        logits: [rows, C].
        labels: [rows] true classes.

    Returns:
        accuracy, balanced_accuracy, macro_f1, mcc, ece, loss; and for two classes f1 (of class 1) and accuracy_f1,
        the mean of accuracy and F1 that the paper reports for MRPC (GLUE).

    """
    probabilities = logits.double().softmax(dim=-1)
    return decisions(logits.argmax(dim=-1), labels, logits.shape[1]) | {
        "ece": calibration_error(probabilities, labels),
        "loss": F.cross_entropy(logits.double(), labels).item(),
    }


def decisions(predicted: Tensor, labels: Tensor, classes: int) -> dict[str, float]:
    """The metrics that need predicted classes only.

    Args:
        predicted: [rows] classes.
        labels: [rows] true classes.
        classes: C.

    """
    true, guess = labels.numpy(), predicted.numpy()
    found = {
        "accuracy": accuracy_score(true, guess),
        "balanced_accuracy": balanced_accuracy_score(true, guess),
        "macro_f1": f1_score(true, guess, labels=range(classes), average="macro", zero_division=0),
        "mcc": matthews_corrcoef(true, guess),
    }
    if classes == 2:
        found["f1"] = f1_score(true, guess, zero_division=0)
        found["accuracy_f1"] = (found["accuracy"] + found["f1"]) / 2
    return {name: float(value) for name, value in found.items()}


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Expected calibration error with 15 equal bins of confidence (Guo et al., 2017, equation 3).

    Args:
        probabilities: [rows, C].
        labels: [rows].

    """
    confidence, predicted = probabilities.max(dim=-1)
    correct = (predicted == labels).double().numpy()
    bins = np.clip(np.ceil(confidence.numpy() * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = [
        abs(correct[bins == b].mean() - confidence.numpy()[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    ]
    return float(np.sum(gaps))


def predicted_majority(labels: Tensor, rows: int) -> Tensor:
    """[rows] the class with the largest sum of label weights [N, C], for every row."""
    return torch.full((rows,), int(labels.sum(dim=0).argmax()))
