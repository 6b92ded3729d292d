"""Derivatives of any student by autograd, one inner step's graph at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.bilevel.derivatives import Along, Gradient, Vector, dot
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


class Autograd:
    """:class:`~pipeline.bilevel.derivatives.Derivatives` by reverse over reverse; θ is one tensor per parameter.

    Args:
        student: anything that is twice differentiable.
        parameters: gives the names and their order.
        dropping: step -> context in which the student's dropout masks are that step's.

    """

    def __init__(self, student: Student, parameters: Parameters, dropping: Dropping = no_dropping) -> None:
        self._student = student
        self._names = list(parameters)
        self._dropping = dropping

    def pack(self, parameters: Parameters) -> Vector:
        """The tensors themselves."""
        return tuple(parameters[name].detach() for name in self._names)

    def unpack(self, theta: Vector, parameters: Parameters) -> Parameters:
        """The tensors by name."""
        return dict(zip(self._names, theta, strict=True))

    def gradient(self, theta: Vector, batch: InnerBatch, step: int, *, keep: bool = False) -> tuple[Gradient, Any]:
        """See :class:`~pipeline.bilevel.derivatives.Derivatives`; what is kept is the gradient's graph."""
        leaves = tuple(part.detach().requires_grad_() for part in theta)
        fixed = batch.detached()
        ends = [fixed.inputs, fixed.labels, *([] if fixed.attention is None else [fixed.attention])]
        if keep:
            ends = [end.requires_grad_() for end in ends]
        with torch.enable_grad(), self._dropping(step):
            loss = inner_loss(self._student, dict(zip(self._names, leaves, strict=True)), fixed)
        found = torch.autograd.grad(loss, leaves, create_graph=keep, allow_unused=True)
        return tuple(None if g is None else g.detach() for g in found), (leaves, ends, found) if keep else None

    def along(
        self, theta: Vector, batch: InnerBatch, step: int, direction: Vector, *, kept: Any = None, curvature: bool
    ) -> Along:
        """See :class:`~pipeline.bilevel.derivatives.Derivatives`."""
        leaves, ends, gradient = kept or self.gradient(theta, batch, step, keep=True)[1]
        with torch.enable_grad():
            value = dot(gradient, direction)
        wanted = [*ends, *(leaves if curvature else ())]
        found = torch.autograd.grad(value, wanted, allow_unused=True)
        of_ends = [torch.zeros_like(end) if g is None else g for end, g in zip(ends, found, strict=False)]
        inputs, labels, *attention = of_ends
        return Along(
            value.detach(),
            inputs,
            labels,
            attention[0] if attention else None,
            found[len(ends) :] if curvature else None,
        )

    def kept_bytes(self, batch: InnerBatch) -> int | None:
        """A graph that outlives the outer loss is more memory than it saves time."""
        return None

    def outer(
        self,
        theta: Vector,
        real: Sequence[RealBatch],
        scale: float | Tensor = 1.0,
        loss: OuterLoss = CROSS_ENTROPY,
    ) -> tuple[Tensor, Vector]:
        """See :class:`~pipeline.bilevel.derivatives.Derivatives`; one batch's graph at a time."""
        leaves = tuple(part.detach().requires_grad_() for part in theta)
        parameters = dict(zip(self._names, leaves, strict=True))
        rows = sum(len(batch["labels"]) for batch in real)
        losses: list[Tensor] = []
        total: Gradient = (None,) * len(leaves)
        for batch in real:
            with torch.enable_grad():
                part = outer_loss(self._student, parameters, [batch], loss) * (len(batch["labels"]) / rows)
                found = torch.autograd.grad(scale * part, leaves, allow_unused=True)
            total = tuple(b if a is None else a if b is None else a + b for a, b in zip(total, found, strict=True))
            losses.append(part.detach())
        return torch.stack(losses).sum(), tuple(
            torch.zeros_like(part) if g is None else g for part, g in zip(theta, total, strict=True)
        )
