"""Is a hypergradient right? An estimator against the unroll and against finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.bilevel.autograd import Autograd
from pipeline.bilevel.descent import descend
from pipeline.bilevel.hypergradient import Estimator, hypergradient
from pipeline.bilevel.inner import InnerBatch, Parameters, RealBatch, Student, outer_loss
from pipeline.bilevel.losses import CROSS_ENTROPY, OuterLoss
from pipeline.bilevel.optimisers import PLAIN, Optimiser

DIRECTIONS = 3


@dataclass(frozen=True)
class Agreement:
    """How near an estimator's gradient of one learned tensor is to a reference.

    Attributes:
        tensor: name of the learned tensor.
        against: ``unroll``, or ``differences`` (central, along random unit directions).
        relative_error: ‖ours − reference‖ / ‖reference‖.
        cosine: between the two gradients; between the directional derivatives for ``differences``.

    """

    tensor: str
    against: str
    relative_error: float
    cosine: float


def agreements(
    estimator: Estimator,
    student: Student,
    parameters: Parameters,
    leaves: dict[str, Tensor],
    build: Callable[[dict[str, Tensor]], Sequence[InnerBatch]],
    real: Sequence[RealBatch],
    *,
    step: float,
    optimiser: Optimiser = PLAIN,
    window: int | None = None,
    steep: bool = False,
    seed: int = 0,
    loss: OuterLoss = CROSS_ENTROPY,
) -> list[Agreement]:
    """Compares ``estimator`` with the references, tensor by tensor.

    The differences are of the loss as autograd's forward passes give it, whatever the estimator: fused passes that
    computed another loss, and its true gradient, would not agree with them.

    Args:
        estimator: the one to check.
        student: without dropout.
        parameters: θ_0.
        leaves: the learned tensors.
        build: learned tensors -> inner batches.
        real: the real batches of the outer loss.
        step: length of a finite-difference step.
        optimiser: of the inner loop.
        window: only this many of the last steps are differentiated; the differences then hold the others' batches.
        steep: one difference per learned tensor in place of three, half along the gradient: never along so flat a
            direction that the rounding of the loss decides.
        seed: of the random directions.
        loss: of the real rows.

    """

    def gradients(kind: Estimator) -> dict[str, Tensor]:
        fresh = {name: leaf.detach().clone().requires_grad_() for name, leaf in leaves.items()}
        hypergradient(kind, student, parameters, build(fresh), real, optimiser=optimiser, window=window, loss=loss)
        return {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in fresh.items()}

    @torch.no_grad()
    def value(name: str, change: Tensor) -> Tensor:
        held, moved = build(leaves), build({key: leaf + (change if key == name else 0) for key, leaf in leaves.items()})
        first = 0 if window is None else max(0, len(held) - window)
        batches = [*held[:first], *moved[first:]]
        derivatives = Autograd(student, parameters)
        theta_T = descend(student, parameters, batches, optimiser=optimiser, derivatives=derivatives)
        return outer_loss(student, theta_T, real, loss).double()

    ours, reference = gradients(estimator), gradients("unroll")
    found = []
    for name, leaf in leaves.items():
        found.append(Agreement(name, "unroll", *_compare(ours[name].flatten(), reference[name].flatten())))
        generator = torch.Generator().manual_seed(seed)
        along, differences = [], []
        for _ in range(1 if steep else DIRECTIONS):
            direction = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
            direction = (direction / direction.norm()).to(leaf)
            if steep:
                slope = reference[name] / reference[name].norm().clamp_min(1e-300)
                uphill = direction if (direction * slope).sum() >= 0 else -direction  # never each other's opposite
                direction = (slope + uphill) / (slope + uphill).norm()
            along.append((ours[name] * direction).sum().double())
            differences.append((value(name, step * direction) - value(name, -step * direction)) / (2 * step))
        found.append(Agreement(name, "differences", *_compare(torch.stack(along), torch.stack(differences))))
    return found


def _compare(ours: Tensor, reference: Tensor) -> tuple[float, float]:
    ours, reference = ours.double(), reference.double()
    size = reference.norm().clamp_min(1e-300)
    cosine = torch.dot(ours, reference) / (ours.norm().clamp_min(1e-300) * size)
    return ((ours - reference).norm() / size).item(), cosine.item()
