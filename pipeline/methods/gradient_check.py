"""``check-grad``: the configured hypergradient on the configured model and data, before hours are spent on it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.bilevel import Estimator, InnerBatch
from pipeline.bilevel.check import Agreement, agreements
from pipeline.config import BPTT, DDAL, AdamSteps, Distill, Text
from pipeline.data.prepared import Prepared
from pipeline.errors import InputError
from pipeline.methods.ddal import check, load_student
from pipeline.methods.imbalance import counts_of, outer_loss, real_order
from pipeline.methods.learned import LearnedSet, initial_tensors, sample_classes
from pipeline.methods.outer import Estimation
from pipeline.methods.text import check as text_check
from pipeline.methods.text import method as text
from pipeline.methods.vectors import method as vectors
from pipeline.methods.vectors.check import agreements_on_vectors, part_of
from pipeline.randomness import derive
from pipeline.students.device import pick_device
from pipeline.students.encoder import Student

# float32 rounding dominates shorter steps, curvature longer ones
DIFFERENCE_STEPS = {torch.float64: 1e-5, torch.float32: 3e-2}
LIMITS = {"unroll": 1e-9, "differences": 1e-4}
# Adam divides by |g|: entries of g near zero bend its step within the length of a difference
ADAM_STEP, ADAM_LIMIT = 1e-6, 1e-2


@dataclass(frozen=True)
class Extent:
    """How much of a cell is checked; ``None`` is all of it.

    Attributes:
        samples: per inner step.
        positions: of a sample.
        steps: of the inner loop.
        rows: of a real batch.
        steep: one finite difference per learned tensor, not three.
        precisions: with float64, which decides.

    """

    samples: int | None = None
    positions: int | None = None
    steps: int | None = None
    rows: int | None = None
    steep: bool = False
    precisions: tuple[torch.dtype, ...] = (torch.float64, torch.float32)


WHOLE = Extent()
SLICE = Extent(samples=2, positions=64, steps=2)
CANARY = Extent(samples=2, positions=16, steps=2, rows=2, steep=True, precisions=(torch.float64,))  # seconds


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
        estimator: the one that was checked, ``auto`` resolved.
        why: it was taken, as one line.
        agreements: per precision and learned tensor.
        limits: largest relative error in float64, by reference.
        seconds: that it took.

    """

    estimator: Estimator
    why: str
    agreements: dict[torch.dtype, list[Agreement]]
    limits: dict[str, float]
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether float64 agrees within the limits."""
        return all(row.relative_error <= self.limits[row.against] for row in self.agreements[torch.float64])

    def table(self) -> str:
        """Every agreement, a line each, and the verdict."""
        lines = [f"{'tensor':<18}{'against':<13}{'precision':<11}{'relative error':>15}{'1 - cosine':>12}"]
        for dtype, rows in self.agreements.items():
            kind = str(dtype).removeprefix("torch.")
            lines += [
                f"{row.tensor:<18}{row.against:<13}{kind:<11}{row.relative_error:>15.1e}{abs(1 - row.cosine):>12.1e}"
                for row in rows
            ]
        limits = ", ".join(f"{limit:.0e} with {name}" for name, limit in self.limits.items())
        verdict = "agrees (differences in float32 are mostly rounding)"
        return "\n".join([*lines, f"float64 {verdict if self.holds else f'does NOT agree (limits: {limits})'}"])

    def __str__(self) -> str:
        worst = dict.fromkeys(self.limits, 0.0)
        for row in self.agreements[torch.float64]:
            if not row.relative_error <= worst[row.against]:  # which a NaN is not
                worst[row.against] = row.relative_error
        verb = "agrees" if self.holds else "does NOT agree"
        itself = "" if self.estimator == "unroll" else f" with unroll to {worst['unroll']:.0e} and"
        return (
            f"{self.estimator} {verb}{itself} with finite differences to {worst['differences']:.0e} "
            f"(float64, {self.seconds:.0f} s)"
        )


def check_gradient(config: Distill, prepared: Prepared, extent: Extent = SLICE) -> Checked:
    """Agreement per learned tensor, in float64 and float32, of the estimator that a run of ``config`` would use.

    Args:
        config: of a method that has a check.
        prepared: its stage 1.
        extent: how much of it; by default at most 2 samples per step, 64 positions and 2 steps, on whole batches.

    Raises:
        InputError: the method cannot be used with this encoder or task, or no check is written for it.

    """
    began, method = time.perf_counter(), config.method
    if isinstance(method, BPTT):
        return _on_vectors(config, method, prepared, extent, began)
    if isinstance(method, Text):
        return _on_text(config, method, prepared, extent, began)
    if not isinstance(method, DDAL):
        raise InputError(f"no gradient check is written for method '{method.name}'; there are for: ddal, bptt, text")
    check(method, prepared.manifest)
    used = Estimation.of(method, config.runtime, load_student(method, prepared, pick_device(config.runtime)))
    # Dropout would need equal masks in all evaluations and autocast hides errors: both are left out.
    exact = {"dropout": False, "precision": "fp32", "outer": method.outer.model_copy(update={"precision": None})}
    method = method.model_copy(update=exact)
    if extent.samples is not None:
        method = method.model_copy(update={"shots": 1, "batch_shots": 1, "budget": "uniform"})
    length, steps = extent.positions or method.sequence_length, extent.steps or method.steps
    small = {"sequence_length": min(length, method.sequence_length), "steps": min(steps, method.steps)}
    method = method.model_copy(update=small)
    found = {dtype: _agreements(config, method, prepared, dtype, extent, used) for dtype in extent.precisions}
    adam = {"differences": ADAM_LIMIT} if isinstance(method.inner_optimizer, AdamSteps) else {}
    return Checked(used.name, used.why, found, LIMITS | adam, time.perf_counter() - began)


def _on_vectors(config: Distill, method: BPTT, prepared: Prepared, extent: Extent, began: float) -> Checked:
    vectors.check(method, prepared.manifest)
    student = vectors.load_student(method, prepared, pick_device(config.runtime))
    used = Estimation.of(method, config.runtime, student)
    method = part_of(method, extent.samples, extent.steps)
    how = {"rows": extent.rows, "steep": extent.steep}
    found = {
        dtype: agreements_on_vectors(
            method, prepared, config.seed, used.name, dtype, step=DIFFERENCE_STEPS[dtype], **how
        )
        for dtype in extent.precisions
    }  # fmt: skip
    return Checked(used.name, used.why, found, LIMITS, time.perf_counter() - began)


def _on_text(config: Distill, method: Text, prepared: Prepared, extent: Extent, began: float) -> Checked:
    text.check(method, prepared.manifest)
    device = pick_device(config.runtime)
    used = Estimation.of(method, config.runtime, load_student(method, prepared, device))
    method = text_check.part_of(method, extent.samples, extent.positions, extent.steps)
    how = {"rows": extent.rows, "steep": extent.steep, "device": device}
    found = {
        dtype: text_check.agreements_on_text(
            method, prepared, config.seed, used.name, dtype, step=DIFFERENCE_STEPS[dtype], **how
        )
        for dtype in extent.precisions
    }  # fmt: skip
    return Checked(used.name, used.why, found, LIMITS, time.perf_counter() - began)


def canary_of(config: Distill, folder: Path) -> Checked:
    """The small slice of a cell, on one thread: products so small only wait for a second one where others want it.

    Args:
        config: of a method that has a check.
        folder: of its stage 1.

    Raises:
        InputError: as :func:`check_gradient`.

    """
    threads = torch.get_num_threads()
    runtime = config.runtime.model_copy(update={"threads": 1})
    try:
        return check_gradient(config.model_copy(update={"runtime": runtime}), Prepared(folder), CANARY)
    finally:
        torch.set_num_threads(threads)


def _agreements(
    config: Distill, method: DDAL, prepared: Prepared, dtype: torch.dtype, extent: Extent, used: Estimation
) -> list[Agreement]:
    fresh = prepared.manifest["fresh_parameters"]
    student = Student.load(prepared.model_folder, fresh, pick_device(config.runtime), dtype=dtype)
    start = initial_tensors(method, prepared, student, config.seed)
    train = prepared.split("train")
    classes, of_samples = len(prepared.classes), sample_classes(method, prepared.manifest)
    plain, labels = method.outer.model_copy(update={"bucket_by_length": False}), train.labels
    order = real_order(labels, train.lengths, classes, plain, config.seed)
    adam = isinstance(method.inner_optimizer, AdamSteps)

    def build(tensors: dict[str, Tensor]) -> list[InnerBatch]:
        return [
            _first(batch, extent.samples)
            for batch in LearnedSet(method, classes, tensors, of_samples).view().inner_batches(config.seed)
        ]

    return agreements(
        used.name,
        student,
        student.initial(derive(config.seed, "gradient check"), 0),
        {name: tensor.detach().to(dtype) for name, tensor in start.items()},
        build,
        [train.batch(order.at(number)[: extent.rows], student.device) for number in range(method.outer.real_batches)],
        step=ADAM_STEP if adam and dtype == torch.float64 else DIFFERENCE_STEPS[dtype],
        optimiser=LearnedSet(method, classes, start, of_samples).view().recipe.optimiser,
        window=method.window,
        steep=extent.steep,
        loss=outer_loss(method.outer.loss, counts_of(labels, classes)),
    )


def _first(batch: InnerBatch, rows: int | None) -> InnerBatch:
    attention = None if batch.attention is None else batch.attention[:rows]
    return replace(batch, inputs=batch.inputs[:rows], labels=batch.labels[:rows], attention=attention)
