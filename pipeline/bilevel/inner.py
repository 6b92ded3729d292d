"""What a student is, what one inner step trains on, and the losses of the inner and the outer problem."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from pipeline.bilevel.losses import CROSS_ENTROPY, OuterLoss, attention_loss, soft_cross_entropy

Parameters = dict[str, Tensor]
RealBatch = dict[str, Tensor]
Dropping = Callable[[int], AbstractContextManager[None]]


class Student(Protocol):
    """A classifier as pure functions of its parameters.

    A student may also have ``fused()``, which returns its hand-derived passes as
    :class:`~pipeline.bilevel.derivatives.Derivatives`, or a sentence that says why it has none.

    It may be an ensemble of K members that never meet: every parameter, and its logits, then have a leading axis K.
    The inner loss is the sum over members, so that each is trained as if it were alone, the outer loss their mean.
    """

    def __call__(
        self, parameters: Parameters, inputs: Tensor, /, rows: Literal["none", "cls", "all"] = "none"
    ) -> tuple[Tensor, Tensor | None]:
        """The student on synthetic samples, twice differentiable.

        Args:
            parameters: θ by name.
            inputs: [m, S, E], or whatever the student reads; of an ensemble shared, or with a leading axis K.
            rows: the query rows whose attention is returned.

        Returns:
            Logits [m, C] and, where asked for, attention probabilities [m, L, heads, Q, S].

        """
        ...

    def logits(self, parameters: Parameters, batch: RealBatch, /) -> Tensor:
        """[B, C] on a real batch, of which ``labels`` is not read; differentiable once."""
        ...


@dataclass(frozen=True)
class InnerBatch:
    """What one inner step trains on.

    Attributes:
        inputs: [m, S, E], or as the student reads them.
        labels: [m, C], or [K, m, C].
        attention: [m, L, heads, Q, S] attention labels as probabilities, or ``None``.
        attention_weight: λ.
        learning_rate: η_t, a scalar.

    """

    inputs: Tensor
    labels: Tensor
    attention: Tensor | None
    attention_weight: float
    learning_rate: Tensor

    def detached(self) -> InnerBatch:
        """The batch without any graph."""
        return replace(
            self,
            inputs=self.inputs.detach(),
            labels=self.labels.detach(),
            attention=None if self.attention is None else self.attention.detach(),
            learning_rate=self.learning_rate.detach(),
        )


def no_dropping(step: int) -> AbstractContextManager[None]:
    """The context of a step without dropout."""
    return contextlib.nullcontext()


def inner_loss(student: Student, parameters: Parameters, batch: InnerBatch) -> Tensor:
    """Cross-entropy with the set's labels + λ · attention loss (DDAL, equation 6)."""
    if batch.attention is None or batch.attention_weight == 0:
        logits, _ = student(parameters, batch.inputs)
        return soft_cross_entropy(logits, batch.labels)
    one_row = batch.attention.shape[-2] == 1
    logits, attention = student(parameters, batch.inputs, "cls" if one_row else "all")
    assert attention is not None
    return soft_cross_entropy(logits, batch.labels) + batch.attention_weight * attention_loss(
        attention, batch.attention
    )


def outer_loss(
    student: Student, parameters: Parameters, real: Sequence[RealBatch], loss: OuterLoss = CROSS_ENTROPY
) -> Tensor:
    """Mean of ``loss``, by default cross-entropy, over all rows of the real batches (DDAL, equation 3)."""
    rows = sum(len(batch["labels"]) for batch in real)
    means = [loss.mean(student.logits(parameters, batch), batch["labels"]) for batch in real]
    return torch.stack([mean * (len(batch["labels"]) / rows) for mean, batch in zip(means, real, strict=True)]).sum()
