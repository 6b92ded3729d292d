"""Where the θ_t wait changes nothing but memory: bit-equal hypergradients, and as many θ_t alive as promised."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.bilevel import Adam, GradientDescent, Momentum, Optimiser, Snapshots, snapshots
from pipeline.bilevel.adjoint import adjoint
from pipeline.bilevel.autograd import Autograd
from pipeline.bilevel.descent import Point
from pipeline.bilevel.inner import InnerBatch
from pipeline.bilevel.snapshots import Trail, Where
from pipeline.students.encoder import Student
from tests.bilevel.problem import FRESH, assert_close, batches, equal, gradients, leaves, real_batch, student

Folder = Callable[..., Path]
POLICIES: list[Where] = ["device", "host", "disk", "recompute"]
WORDS, OTHER = "bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.output.dense.weight"


class Watching(Autograd):
    """Counts the θ_t that are alive whenever a gradient is taken, and its calls."""

    def __init__(self, student: Any, parameters: Any) -> None:
        super().__init__(student, parameters)
        self.words, self.other = (list(parameters).index(name) for name in (WORDS, OTHER))
        self.seen: dict[int, list[weakref.ref[torch.Tensor]]] = {self.words: [], self.other: []}
        self.most = self.calls = 0

    def gradient(self, theta: Any, batch: InnerBatch, step: int, *, keep: bool = False) -> Any:
        self.calls += 1
        for part in (self.words, self.other):
            self.seen[part].append(weakref.ref(theta[part]))
        assert self._alive(self.words) == 1, "word embeddings were copied"
        self.most = max(self.most, self._alive(self.other))
        return super().gradient(theta, batch, step, keep=keep)

    def _alive(self, part: int) -> int:
        return len({id(found) for seen in self.seen[part] if (found := seen()) is not None})


def hypergradient(
    encoder_folder: Folder, policy: Snapshots, steps: int, optimiser: Optimiser, window: int | None = None
) -> tuple[dict[str, torch.Tensor], Watching]:
    made, theta = student(encoder_folder)
    tensors, derivatives = leaves(1, steps), Watching(made, theta)
    adjoint(
        derivatives,
        theta,
        batches(tensors),
        [real_batch()],
        optimiser=optimiser,
        window=window,
        snapshots=policy,
    )
    return gradients(tensors), derivatives


@pytest.mark.parametrize("optimiser", [GradientDescent(), Momentum(), Adam(eps=0.05)])
@pytest.mark.parametrize(("steps", "window"), [(1, None), (2, None), (7, None), (9, None), (8, 5)])
def test_every_policy_gives_the_same_bits(
    encoder_folder: Folder, optimiser: Optimiser, steps: int, window: int | None
) -> None:
    found = [hypergradient(encoder_folder, Snapshots(where), steps, optimiser, window)[0] for where in POLICIES]
    assert all(equal(other, found[0]) for other in found[1:])


@pytest.mark.parametrize("steps", [4, 9, 12])
def test_as_many_are_alive_as_promised(encoder_folder: Folder, steps: int) -> None:
    """θ_0 is the caller's and always alive; one more is the step's own."""
    most, calls = {}, {}
    for where in POLICIES:
        _, watching = hypergradient(encoder_folder, Snapshots(where), steps, GradientDescent())
        most[where], calls[where] = watching.most, watching.calls
    segment = math.ceil(math.sqrt(steps))
    assert most["device"] == most["host"] == steps  # on a CPU the host is the device
    assert most["disk"] <= 3
    assert most["recompute"] <= 2 * segment
    assert calls["device"] == calls["disk"] == 2 * steps  # forward, and once each on the way back
    assert calls["device"] < calls["recompute"] <= 3 * steps


def test_steps_before_the_window_leave_nothing(encoder_folder: Folder) -> None:
    _, watching = hypergradient(encoder_folder, Snapshots("device"), 10, GradientDescent(), window=2)
    assert watching.most <= 4


def trail(policy: Snapshots, steps: int) -> Trail:
    """A path of vectors of 800 bytes beside one that never changes."""
    fixed, theta_0 = torch.ones(10**6), torch.zeros(100, dtype=torch.float64)

    def rerun(point: Point, again: range) -> list[Point]:
        return [Point((fixed, point.theta[1] + 1 + n), ()) for n in range(len(again))]

    made = Trail(policy, Point((fixed, theta_0), ()), range(steps), rerun)  # type: ignore[arg-type]
    for t in range(steps):
        made.put(t, Point((fixed, theta_0 + t if t else theta_0), ()))
    return made


@pytest.mark.parametrize(
    ("budget", "expected", "held"),
    [(9 * 800, "device", 9), (9 * 800 - 1, "recompute", 5), (6 * 800, "recompute", 5), (6 * 800 - 1, "disk", 9)],
)
def test_auto_by_the_budget(budget: int, expected: Where, held: int) -> None:
    made = trail(Snapshots(budget=budget), 9)
    assert made.where == expected
    assert len(made) == held
    for t in reversed(range(9)):
        assert len(made) <= 5 or expected != "recompute"
        fixed, theta = made.pop(t).theta
        assert theta.tolist() == [t] * 100
        assert fixed.numel() == 10**6
    assert len(made) == 0


def test_the_default_budget_is_a_quarter_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "free_memory", lambda device: 4 * 9 * 800)
    assert trail(Snapshots(), 9).where == "device"
    monkeypatch.setattr(snapshots, "free_memory", lambda device: 4 * 9 * 800 - 4)
    assert trail(Snapshots(), 9).where == "recompute"


def test_the_disk_takes_every_type_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    disk = snapshots._Disk()
    made = [torch.randn(3, 4).t(), torch.randn(5).bfloat16(), torch.randn(()).double(), torch.ones(1).expand(6)]
    reads = [disk(tensor) for tensor in made]
    assert list(tmp_path.iterdir()) == []
    for read, tensor in reversed(list(zip(reads, made, strict=True))):
        assert torch.equal(read(), tensor)
        assert read().dtype == tensor.dtype


def test_a_full_disk_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="cut short"):
        snapshots._whole(lambda left: 0, torch.ones(3))


GPU = torch.device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_host_of_a_gpu(encoder_folder: Folder) -> None:
    """Pinned copies come back whole, also while later steps are already queued."""
    model, theta = student(encoder_folder)
    made = Student(copy.deepcopy(model.install(theta)).to(GPU), FRESH)
    theta = made.initial(0, 0)
    found = []
    for where in POLICIES:
        tensors = {name: leaf.detach().to(GPU).requires_grad_() for name, leaf in leaves(1, 9).items()}
        real = {name: tensor.to(GPU) for name, tensor in real_batch().items()}
        adjoint(
            Autograd(made, theta),
            theta,
            batches(tensors),
            [real],
            optimiser=Momentum(),
            snapshots=Snapshots(where),
        )
        found.append(gradients(tensors))
    for other in found[1:]:
        assert_close(other, found[0], 1e-10)
