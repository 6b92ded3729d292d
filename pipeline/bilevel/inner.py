"""The inner loop: T steps of plain gradient descent on a distilled set (DDAL, algorithm 1, lines 4-7)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from pipeline.bilevel.losses import attention_loss, soft_cross_entropy

Parameters = dict[str, Tensor]


class Forward(Protocol):
    """A student: logits [m, C] and, where asked for, attention probabilities [m, L, heads, Q, S]."""

    def __call__(
        self, parameters: Parameters, inputs: Tensor, /, rows: Literal["none", "cls", "all"] = "none"
    ) -> tuple[Tensor, Tensor | None]:
        """Runs the student at ``parameters``; ``rows`` are the query rows whose attention is returned."""
        ...


@dataclass(frozen=True)
class InnerBatch:
    """What one inner step trains on.

    Attributes:
        inputs: [m, S, E].
        labels: [m, C].
        attention: [m, L, heads, Q, S] attention labels as probabilities, or ``None``.
        attention_weight: λ.
        learning_rate: η_t, a scalar.

    """

    inputs: Tensor
    labels: Tensor
    attention: Tensor | None
    attention_weight: float
    learning_rate: Tensor


def inner_loss(forward: Forward, parameters: Parameters, batch: InnerBatch) -> Tensor:
    """Cross-entropy with the set's labels + λ · attention loss (DDAL, equation 6)."""
    if batch.attention is None or batch.attention_weight == 0:
        logits, _ = forward(parameters, batch.inputs)
        return soft_cross_entropy(logits, batch.labels)
    one_row = batch.attention.shape[-2] == 1
    logits, attention = forward(parameters, batch.inputs, "cls" if one_row else "all")
    assert attention is not None
    return soft_cross_entropy(logits, batch.labels) + batch.attention_weight * attention_loss(
        attention, batch.attention
    )


def descend(
    forward: Forward,
    parameters: Parameters,
    batches: Sequence[InnerBatch],
    *,
    differentiable: bool = False,
    dropping: Callable[[int], AbstractContextManager[None]] = lambda step: contextlib.nullcontext(),
) -> Parameters:
    """θ_T from θ_0: θ_{t+1} = θ_t − η_t ∇θ ℓ(θ_t; batch_t), on every parameter that the loss depends on.

    No momentum, weight decay or clipping (DDAL, equation 2).

    Args:
        forward: the student.
        parameters: θ_0 by name; not changed.
        batches: one per step.
        differentiable: keep the graph, so that θ_T can be differentiated with respect to the batches.
        dropping: context of step t's forward pass, for reproducible dropout.

    Returns:
        θ_T by name; parameters that the loss does not depend on (the word embeddings) are passed through.

    """
    current = parameters
    for step, batch in enumerate(batches):
        if step == 0 or not differentiable:
            current = {name: parameter.detach().requires_grad_() for name, parameter in current.items()}
        with torch.enable_grad(), dropping(step):
            loss = inner_loss(forward, current, batch)
        gradients = torch.autograd.grad(loss, list(current.values()), create_graph=differentiable, allow_unused=True)
        with torch.set_grad_enabled(differentiable):
            current = {
                name: parameter if gradient is None else parameter - batch.learning_rate * gradient
                for (name, parameter), gradient in zip(current.items(), gradients, strict=True)
            }
    return current if differentiable else {name: parameter.detach() for name, parameter in current.items()}
