"""The exact hypergradient, walking the steps back one at a time: memory does not grow with T but for the θ_t.

With g_t = ∂ℓ(θ_t; x_t, y_t, A_t)/∂θ, gradient descent θ_{t+1} = θ_t − η_t g_t, and λ_T = ∂L/∂θ_T: for t = T−1 … 0

    ∂L/∂(x, y, A)_t = −η_t ∂⟨g_t, λ_{t+1}⟩/∂(x, y, A)_t,   ∂L/∂η_t = −⟨g_t, λ_{t+1}⟩,   λ_t = λ_{t+1} − η_t H_t λ_{t+1}.

For an optimiser with a state s_t of its own, λ and the state's cotangent ν first go through the pullback of its step,
which gives the cotangent of g_t in place of −η_t λ_{t+1}.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.bilevel.derivatives import Derivatives, Gradient, Vector
from pipeline.bilevel.descent import Point, trajectory
from pipeline.bilevel.inner import InnerBatch, Parameters, RealBatch
from pipeline.bilevel.losses import CROSS_ENTROPY, OuterLoss
from pipeline.bilevel.optimisers import Optimiser, moved
from pipeline.bilevel.snapshots import AUTO, Snapshots, Trail


@torch.no_grad()
def adjoint(
    derivatives: Derivatives,
    parameters: Parameters,
    batches: Sequence[InnerBatch],
    real: Sequence[RealBatch],
    *,
    optimiser: Optimiser,
    window: int | None = None,
    snapshots: Snapshots = AUTO,
    scale: float | Tensor = 1.0,
    loss: OuterLoss = CROSS_ENTROPY,
) -> Tensor:
    """See :func:`~pipeline.bilevel.hypergradient.hypergradient`."""
    first = 0 if window is None else max(0, len(batches) - window)
    problem = _Problem(derivatives, optimiser, [batch.detached() for batch in batches], first)
    theta = derivatives.pack(parameters)
    origin = Point(theta, optimiser.start(theta))
    trail = Trail(snapshots, origin, problem.steps, problem.rerun)
    theta = problem.forward(origin, trail, snapshots.keep)
    value, cotangent = derivatives.outer(theta, real, scale, loss)
    lambda_nu = Point(cotangent, optimiser.start(theta))  # ν_T = 0: the outer loss does not see the state
    del theta, cotangent
    sums = _Sums()
    for t in reversed(problem.steps):
        lambda_nu = problem.back(t, trail.pop(t), lambda_nu, batches[t], sums)
    with torch.enable_grad():
        sums.backward()
    return value


@dataclass
class _Problem:
    """The inner problem and its two walks.

    Attributes:
        derivatives: of the student.
        optimiser: of the inner loop.
        batches: without graph.
        first: the first step that is differentiated.
        kept: t -> (g_t where the pullback needs it, what ``along`` can reuse), left by the forward walk.

    """

    derivatives: Derivatives
    optimiser: Optimiser
    batches: Sequence[InnerBatch]
    first: int
    kept: dict[int, tuple[Gradient | None, Any]] = field(default_factory=dict)

    @property
    def steps(self) -> range:
        """The steps that are differentiated."""
        return range(self.first, len(self.batches))

    def forward(self, origin: Point, trail: Trail, keep: int | None) -> Vector:
        """θ_T; leaves the points before the differentiated steps on the trail."""
        keeping = self._keeping(keep)

        def gradient(theta: Vector, batch: InnerBatch, t: int) -> Gradient:
            g, left = self.derivatives.gradient(theta, batch, t, keep=t >= keeping)
            if t >= keeping:
                self.kept[t] = (g if self.optimiser.needs_gradient else None, left)
            return g

        everything = range(len(self.batches))
        point = origin
        path = trajectory(gradient, self.optimiser, origin, self.batches, everything)
        for t in everything:
            if t >= self.first:
                trail.put(t, point)
            point = next(path)
        return point.theta

    def rerun(self, point: Point, steps: range) -> Iterator[Point]:
        """The point after each of ``steps``, again."""
        return trajectory(lambda *at: self.derivatives.gradient(*at)[0], self.optimiser, point, self.batches, steps)

    def _keeping(self, budget: int | None) -> int:
        """The first of the last steps whose activations are kept."""
        t, used = len(self.batches), 0
        while t > self.first:
            size = self.derivatives.kept_bytes(self.batches[t - 1])
            if size is None or (t < len(self.batches) if budget is None else used + size > budget):
                break
            t, used = t - 1, used + size
        return t

    def back(self, t: int, point: Point, after: Point, batch: InnerBatch, sums: _Sums) -> Point:
        """(λ_t, ν_t) from (λ_{t+1}, ν_{t+1}) = ``after``; adds what step t's batch gets."""
        theta, state = point
        fixed = self.batches[t]
        g, kept = self.kept.pop(t, (None, None))
        if g is None and self.optimiser.needs_gradient:
            g, kept = self.derivatives.gradient(theta, fixed, t, keep=True)
        pulled = self.optimiser.pullback(state, g, fixed.learning_rate, t, after.theta, after.state)
        w, factor = pulled.direction, pulled.factor
        along = self.derivatives.along(theta, fixed, t, w, kept=kept, curvature=t > self.first)
        sums.add(batch.inputs, along.inputs, factor)
        sums.add(batch.labels, along.labels, factor)
        sums.add(batch.attention, along.attention, factor)
        sums.add(batch.learning_rate, -along.value if pulled.rate is None else pulled.rate)
        if along.curvature is None:
            return after  # nothing comes before the first step
        return Point(moved(after.theta, along.curvature, factor), pulled.state)


class _Sums:
    """∂L/∂(tensor) for every distinct tensor of the batches: steps that share one add up, in one buffer."""

    def __init__(self) -> None:
        self._sums: dict[int, tuple[Tensor, Tensor]] = {}

    def add(self, end: Tensor | None, gradient: Tensor | None, factor: Tensor | None = None) -> None:
        """Adds ``factor`` · gradient, where the tensor is learned."""
        if end is None or gradient is None or not end.requires_grad:
            return
        if id(end) not in self._sums:
            self._sums[id(end)] = (end, torch.zeros_like(end))
        _, total = self._sums[id(end)]
        if factor is None:
            total.add_(gradient)
        else:
            total.addcmul_(gradient, factor)

    def backward(self) -> None:
        """On to the leaves that the batches were built from."""
        ends = [end for end, _ in self._sums.values()]
        torch.autograd.backward(ends, [total for _, total in self._sums.values()])
