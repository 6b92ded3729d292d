"""The hypergradient: how the outer loss of θ_T changes with what the inner loop was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from pipeline.bilevel.adjoint import adjoint
from pipeline.bilevel.autograd import Autograd
from pipeline.bilevel.descent import fused_passes
from pipeline.bilevel.inner import Dropping, InnerBatch, Parameters, RealBatch, Student, no_dropping
from pipeline.bilevel.losses import CROSS_ENTROPY, OuterLoss
from pipeline.bilevel.optimisers import PLAIN, Optimiser
from pipeline.bilevel.snapshots import AUTO, Snapshots
from pipeline.bilevel.unroll import unroll

Estimator = Literal["auto", "unroll", "adjoint", "fused"]
FEW_STEPS = 5  # up to here the unroll's memory is bearable, and it is the faster of the two by autograd


def hypergradient(
    estimator: Estimator,
    student: Student,
    parameters: Parameters,
    batches: Sequence[InnerBatch],
    real: Sequence[RealBatch],
    *,
    optimiser: Optimiser = PLAIN,
    window: int | None = None,
    snapshots: Snapshots = AUTO,
    scale: float | Tensor = 1.0,
    dropping: Dropping = no_dropping,
    loss: OuterLoss = CROSS_ENTROPY,
) -> Tensor:
    """Adds ``scale`` · d L(θ_T) / d(leaf) to ``.grad`` of every leaf that the batches were built from.

    L is the mean of ``loss`` over all rows of the real batches.

    Args:
        estimator: ``unroll``, ``adjoint`` or ``fused``, equal up to rounding; ``auto`` as :func:`choose` says.
        student: what is trained.
        parameters: θ_0 by name; not changed.
        batches: one per inner step, with a graph to the leaves.
        real: real batches with ``labels`` [B].
        optimiser: of the inner loop; plain gradient descent by default.
        window: only this many of the last steps are differentiated; ``None`` for all.
        snapshots: where ``adjoint`` and ``fused`` keep the θ_t.
        scale: factor of the gradient, applied before differentiation (loss scaling in fp16).
        dropping: context of step t's forward pass, for reproducible dropout.
        loss: of real rows; plain cross-entropy by default.

    Returns:
        L, without graph and unscaled.

    Raises:
        ValueError: ``fused`` was asked for and the student has no fused passes.

    """
    steps = len(batches) if window is None else min(window, len(batches))
    chosen, _ = choose(estimator, student, steps)
    if chosen == "unroll":
        return unroll(
            student,
            parameters,
            batches,
            real,
            optimiser=optimiser,
            window=window,
            scale=scale,
            dropping=dropping,
            loss=loss,
        )
    fused = fused_passes(student) if chosen == "fused" else ""
    derivatives = Autograd(student, parameters, dropping) if isinstance(fused, str) else fused
    return adjoint(
        derivatives,
        parameters,
        batches,
        real,
        optimiser=optimiser,
        window=window,
        snapshots=snapshots,
        scale=scale,
        loss=loss,
    )


def choose(estimator: Estimator, student: Student, steps: int) -> tuple[Estimator, str]:
    """The estimator that is used, and why, as one line.

    Args:
        estimator: what was asked for; ``auto`` is ``fused`` where the student has such passes, otherwise ``unroll``
            for at most 5 steps and ``adjoint`` for more.
        student: what is trained.
        steps: inner steps that are differentiated.

    Raises:
        ValueError: ``fused`` was asked for and the student has no fused passes.

    """
    if estimator in ("unroll", "adjoint"):
        return estimator, "as configured"
    fused = fused_passes(student)
    if not isinstance(fused, str):
        return "fused", "hand-derived passes for this encoder"
    if estimator == "fused":
        raise ValueError(f"estimator: 'fused' cannot be used ({fused}); use auto, unroll or adjoint")
    few = steps <= FEW_STEPS
    return "unroll" if few else "adjoint", f"{fused}; {'at most' if few else 'more than'} {FEW_STEPS} inner steps"
