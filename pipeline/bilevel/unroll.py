"""The hypergradient with the graph of all steps at once: the reference, and the faster way for few steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.bilevel.derivatives import Gradient, Vector
from pipeline.bilevel.descent import Point, end_of, trajectory
from pipeline.bilevel.inner import (
    Dropping,
    InnerBatch,
    Parameters,
    RealBatch,
    Student,
    inner_loss,
    no_dropping,
    outer_loss,
)
from pipeline.bilevel.losses import CROSS_ENTROPY, OuterLoss
from pipeline.bilevel.optimisers import Optimiser


def unroll(
    student: Student,
    parameters: Parameters,
    batches: Sequence[InnerBatch],
    real: Sequence[RealBatch],
    *,
    optimiser: Optimiser,
    window: int | None = None,
    scale: float | Tensor = 1.0,
    dropping: Dropping = no_dropping,
    loss: OuterLoss = CROSS_ENTROPY,
) -> Tensor:
    """See :func:`~pipeline.bilevel.hypergradient.hypergradient`."""
    names = list(parameters)

    def gradient(theta: Vector, batch: InnerBatch, t: int) -> Gradient:
        leaves = theta if t >= first else tuple(part.detach().requires_grad_() for part in theta)
        with torch.enable_grad(), dropping(t):
            value = inner_loss(student, dict(zip(names, leaves, strict=True)), batch)
        return torch.autograd.grad(value, leaves, create_graph=t >= first, allow_unused=True)

    first = 0 if window is None else max(0, len(batches) - window)
    theta = tuple(parameters[name].detach() for name in names)
    point = Point(theta, optimiser.start(theta))
    with torch.no_grad():
        fixed = [batch.detached() for batch in batches[:first]]
        point = end_of(trajectory(gradient, optimiser, point, fixed, range(first)), point)
    point = Point(tuple(part.detach().requires_grad_() for part in point.theta), point.state)
    point = end_of(trajectory(gradient, optimiser, point, batches, range(first, len(batches))), point)
    value = outer_loss(student, dict(zip(names, point.theta, strict=True)), real, loss)
    ends = learned(batches[first:])
    found = torch.autograd.grad(scale * value, ends, allow_unused=True)
    used = [(end, gradient) for end, gradient in zip(ends, found, strict=True) if gradient is not None]
    torch.autograd.backward([end for end, _ in used], [gradient for _, gradient in used])
    return value.detach()


def learned(batches: Sequence[InnerBatch]) -> list[Tensor]:
    """The distinct tensors of the batches that are to be learned."""
    tensors = [tensor for b in batches for tensor in (b.inputs, b.labels, b.attention, b.learning_rate)]
    return list({id(tensor): tensor for tensor in tensors if tensor is not None and tensor.requires_grad}.values())
