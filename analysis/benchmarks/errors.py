"""How exact every estimator is: against ``unroll`` in float64, and in float32 against what ``unroll`` itself loses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from analysis.benchmarks.measure import Table, versions
from analysis.benchmarks.problem import FRESH, LABELS, LearnedTensors, load, our_step, real_batch
from pipeline.students.encoder import Student

MODEL, M, S, STEPS = "minilm", 4, 64, (1, 3, 5)
RATE = 0.1  # large enough that the steps before the last one count
EXACT = 1e-9  # limit in float64
TIMES = 3.0  # limit in float32, times the error of unroll
DRAWS = 3
ROWS = {"none": 0, "cls": 1, "all": S}
KEY = ("model", "M", "S", "T", "labels", "attention", "estimator", "dtype", "hardware")
COLUMNS = (*KEY[:-1], "tensor", "relative_error", "unroll_error", "limit", "verdict", "draws", "hardware", "versions")


@dataclass(frozen=True)
class _Half:
    """The encoder, as a student and as a start, and the real batch in one type."""

    model: PreTrainedModel
    student: Student
    theta_0: dict[str, Tensor]
    real: dict[str, Tensor]
    dtype: torch.dtype

    @classmethod
    def load(cls, dtype: torch.dtype, device: torch.device) -> _Half:
        model = load(MODEL, device, dtype)
        theta_0 = {name: parameter.detach() for name, parameter in model.named_parameters()}
        return cls(model, Student(model, FRESH), theta_0, real_batch(model, 8, 32), dtype)

    def gradients(self, estimator: str, learned: LearnedTensors) -> dict[str, Tensor]:
        """Name -> hypergradient, in float64."""
        mine = learned.to(self.dtype)
        our_step(estimator, self.student, self.theta_0, mine, self.real)
        return {name: gradient.double() for name, gradient in mine.gradients().items()}


def measure(
    estimators: Sequence[str], table: Table, device: torch.device, machine: str, steps: Sequence[int] = STEPS
) -> None:
    """Every label mode, attention labels and number of steps; writes and prints the worst tensor of each."""
    exact, single = _Half.load(torch.float64, device), _Half.load(torch.float32, device)
    for T, mode, attention in product(steps, LABELS, ROWS):
        found = _errors((exact, single), estimators, T, mode, ROWS[attention])
        unrolled = max(found["unroll", torch.float32].values())
        for (estimator, dtype), of_tensors in found.items():
            if estimator == "unroll":
                continue
            tensor = max(of_tensors, key=lambda name: of_tensors[name])
            limit = EXACT if dtype == torch.float64 else TIMES * unrolled
            line: dict[str, Any] = {
                "tensor": tensor,
                "relative_error": of_tensors[tensor],
                "unroll_error": unrolled if dtype == torch.float32 else None,
                "limit": limit,
                "verdict": "met" if of_tensors[tensor] <= limit else "NOT MET",
                "draws": DRAWS,
                "versions": versions(),
            }
            key = {"model": MODEL, "M": M, "S": S, "T": T, "labels": mode, "attention": attention}
            key |= {"estimator": estimator, "dtype": str(dtype).removeprefix("torch."), "hardware": machine}
            table.put(key, [line])
            place = " ".join(str(key[name]) for name in KEY[3:-1])
            print(f"{place:<40} {tensor:<10} {of_tensors[tensor]:.1e} <= {limit:.1e} {line['verdict']}", flush=True)


def _errors(
    halves: tuple[_Half, _Half], estimators: Sequence[str], steps: int, mode: str, rows: int
) -> dict[tuple[str, torch.dtype], dict[str, float]]:
    """(estimator, type) -> root mean square over the draws of every tensor's relative error.

    One draw would not do: the gradient of a step size is one number, whose error can be small by chance.
    """
    exact, single = halves
    squares: dict[tuple[str, torch.dtype], dict[str, float]] = {}
    for draw in range(DRAWS):
        learned = LearnedTensors.draw(exact.model, (M, S, steps), rate=RATE, rows=rows, mode=mode, seed=draw)
        truth = exact.gradients("unroll", learned)
        for estimator, half in [("unroll", single), *product(estimators, halves)]:
            sums = squares.setdefault((estimator, half.dtype), {})
            for name, error in relative(half.gradients(estimator, learned), truth).items():
                sums[name] = sums.get(name, 0.0) + error**2 / DRAWS
    return {kind: {name: math.sqrt(square) for name, square in sums.items()} for kind, sums in squares.items()}


def relative(found: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    """Name -> ‖found − truth‖ / ‖truth‖."""
    assert found.keys() == truth.keys()
    return {name: ((found[name] - true).norm() / true.norm()).item() for name, true in truth.items()}
