"""``check-grad``: the configured hypergradient on the configured model and data, before hours are spent on it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.bilevel import Estimator, InnerBatch
from pipeline.bilevel.check import Agreement, agreements
from pipeline.config import DDAL, AdamSteps, Distill
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import TrainingOrder
from pipeline.methods.ddal import check, load_student
from pipeline.methods.learned import LearnedSet, initial_tensors
from pipeline.methods.outer import Estimation
from pipeline.randomness import derive
from pipeline.students.device import pick_device
from pipeline.students.encoder import Student

SAMPLES, POSITIONS, STEPS = 2, 64, 2
# float32 rounding dominates shorter steps, curvature longer ones
DIFFERENCE_STEPS = {torch.float64: 1e-5, torch.float32: 3e-2}
LIMITS = {"unroll": 1e-9, "differences": 1e-4}
# Adam divides by |g|: entries of g near zero bend its step within the length of a difference
ADAM_STEP, ADAM_LIMIT = 1e-6, 1e-2


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
        estimator: the one that was checked, ``auto`` resolved.
        why: it was taken, as one line.
        agreements: per precision and learned tensor.
        limits: largest relative error in float64, by reference.

    """

    estimator: Estimator
    why: str
    agreements: dict[torch.dtype, list[Agreement]]
    limits: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether float64 agrees within the limits."""
        return all(row.relative_error <= self.limits[row.against] for row in self.agreements[torch.float64])


def check_gradient(config: Distill, prepared: Prepared, *, full: bool = False) -> Checked:
    """Agreement per learned tensor, in float64 and float32, of the estimator that a run of ``config`` would use.

    Args:
        config: a ``ddal`` cell.
        prepared: its stage 1.
        full: the whole set; otherwise a slice of at most 2 samples per step, 64 positions, 2 steps.

    Raises:
        InputError: the method cannot be used with this encoder or task.

    """
    method = config.method
    assert isinstance(method, DDAL)
    check(method, prepared.manifest)
    used = Estimation.of(method, config.runtime, load_student(method, prepared, pick_device(config.runtime)))
    # Dropout would need equal masks in all evaluations and autocast hides errors: both are left out.
    exact = {"dropout": False, "precision": "fp32", "outer": method.outer.model_copy(update={"precision": None})}
    method = method.model_copy(update=exact | {"warm_start": None})
    if not full:
        small = {"sequence_length": min(POSITIONS, method.sequence_length), "steps": min(STEPS, method.steps)}
        method = method.model_copy(update=small | {"shots": 1, "batch_shots": 1})
    found = {dtype: _agreements(config, method, prepared, dtype, full, used) for dtype in DIFFERENCE_STEPS}
    adam = {"differences": ADAM_LIMIT} if isinstance(method.inner_optimizer, AdamSteps) else {}
    return Checked(used.name, used.why, found, LIMITS | adam)


def _agreements(
    config: Distill, method: DDAL, prepared: Prepared, dtype: torch.dtype, full: bool, used: Estimation
) -> list[Agreement]:
    fresh = prepared.manifest["fresh_parameters"]
    student = Student.load(prepared.model_folder, fresh, pick_device(config.runtime), dtype=dtype)
    start = initial_tensors(method, prepared, student, config.seed)
    train = prepared.split("train")
    order = TrainingOrder(train.lengths, method.outer.batch_size, config.seed)
    rows = None if full else SAMPLES
    classes, adam = len(prepared.classes), isinstance(method.inner_optimizer, AdamSteps)

    def build(tensors: dict[str, Tensor]) -> list[InnerBatch]:
        return [_first(batch, rows) for batch in LearnedSet(method, classes, tensors).view().inner_batches(config.seed)]

    return agreements(
        used.name,
        student,
        student.initial(derive(config.seed, "gradient check"), 0),
        {name: tensor.detach().to(dtype) for name, tensor in start.items()},
        build,
        [train.batch(order.at(number), student.device) for number in range(method.outer.real_batches)],
        step=ADAM_STEP if adam and dtype == torch.float64 else DIFFERENCE_STEPS[dtype],
        optimiser=LearnedSet(method, classes, start).view().recipe.optimiser,
        window=method.window,
    )


def _first(batch: InnerBatch, rows: int | None) -> InnerBatch:
    attention = None if batch.attention is None else batch.attention[:rows]
    return replace(batch, inputs=batch.inputs[:rows], labels=batch.labels[:rows], attention=attention)
