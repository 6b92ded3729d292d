"""What the recursion has to know of a student: its derivatives, however they are computed.

θ is a tuple of tensors here: one flat vector (the fused passes) or one tensor per parameter (autograd). ``None`` in a
gradient stands for a parameter that the loss does not depend on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pipeline.bilevel.inner import InnerBatch, Parameters, RealBatch
from pipeline.bilevel.losses import CROSS_ENTROPY, OuterLoss

Vector = tuple[Tensor, ...]
Gradient = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Along:
    """⟨g, w⟩, with g = ∂ℓ/∂θ of one inner step and a fixed w, and how it changes with everything that g depends on.

    Attributes:
        value: ⟨g, w⟩, a scalar.
        inputs: ∂⟨g, w⟩/∂x [m, S, E].
        labels: ∂⟨g, w⟩/∂y [m, C].
        attention: ∂⟨g, w⟩/∂A, of the attention labels' shape, or ``None`` where the loss does not use them.
        curvature: H w = ∂⟨g, w⟩/∂θ, or ``None`` where it was not asked for.

    """

    value: Tensor
    inputs: Tensor
    labels: Tensor
    attention: Tensor | None
    curvature: Gradient | None


class Derivatives(Protocol):
    """First and second derivatives of a student's losses.

    Nothing that is passed in is changed, and nothing that is returned has a graph or is written to again. Batches may
    carry a graph; it is not looked at.
    """

    def pack(self, parameters: Parameters) -> Vector:
        """θ as the other methods take it."""
        ...

    def unpack(self, theta: Vector, parameters: Parameters) -> Parameters:
        """θ by name; what is not trained on synthetic samples is taken from ``parameters``."""
        ...

    def gradient(self, theta: Vector, batch: InnerBatch, step: int, *, keep: bool = False) -> tuple[Gradient, Any]:
        """g = ∂ℓ(θ; batch)/∂θ and, where ``keep`` asks for it, what :meth:`along` at the same θ can reuse.

        ``step`` decides nothing but the dropout masks, where there are any.
        """
        ...

    def along(
        self, theta: Vector, batch: InnerBatch, step: int, direction: Vector, *, kept: Any = None, curvature: bool
    ) -> Along:
        """⟨g, direction⟩ and its derivatives."""
        ...

    def kept_bytes(self, batch: InnerBatch) -> int | None:
        """Memory that keeping one step of this size from the forward sweep takes, or ``None``: it is not worth it."""
        ...

    def outer(
        self,
        theta: Vector,
        real: Sequence[RealBatch],
        scale: float | Tensor = 1.0,
        loss: OuterLoss = CROSS_ENTROPY,
    ) -> tuple[Tensor, Vector]:
        """The mean of ``loss`` over all rows of the real batches, and ``scale`` times its gradient."""
        ...


def dot(left: Gradient, right: Vector) -> Tensor:
    """⟨left, right⟩."""
    return torch.stack([(a * b).sum() for a, b in zip(left, right, strict=True) if a is not None]).sum()
