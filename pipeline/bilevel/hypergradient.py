"""The hypergradient: how the outer loss of θ_T changes with what the inner loop was trained on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal

from torch import Tensor

from pipeline.bilevel.inner import Forward, InnerBatch, Parameters, descend

Estimator = Literal["unroll"]


def hypergradient(
    estimator: Estimator,
    forward: Forward,
    parameters: Parameters,
    batches: Sequence[InnerBatch],
    outer_loss: Callable[[Parameters], Tensor],
    *,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
    dropping: Callable[[int], AbstractContextManager[None]] = lambda step: contextlib.nullcontext(),
) -> Tensor:
    """Adds d outer_loss(θ_T) / d(leaf) to ``.grad`` of every leaf that the batches were built from.

    Args:
        estimator: ``unroll``, the graph through all T steps (exact; memory grows with T).
        forward: the student.
        parameters: θ_0.
        batches: inner batches, built from the learned tensors with a graph to them.
        outer_loss: scalar loss of θ_T on real data.
        scale: applied to the loss before differentiation (loss scaling in fp16).
        dropping: see :func:`~pipeline.bilevel.inner.descend`.

    Returns:
        The outer loss, without graph and unscaled.

    """
    assert estimator == "unroll"
    trained = descend(forward, parameters, batches, differentiable=True, dropping=dropping)
    loss = outer_loss(trained)
    scale(loss).backward()
    return loss.detach()
