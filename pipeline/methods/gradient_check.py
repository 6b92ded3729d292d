"""``check-grad``: the configured hypergradient on the configured model and data, before hours are spent on it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.bilevel import InnerBatch
from pipeline.bilevel.check import Agreement, agreements
from pipeline.config import DDAL, Distill
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import TrainingOrder
from pipeline.methods.ddal import check
from pipeline.methods.learned import LearnedSet, initial_tensors
from pipeline.randomness import derive
from pipeline.students.device import pick_device
from pipeline.students.encoder import Parameters, Student

SAMPLES, POSITIONS, STEPS = 2, 64, 2
# float32 rounding dominates shorter steps, curvature longer ones
DIFFERENCE_STEPS = {torch.float64: 1e-5, torch.float32: 3e-2}
LIMITS = {"unroll": 1e-9, "differences": 1e-4}


def check_gradient(config: Distill, prepared: Prepared, *, full: bool = False) -> dict[torch.dtype, list[Agreement]]:
    """Agreement per learned tensor, in float64 and float32.

    Args:
        config: a ``ddal`` cell.
        prepared: its stage 1.
        full: the whole set; otherwise a slice of at most 2 samples per step, 64 positions, 2 steps.

    Raises:
        InputError: the method cannot be used with this encoder or task.

    """
    method = config.method
    assert isinstance(method, DDAL)
    # Dropout would need equal masks in all evaluations and autocast hides errors: both are left out.
    method = method.model_copy(update={"dropout": False, "precision": "fp32", "warm_start": None})
    if not full:
        small = {"sequence_length": min(POSITIONS, method.sequence_length), "steps": min(STEPS, method.steps)}
        method = method.model_copy(update=small | {"shots": 1, "batch_shots": 1})
    check(method, prepared.manifest)
    return {dtype: _agreements(config, method, prepared, dtype, full) for dtype in (torch.float64, torch.float32)}


def _agreements(config: Distill, method: DDAL, prepared: Prepared, dtype: torch.dtype, full: bool) -> list[Agreement]:
    fresh = prepared.manifest["fresh_parameters"]
    student = Student.load(prepared.model_folder, fresh, pick_device(config.runtime), dtype=dtype)
    start = initial_tensors(method, prepared, student, config.seed)
    train = prepared.split("train")
    order = TrainingOrder(train.lengths, method.outer.batch_size, config.seed)
    batch = train.batch(order.at(0), student.device)
    rows = None if full else SAMPLES

    def build(tensors: dict[str, Tensor]) -> list[InnerBatch]:
        batches = LearnedSet(method, len(prepared.classes), tensors).view().inner_batches(config.seed)
        return [_first(batch, rows) for batch in batches]

    def outer_loss(trained: Parameters) -> Tensor:
        return F.cross_entropy(student.logits(trained, batch), batch["labels"])

    return agreements(
        method.estimator,
        student,
        student.initial(derive(config.seed, "gradient check"), 0),
        {name: tensor.detach().to(dtype) for name, tensor in start.items()},
        build,
        outer_loss,
        step=DIFFERENCE_STEPS[dtype],
    )


def _first(batch: InnerBatch, rows: int | None) -> InnerBatch:
    attention = None if batch.attention is None else batch.attention[:rows]
    return replace(batch, inputs=batch.inputs[:rows], labels=batch.labels[:rows], attention=attention)


def holds(found: dict[torch.dtype, list[Agreement]]) -> bool:
    """Whether float64 agrees within the limits: 1e-9 with the unroll, 1e-4 with differences."""
    return all(row.relative_error <= LIMITS[row.against] for row in found[torch.float64])
