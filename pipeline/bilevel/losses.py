"""The two terms of the inner loss (DDAL, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-12  # added to the student's probabilities before the logarithm, as the published code does


def soft_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """−Σ_c y_c log softmax(logits)_c, mean over samples.

    Args:
        logits: [m, C].
        labels: [m, C] one-hot, probabilities, or unrestricted reals.

    """
    return F.cross_entropy(logits, labels)


def attention_loss(attention: Tensor, labels: Tensor) -> Tensor:
    """KL(attention label ‖ student attention): summed over keys, mean over samples, layers, heads and query rows.

    Args:
        attention: [m, L, heads, Q, S] the student's attention probabilities.
        labels: [m, L, heads, Q, S] attention labels, probabilities over the S keys.

    """
    assert attention.shape == labels.shape
    return (torch.xlogy(labels, labels) - labels * (attention + TINY).log()).sum(dim=-1).mean()
