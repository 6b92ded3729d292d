"""The hypergradient of a ``bptt`` cell against its references, on a slice of it, for ``gradient_check``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.bilevel import Estimator, InnerBatch
from pipeline.bilevel.check import Agreement, agreements
from pipeline.config import BPTT, AdamSteps, InnerOptimizer
from pipeline.config.vectors import Augment
from pipeline.data.prepared import Prepared
from pipeline.methods.imbalance import counts_of, outer_loss
from pipeline.methods.vectors.method import load_student
from pipeline.methods.vectors.set import LearnedVectors, initial_tensors
from pipeline.randomness import derive

BLUNT = 1e-3  # ε of Adam: with its usual 1e-8 entries of g near zero bend a step within the length of a difference


def part_of(method: BPTT, samples: int | None, steps: int | None) -> BPTT:
    """The method on so many samples per step and steps, without what is drawn anew at every evaluation.

    Adam's ε is made large: an outer loss that is nearly flat after two steps would otherwise leave differences nothing
    but the bends of entries that are almost zero (errors up to 0.3 on AG News, 3e-9 with it).
    """
    T = min(method.steps, steps or method.steps)
    change: dict[str, Any] = {"steps": T, "min_start": 0, "start": "end", "augment": Augment(), "batch_shots": None}
    change |= {"student": method.student.model_copy(update={"dropout": 0.0}), "classes_per_batch": None, "boost": None}
    change |= {"window": None if method.window is None else min(T, method.window)}
    change["inner_optimizer"] = blunted(method.inner_optimizer)
    return method.model_copy(update=change | ({} if samples is None else {"shots": 1}))


def blunted(optimizer: InnerOptimizer) -> InnerOptimizer:
    """The optimiser with so large an ε, if it is Adam, that differences of its steps are smooth."""
    if not isinstance(optimizer, AdamSteps):
        return optimizer
    return optimizer.model_copy(update={"eps": max(optimizer.eps, BLUNT)})


def agreements_on_vectors(
    method: BPTT, prepared: Prepared, seed: int, estimator: Estimator, dtype: torch.dtype, **how: Any
) -> list[Agreement]:
    """Per learned tensor; ``how`` is for :func:`~pipeline.bilevel.check.agreements`, with ``rows`` of a real batch."""
    C, device = len(prepared.classes), torch.device("cpu")
    student, train = load_student(method, prepared, device, dtype), prepared.vectors("train")
    start = initial_tensors(method, train, C, method.shots, seed)
    rows = slice(min(method.outer.batch_size, how.pop("rows") or len(train)))

    def build(tensors: dict[str, Tensor]) -> list[InnerBatch]:
        return LearnedVectors(method, C, tensors).inner_batches(seed, 0, method.steps)

    return agreements(
        estimator,
        student,
        student.initial(derive(seed, "gradient check"), range(method.draws)),
        {name: tensor.detach().to(dtype) for name, tensor in start.items()},
        build,
        [{"vectors": train.vectors[rows].to(dtype), "labels": train.labels[rows]}],
        optimiser=LearnedVectors(method, C, start).view().recipe.optimiser,
        window=method.window,
        loss=outer_loss(method.outer.loss, counts_of(train.labels, C)),
        **how,
    )
