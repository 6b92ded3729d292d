"""Estimated FLOPs of students on vectors, counted as :mod:`~pipeline.students.flops` counts those of encoders.

The first layer is counted apart: nothing asks for the gradient towards real vectors, and towards synthetic ones only
the hypergradient does. torch's own counter agrees within 5 % (tests/students/test_vector_flops.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.config.students import Mlp, VectorNetwork


@dataclass(frozen=True)
class Forward:
    """One forward pass on one vector.

    Attributes:
        first: FLOPs of the first layer.
        rest: of all others.

    """

    first: float
    rest: float

    @classmethod
    def of(cls, student: VectorNetwork, features: int, classes: int) -> Forward:
        """Of D ``features``: 2 D W, and of the MLP 2 ((layers − 1) W² + W C).

        Of the transformer over n tokens 2 (n L (4 W² + 2 W I) + W C) + 4 n² L W.
        """
        W = student.width
        first, head = 2.0 * features * W, 2.0 * W * classes
        if isinstance(student, Mlp):
            return cls(first, 2.0 * (student.hidden_layers - 1) * W * W + head)
        n, L, I = student.tokens, student.layers, student.feed_forward  # noqa: E741
        return cls(first, 2.0 * n * L * (4 * W * W + 2 * W * I) + 4.0 * n * n * L * W + head)

    @property
    def total(self) -> float:
        """All layers."""
        return self.first + self.rest

    @property
    def training(self) -> float:
        """One forward and backward pass."""
        return 2 * self.first + 3 * self.rest

    def differentiated(self, way: Literal["unroll", "adjoint"]) -> float:
        """One inner step in the window: forward, backward and backward through both; ``adjoint`` does the first twice.

        A little less at the first step, whose θ nothing asks for.
        """
        twice = self.training if way == "adjoint" else 0.0
        return 6 * self.first + 9 * self.rest + twice
