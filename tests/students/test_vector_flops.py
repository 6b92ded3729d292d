"""FLOPs of students on vectors against torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.bilevel import Adam, InnerBatch, descend, hypergradient
from pipeline.config import Mlp, Transformer
from pipeline.students.vector_flops import Forward
from pipeline.students.vectors import VectorStudent

D, C, M, REAL = 96, 3, 8, 32
STUDENTS = [
    Mlp(name="mlp", width=64),
    Mlp(name="mlp", width=64, hidden_layers=3),
    Transformer(name="transformer", width=64, feed_forward=96, dropout=0.0),
]


@pytest.mark.parametrize("config", STUDENTS)
def test_a_counter_agrees(config: Mlp | Transformer) -> None:
    student, one = VectorStudent(config, D, C, "cpu"), Forward.of(config, D, C)
    theta, labels = student.initial(0, [0, 1]), torch.eye(C)[torch.arange(M) % C]
    vectors = torch.randn(M, D, requires_grad=True)
    batches = [InnerBatch(vectors, labels, None, 0.0, torch.tensor(1e-3))] * 12
    real = {"vectors": torch.randn(REAL, D), "labels": torch.zeros(REAL, dtype=torch.long)}
    with FlopCounterMode(display=False) as counter:
        student(theta, vectors)
    assert counter.get_total_flops() == pytest.approx(2 * M * one.total, rel=0.001)
    with FlopCounterMode(display=False) as counter:
        descend(student, theta, batches)
    assert counter.get_total_flops() == pytest.approx(2 * 12 * M * one.training, rel=0.02)
    for way in ("unroll", "adjoint"):
        with FlopCounterMode(display=False) as counter:
            hypergradient(way, student, theta, batches, [real], optimiser=Adam(), window=10)
        expected = M * (2 * one.training + 10 * one.differentiated(way)) + REAL * one.training
        assert counter.get_total_flops() == pytest.approx(2 * expected, rel=0.05)
