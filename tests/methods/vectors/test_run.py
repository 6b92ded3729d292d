"""One outer step on vectors: its window, its students, its clipping, its real rows; no files."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.bilevel import Snapshots
from pipeline.config import BPTT
from pipeline.data.vectors import VectorSplit
from pipeline.methods.loop import Best
from pipeline.methods.outer import Estimation
from pipeline.methods.vectors import run as vector_run
from pipeline.methods.vectors.run import VectorRun
from pipeline.students.vectors import VectorStudent

C, D = 3, 4


def split(rows: int = 60) -> VectorSplit:
    """Three clouds."""
    labels = torch.arange(rows) % C
    noise = torch.randn(rows, D, generator=torch.Generator().manual_seed(1))
    return VectorSplit(3 * torch.eye(C, D)[labels] + noise, labels)


def run_of(seed: int = 0, **changes: Any) -> VectorRun:
    base: dict[str, Any] = {"name": "bptt", "student": {"name": "mlp", "width": 6}, "steps": 12}
    outer = {"steps": 20, "batch_size": 10} | changes.pop("outer", {})
    method = BPTT.model_validate(base | {"outer": outer} | changes)
    student = VectorStudent(method.student, D, C, "cpu")
    return VectorRun(method, split(), C, student, seed, Estimation("adjoint", "", Snapshots()))


class Seen:
    """What ``hypergradient`` was called with; the gradients that it leaves are of a given length."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lengths: list[float] | None = None) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.lengths = lengths
        monkeypatch.setattr(vector_run, "hypergradient", self)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        self.calls.append((args, kwargs))
        length = 1.0 if self.lengths is None else self.lengths[len(self.calls) - 1]
        vectors = args[3][0].inputs
        vectors.grad = torch.full_like(vectors, length / math.sqrt(vectors.numel()))
        return torch.tensor(0.5)


def test_a_random_window_lies_anywhere_and_costs_what_comes_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, run = Seen(monkeypatch), run_of(window=4, min_start=2, outer={"steps": 200})
    for _ in range(200):
        run.advance()
    steps = [len(args[3]) for args, _ in seen.calls]
    assert {kwargs["window"] for _, kwargs in seen.calls} == {4}
    assert {length - 4 for length in steps} == set(range(2, 9))
    again = run_of(window=4, min_start=2)
    starts = []
    for again.step in range(20):
        starts.append(again.start + 4)
    assert starts == steps[:20]
    other = run_of(seed=1, window=4, min_start=2)
    for other.step in range(20):
        starts.append(other.start + 4)
    assert starts[20:] != steps[:20]


def test_a_window_at_the_end_or_moving_forward() -> None:
    assert run_of(window=4, start="end").start == 8
    assert run_of().start == 0
    run = run_of(window=4, start="forward", min_start=1, patience=2)
    best, found = Best(1, 0.5, 0.5, 0.5, {}), []
    for better in (True, False, True, False, False, False, False, False):
        run.improved(best if better else None)
        found.append(run.start)
    assert found == [1, 1, 1, 1, 5, 5, 8, 8], "by W after two validations that did not help, and no further than T - W"
    assert run.best is best


def test_every_step_has_students_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, run = Seen(monkeypatch), run_of(draws=3)
    for _ in range(2):
        run.advance()
    members = torch.cat([args[2]["head.weight"] for args, _ in seen.calls])
    assert members.shape[0] == 6
    assert len({tuple(member.flatten().tolist()) for member in members}) == 6


def test_long_gradients_are_cut_to_twice_their_moving_average(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch, [1.0, 1.0, 10.0, 1.0])
    outer = {"optimizer": "sgd", "lr": 1.0, "scheduler": "constant", "clip": {"coefficient": 0.5, "factor": 2.0}}
    run = run_of(outer=outer)
    moved, norms = [], []
    for _ in seen.lengths or []:
        before = run.learned.first(C)["vectors"]
        norms.append(run.advance()[1])
        moved.append((run.learned.first(C)["vectors"] - before).norm().item())
    assert norms == pytest.approx([1, 1, 10, 1], rel=1e-5), "the log has the length before clipping"
    assert moved == pytest.approx([1, 1, 2, 1], rel=1e-4)
    assert run.average == pytest.approx(0.5 * (0.5 * 1 + 0.5 * 2) + 0.5 * 1, rel=1e-4)


