"""The two terms of the inner loss (DDAL, section 3), and the outer loss with its corrections for rare classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-12  # added to the student's probabilities before the logarithm, as the published code does


def soft_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """−Σ_c y_c log softmax(logits)_c, mean over samples.

    Args:
        logits: [m, C], or [K, m, C] of K students at once, whose losses are added: each gets its own full gradient.
        labels: [m, C] one-hot, probabilities, or unrestricted reals; of K students also [K, m, C].

    """
    if logits.ndim == 2:
        return F.cross_entropy(logits, labels)
    return -(labels * logits.log_softmax(dim=-1)).sum(dim=-1).mean(dim=-1).sum()


def attention_loss(attention: Tensor, labels: Tensor) -> Tensor:
    """KL(attention label ‖ student attention): summed over keys, mean over samples, layers, heads and query rows.

    Args:
        attention: [m, L, heads, Q, S] the student's attention probabilities.
        labels: [m, L, heads, Q, S] attention labels, probabilities over the S keys.

    """
    assert attention.shape == labels.shape
    return (torch.xlogy(labels, labels) - labels * (attention + TINY).log()).sum(dim=-1).mean()


@dataclass(frozen=True)
class OuterLoss:
    """Mean over rows of w_y · −log softmax(z + a)_y: cross-entropy with class weights w and logit offsets a.

    The mean divides by the number of rows, not by the sum of their weights, so that the parts of a batch add up to the
    whole. Both may have any floating type and device; they are taken to the logits'.

    Attributes:
        weights: [C] w, or ``None``: all one.
        offsets: [C] a, or ``None``: all zero.

    """

    weights: Tensor | None = None
    offsets: Tensor | None = None

    def mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of rows [B, C], or [K, B, C] of K students, of the classes ``labels`` [B]; a scalar."""
        if logits.ndim > 2:
            labels = labels.expand(logits.shape[:-1]).flatten()
            logits = logits.flatten(end_dim=-2)
        if self.weights is None:
            return F.cross_entropy(self.shifted(logits), labels)
        total = F.cross_entropy(self.shifted(logits), labels, weight=self.weights.to(logits), reduction="sum")
        return total / len(labels)

    def shifted(self, logits: Tensor) -> Tensor:
        """z + a."""
        return logits if self.offsets is None else logits + self.offsets.to(logits)

    def targets(self, labels: Tensor, classes: int) -> Tensor:
        """[B, C] one-hot rows times the weight of their class: −Σ targets · log softmax(z + a) is the sum over rows."""
        rows = F.one_hot(labels, classes)
        return rows if self.weights is None else rows * self.weights.to(labels.device)


CROSS_ENTROPY = OuterLoss()
