"""The hypergradient: how the outer loss of θ_T changes with what the inner loop was trained on.

Two exact estimators of the same quantity. ``unroll`` keeps the graph through all T steps. ``adjoint`` walks the steps
back one at a time: only one inner step's graph is alive, so that memory grows with T by the snapshots θ_t alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pipeline.bilevel.inner import Forward, InnerBatch, Parameters, descend, inner_loss

Estimator = Literal["unroll", "adjoint"]
Dropping = Callable[[int], AbstractContextManager[None]]


def hypergradient(
    estimator: Estimator,
    forward: Forward,
    parameters: Parameters,
    batches: Sequence[InnerBatch],
    outer_loss: Callable[[Parameters], Tensor],
    *,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
    dropping: Dropping = lambda step: contextlib.nullcontext(),
) -> Tensor:
    """Adds d outer_loss(θ_T) / d(leaf) to ``.grad`` of every leaf that the batches were built from.

    Args:
        estimator: ``unroll`` or ``adjoint``; equal up to rounding.
        forward: the student.
        parameters: θ_0.
        batches: inner batches, built from the learned tensors with a graph to them.
        outer_loss: scalar loss of θ_T on real data.
        scale: applied to the loss before differentiation (loss scaling in fp16).
        dropping: see :func:`~pipeline.bilevel.inner.descend`.

    Returns:
        The outer loss, without graph and unscaled.

    """
    run = {"unroll": _unroll, "adjoint": _adjoint}[estimator]
    return run(_Problem(forward, parameters, batches, outer_loss, scale, dropping))


@dataclass(frozen=True)
class _Problem:
    """The arguments of :func:`hypergradient`, for the estimators."""

    forward: Forward
    parameters: Parameters
    batches: Sequence[InnerBatch]
    outer_loss: Callable[[Parameters], Tensor]
    scale: Callable[[Tensor], Tensor]
    dropping: Dropping


def _unroll(problem: _Problem) -> Tensor:
    trained = descend(
        problem.forward, problem.parameters, problem.batches, differentiable=True, dropping=problem.dropping
    )
    loss = problem.outer_loss(trained)
    problem.scale(loss).backward()
    return loss.detach()


def _adjoint(problem: _Problem) -> Tensor:
    """With g_t = ∂ℓ(θ_t; s_t)/∂θ and λ_T = ∂L/∂θ_T: for t = T−1 … 0

    ∂L/∂s_t = −η_t (∂g_t/∂s_t)ᵀ λ_{t+1},   ∂L/∂η_t = −⟨g_t, λ_{t+1}⟩,   λ_t = λ_{t+1} − η_t (∂g_t/∂θ_t)ᵀ λ_{t+1}.
    """
    forward, batches, dropping = problem.forward, problem.batches, problem.dropping
    fixed = [_detached(batch) for batch in batches]
    snapshots = [problem.parameters]
    for step, batch in enumerate(fixed):
        snapshots.append(descend(forward, snapshots[-1], [batch], dropping=_only(dropping, step)))
    loss, cotangent = _outer(snapshots.pop(), problem)
    ends: list[Tensor] = []
    gradients: list[Tensor] = []
    for step in reversed(range(len(batches))):
        theta = {name: value.detach().requires_grad_() for name, value in snapshots.pop().items()}
        leaves = _leaves(batches[step], fixed[step])
        with dropping(step):
            inner = inner_loss(forward, theta, fixed[step])
        inner_gradients = torch.autograd.grad(inner, list(theta.values()), create_graph=True, allow_unused=True)
        pairs = zip(inner_gradients, cotangent.values(), strict=True)
        product = torch.stack([(g * v).sum() for g, v in pairs if g is not None]).sum()
        wanted = [leaf for _, leaf in leaves] + (list(theta.values()) if step else [])  # H v is not used at t = 0
        found = torch.autograd.grad(product, wanted, allow_unused=True) if wanted else ()
        rate = fixed[step].learning_rate
        for (end, _), gradient in zip(leaves, found, strict=False):
            if gradient is not None:
                ends.append(end)
                gradients.append(-rate * gradient)
        if batches[step].learning_rate.requires_grad:
            ends.append(batches[step].learning_rate)
            gradients.append(-product.detach())
        if step:
            curvature = found[len(leaves) :]
            cotangent = {
                name: value if bend is None else value - rate * bend
                for (name, value), bend in zip(cotangent.items(), curvature, strict=True)
            }
    torch.autograd.backward(ends, gradients)
    return loss


def _only(dropping: Dropping, step: int) -> Dropping:
    """The dropout of step ``step`` for a loop that has this step alone."""
    return lambda _: dropping(step)


def _outer(trained: Parameters, problem: _Problem) -> tuple[Tensor, Parameters]:
    """The outer loss at θ_T and λ_T."""
    theta = {name: value.detach().requires_grad_() for name, value in trained.items()}
    loss = problem.outer_loss(theta)
    found = torch.autograd.grad(problem.scale(loss), list(theta.values()), allow_unused=True)
    return loss.detach(), {
        name: torch.zeros_like(value) if gradient is None else gradient
        for (name, value), gradient in zip(theta.items(), found, strict=True)
    }


def _detached(batch: InnerBatch) -> InnerBatch:
    attention = None if batch.attention is None else batch.attention.detach()
    return replace(
        batch,
        inputs=batch.inputs.detach(),
        labels=batch.labels.detach(),
        attention=attention,
        learning_rate=batch.learning_rate.detach(),
    )


def _leaves(batch: InnerBatch, fixed: InnerBatch) -> list[tuple[Tensor, Tensor]]:
    """(tensor of the batch, its detached twin with gradients) for everything that is learned but the step size."""
    twins = [(batch.inputs, fixed.inputs), (batch.labels, fixed.labels)]
    if batch.attention is not None and fixed.attention is not None:
        twins.append((batch.attention, fixed.attention))
    return [(end, leaf.requires_grad_()) for end, leaf in twins if end.requires_grad]