def test_without_clipping_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    Seen(monkeypatch, [1.0, 50.0])
    run = run_of(outer={"optimizer": "sgd", "lr": 1.0, "scheduler": "constant", "clip": None})
    run.advance()
    before = run.learned.first(C)["vectors"]
    run.advance()
    assert (run.learned.first(C)["vectors"] - before).norm().item() == pytest.approx(50, rel=1e-4)


def test_hard_rows_fill_their_share_of_the_batch() -> None:
    run = run_of(outer={"hard_mining": {"share": 0.5, "every": 3}})
    run.hardness = torch.zeros(60)
    run.hardness[[7, 11, 13, 17, 19, 23]] = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    known = {tuple(row.tolist()): number for number, row in enumerate(run.train.vectors)}
    for run.step in range(6):
        numbers = [known[tuple(row.tolist())] for row in run.real()["vectors"]]
        assert len(numbers) == 10
        assert sum(number in {7, 11, 13, 17, 19, 23} for number in numbers[:5]) == 5
        assert len(set(numbers[:5])) == 5
        assert numbers[5:] == run.order.at(run.step)[:5].tolist()


def test_where_no_row_is_hard_the_batch_is_as_without_mining() -> None:
    run = run_of(outer={"hard_mining": {"share": 0.5, "every": 3}})
    run.hardness = torch.zeros(60)
    assert torch.equal(run.real()["vectors"], run.train.vectors[run.order.at(0)])


def test_hardness_is_the_loss_of_a_student_of_the_current_set() -> None:
    """After training on a set that says the opposite of the truth for class 0, its rows are the hardest."""
    run = run_of(outer={"hard_mining": {"share": 0.5, "every": 3}}, steps=60, learning_rate=0.05)
    with torch.no_grad():
        run.learned.tensors["vectors"].copy_(3 * torch.eye(C, D)[[1, 0, 2]])
    run.advance()
    of_class = [run.hardness[run.train.labels == label].mean().item() for label in range(C)]
    assert min(of_class[0], of_class[1]) > 3 * of_class[2]
    kept = run.hardness
    run.advance()
    assert run.hardness is kept
    run.advance()
    run.advance()
    assert run.hardness is not kept


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_hard_mining_by_a_student_that_diverged_is_a_loss_that_is_not_finite(bad: float) -> None:
    """Said as of any other loss, before anything is changed, so that the last good state can be saved."""
    run = run_of(outer={"hard_mining": {"share": 0.5, "every": 3}})
    run.advance()
    before = run.hardness
    with torch.no_grad():
        run.learned.tensors["vectors"].fill_(bad)
    run.step = 3
    with pytest.raises(FloatingPointError, match="hard_mining: the losses of 60 of 60 training rows are not finite"):
        run.advance()
    assert run.step == 3
    assert run.hardness is before


@pytest.mark.parametrize("changes", [{}, {"outer": {"loss": "class_weights"}}])
def test_ensembles_average_what_single_students_say(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same initial students: the gradient of three at once is the mean of three alone."""
    together = run_of(draws=3, window=5, start="end", **changes)
    together.gradient()
    true, alone = VectorStudent.initial, []
    for member in range(3):
        monkeypatch.setattr(VectorStudent, "initial", lambda self, seed, _, m=member: true(self, seed, [m]))
        single = run_of(window=5, start="end", **changes)
        single.gradient()
        alone.append(single.learned.tensors["vectors"].grad)
    found = together.learned.tensors["vectors"].grad
    assert found is not None
    torch.testing.assert_close(found, torch.stack(alone).mean(dim=0), rtol=1e-3, atol=1e-6)
    assert (alone[0] - alone[1]).norm() > 0.05 * alone[0].norm()
