"""The inner loop: T steps on a distilled set (DDAL, algorithm 1, lines 4-7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import NamedTuple

import torch

from pipeline.bilevel.autograd import Autograd
from pipeline.bilevel.derivatives import Derivatives, Gradient, Vector
from pipeline.bilevel.inner import Dropping, InnerBatch, Parameters, Student, no_dropping
from pipeline.bilevel.optimisers import PLAIN, Optimiser, State


class Point(NamedTuple):
    """Where the inner loop is: θ_t and the optimiser's state s_t."""

    theta: Vector
    state: State


def trajectory(
    gradient: Callable[[Vector, InnerBatch, int], Gradient],
    optimiser: Optimiser,
    start: Point,
    batches: Sequence[InnerBatch],
    steps: range,
) -> Iterator[Point]:
    """The inner loop: the point after each of ``steps``.

    Args:
        gradient: (θ_t, batch, t) -> g_t; with a graph where the loop is to be differentiated through.
        optimiser: the update rule.
        start: the point before the first of ``steps``; not changed.
        batches: those of all T steps.
        steps: consecutive numbers of steps.

    """
    point = start
    for t in steps:
        batch = batches[t]
        g = gradient(point.theta, batch, t)
        point = Point(*optimiser.step(point.theta, point.state, g, batch.learning_rate, t))
        del g
        yield point


@torch.no_grad()
def descend(
    student: Student,
    parameters: Parameters,
    batches: Sequence[InnerBatch],
    *,
    optimiser: Optimiser = PLAIN,
    dropping: Dropping = no_dropping,
    derivatives: Derivatives | None = None,
) -> Parameters:
    """θ_T from θ_0: one step of the optimiser per batch, on every parameter that the loss depends on.

    Args:
        student: what is trained.
        parameters: θ_0 by name; not changed.
        batches: one per step.
        optimiser: plain gradient descent by default: no momentum, weight decay or clipping (DDAL, equation 2).
        dropping: context of step t's forward pass, for reproducible dropout.
        derivatives: by default the student's fused passes where it has them, otherwise autograd.

    Returns:
        θ_T by name, without graph; parameters that the loss does not depend on (the word embeddings) are passed
        through.

    """
    if derivatives is None:
        fused = fused_passes(student)
        derivatives = Autograd(student, parameters, dropping) if isinstance(fused, str) else fused
    theta = derivatives.pack(parameters)
    point = Point(theta, optimiser.start(theta))
    fixed = [batch.detached() for batch in batches]
    path = trajectory(lambda *at: derivatives.gradient(*at)[0], optimiser, point, fixed, range(len(fixed)))
    return derivatives.unpack(end_of(path, point).theta, parameters)


def end_of(path: Iterator[Point], start: Point) -> Point:
    """The last point of a path; ``start`` where it has no steps."""
    return reduce(lambda _, point: point, path, start)


def fused_passes(student: Student) -> Derivatives | str:
    """The student's hand-derived passes, or a sentence that says why it has none."""
    make = getattr(student, "fused", None)
    if make is None:
        return f"{type(student).__name__} has no fused passes"
    found: Derivatives | str = make()
    return found
