"""Students of matching: where they are at an update, however it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from pipeline.config import DiLM, Distill
from pipeline.methods.dilm.trajectory import Trajectory
from pipeline.store import Store
from pipeline.students.encoder import Parameters, Student
from tests.methods.dilm.conftest import prepared

FRESH = ["classifier.weight", "classifier.bias"]


@pytest.fixture
def make(chain: Callable[..., Distill], store: Store, encoder_folder: Callable[..., Path]) -> Callable[..., Trajectory]:
    def make(**student: object) -> Trajectory:
        config = chain(dilm={"updates": 3, "student": {"steps": 4, "batch_size": 8, "lr": 1e-3} | student}).parent
        assert config is not None
        assert isinstance(config.method, DiLM)
        train = prepared(config.source, store).split("train")
        return Trajectory(config.method, Student.load(encoder_folder("bert"), FRESH, "cpu"), train, 2, 5)

    return make


def copied(theta: Parameters) -> Parameters:
    return {name: tensor.clone() for name, tensor in theta.items()}


def equal(one: Parameters, other: Parameters) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("dropout", [False, True])
def test_a_student_is_the_same_in_order_and_from_its_beginning(make: Callable[..., Trajectory], dropout: bool) -> None:
    in_order = make(dropout=dropout)
    seen = [copied(in_order.at(update)) for update in range(5)]
    for update in (4, 2, 1, 3, 0, 0):
        assert equal(make(dropout=dropout).at(update), seen[update])
    again = make(dropout=dropout)
    for update in (2, 1, 4):
        assert equal(again.at(update), seen[update])
    assert equal(seen[0], in_order.student.initial(in_order.seed, 0))
    assert equal(seen[3], in_order.student.initial(in_order.seed, 1))
    assert not equal(seen[1], seen[2])
    assert not equal(seen[0], seen[3])


def test_it_trains_on_real_rows_of_its_own(make: Callable[..., Trajectory]) -> None:
    """Two steps of AdamW from the same start, written out: warm-up over half of 4 steps, so lr 0 and then 1e-3 / 2."""
    trajectory = make()
    found = copied(trajectory.at(1))
    theta = {n: p.clone().requires_grad_() for n, p in trajectory.student.initial(trajectory.seed, 0).items()}
    optimizer = torch.optim.AdamW(theta.values(), lr=1e-3, weight_decay=0.01)
    rows = trajectory.train.select([*trajectory._order.at(0), *trajectory._order.at(1), *trajectory._order.at(2),
                                    *trajectory._order.at(3)])  # fmt: skip
    from pipeline.randomness import torch_generator

    order = torch.randperm(32, generator=torch_generator(trajectory.seed, "fine-tuning order", 0, 0))
    for step, lr in enumerate((0.0, 5e-4)):
        batch = rows.batch(order[8 * step : 8 * step + 8].tolist())
        optimizer.zero_grad()
        F.cross_entropy(trajectory.student.logits(theta, batch), batch["labels"]).backward()
        torch.nn.utils.clip_grad_norm_(theta.values(), 1.0)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
    for name, tensor in theta.items():
        assert torch.allclose(found[name], tensor, atol=2e-5), name
    start = trajectory.student.initial(trajectory.seed, 0)
    assert not torch.allclose(found["classifier.weight"], start["classifier.weight"], atol=1e-5)


def test_every_student_sees_other_rows(make: Callable[..., Trajectory]) -> None:
    trajectory = make()
    assert not set(trajectory._order.at(0)) & set(trajectory._order.at(1))
    first, second = copied(trajectory.at(1)), copied(trajectory.at(4))
    assert not torch.equal(first["classifier.bias"], second["classifier.bias"])
