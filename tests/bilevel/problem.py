"""A small problem in float64 for the tests of every estimator: a tiny encoder, four samples, five real rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from pipeline.bilevel import InnerBatch, Parameters, RealBatch
from pipeline.students.encoder import Student

FRESH = ["classifier.weight", "classifier.bias"]
M, S, C = 4, 6, 2
ROWS = [[0, 1], [2, 3], [0, 1], [1, 2]]  # of each inner step: every sample is used, most in several steps


def student(folder: Callable[..., Path], family: str = "bert", dropout: bool = False) -> tuple[Student, Parameters]:
    """A tiny encoder and θ_0."""
    return _student(folder(family), dropout)


@cache
def _student(folder: Path, dropout: bool) -> tuple[Student, Parameters]:
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=C, attn_implementation="eager", dtype=torch.float64
    )
    made = Student(model, FRESH, dropout=dropout)
    return made, made.initial(0, 0)


def leaves(rows: int, steps: int = len(ROWS)) -> dict[str, Tensor]:
    """The learned tensors; ``rows`` query rows of attention labels, or none."""
    generator = torch.Generator().manual_seed(5)
    made = {
        "inputs": torch.randn(M, S, 32, generator=generator, dtype=torch.float64),
        "labels": torch.randn(M, C, generator=generator, dtype=torch.float64).softmax(-1),
        "rates": torch.linspace(0.2, 0.4, steps, dtype=torch.float64),
    }
    if rows:
        made["attention"] = torch.randn(M, 2, 4, rows, S, generator=generator, dtype=torch.float64)
    return {name: value.requires_grad_() for name, value in made.items()}


def batches(tensors: dict[str, Tensor], weight: float = 0.7) -> list[InnerBatch]:
    """One inner batch per learned step size."""
    attention = tensors["attention"].softmax(-1) if "attention" in tensors else None
    return [
        InnerBatch(
            tensors["inputs"][r],
            tensors["labels"][r],
            None if attention is None else attention[r],
            weight,
            tensors["rates"][t],
        )
        for t in range(len(tensors["rates"]))
        for r in [ROWS[t % len(ROWS)]]
    ]


def real_batch(rows: int = 5, seed: int = 9) -> RealBatch:
    """Token ids of up to nine tokens, one sentence shorter than the others."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(rows, 9, dtype=torch.long)
    mask[-1, 6:] = 0
    return {
        "input_ids": torch.randint(5, 40, (rows, 9), generator=generator),
        "attention_mask": mask,
        "labels": torch.randint(0, C, (rows,), generator=generator),
    }


def gradients(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The hypergradients that are in ``.grad``; none of them zero."""
    found = {name: leaf.grad for name, leaf in tensors.items() if leaf.grad is not None}
    assert found.keys() == tensors.keys()
    assert all(gradient.norm() > 0 for gradient in found.values())
    return found


def assert_close(ours: dict[str, Tensor], reference: dict[str, Tensor], limit: float) -> None:
    """Relative error of every tensor within ``limit``."""
    assert ours.keys() == reference.keys()
    for name, gradient in reference.items():
        error = ((ours[name] - gradient).norm() / gradient.norm()).item()
        assert error <= limit, f"{name}: {error:.1e}"


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit-equal."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
