"""Every estimator with every optimiser, window and kind of attention label, against the unroll and differences."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.bilevel import (
    Adam,
    Estimator,
    GradientDescent,
    Momentum,
    Optimiser,
    Snapshots,
    choose,
    descend,
    hypergradient,
)
from pipeline.bilevel.adjoint import adjoint
from pipeline.bilevel.autograd import Autograd
from pipeline.bilevel.check import agreements
from pipeline.bilevel.descent import fused_passes
from pipeline.bilevel.inner import InnerBatch, outer_loss
from tests.bilevel.problem import S, assert_close, batches, equal, gradients, leaves, real_batch, student

Folder = Callable[..., Path]
# ε is large enough for central differences: entries of g near zero bend Adam's step within their length
OPTIMISERS: dict[str, Optimiser] = {
    "gd": GradientDescent(),
    "momentum": Momentum(0.8),
    "nesterov": Momentum(0.7, nesterov=True),
    "adam": Adam((0.8, 0.9), 0.05),
}
ESTIMATORS = ["adjoint", "fused"]


@pytest.mark.parametrize("rows", [0, 1, S])
@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_all_agree_with_the_unroll_and_with_differences(
    encoder_folder: Folder, optimiser: str, window: int | None, rows: int
) -> None:
    """Differences are the same whatever the estimator: one is compared with them, all with the unroll."""
    made, theta = student(encoder_folder)
    learned, inner = leaves(rows), {"optimiser": OPTIMISERS[optimiser], "window": window}
    values = {name: leaf.detach() for name, leaf in learned.items()}
    found = agreements("fused", made, theta, values, batches, [real_batch()], step=1e-5, **inner)  # type: ignore[arg-type]
    assert len(found) == (8 if rows else 6)
    for row in found:
        assert row.relative_error < (1e-9 if row.against == "unroll" else 1e-5), row
    by: dict[str, dict[str, torch.Tensor]] = {}
    for estimator in ("adjoint", "unroll"):
        tensors = leaves(rows)
        hypergradient(estimator, made, theta, batches(tensors), [real_batch()], **inner)  # type: ignore[arg-type]
        by[estimator] = gradients(tensors)
    assert_close(by["adjoint"], by["unroll"], 1e-9)


def test_a_window_as_long_as_the_steps_is_none(encoder_folder: Folder) -> None:
    made, theta = student(encoder_folder)
    for estimator in ("unroll", *ESTIMATORS):
        found = []
        for window in (None, 4, 9):
            tensors = leaves(1)
            hypergradient(estimator, made, theta, batches(tensors), [real_batch()], window=window)
            found.append(gradients(tensors))
        assert equal(found[0], found[1])
        assert equal(found[0], found[2])


def test_batches_before_the_window_get_nothing(encoder_folder: Folder) -> None:
    made, theta = student(encoder_folder)
    for estimator in ("unroll", *ESTIMATORS):
        tensors = leaves(0)
        hypergradient(estimator, made, theta, batches(tensors), [real_batch()], window=2)
        assert tensors["rates"].grad is not None
        assert (tensors["rates"].grad != 0).tolist() == [False, False, True, True]
        assert tensors["inputs"].grad is not None
        assert (tensors["inputs"].grad.flatten(1).norm(dim=1) > 0).tolist() == [True, True, True, False]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("optimiser", ["gd", "adam"])
def test_steps_that_share_tensors_add_up(encoder_folder: Folder, estimator: Estimator, optimiser: str) -> None:
    """The same tensors, and the same learned step size, in every step; leaves that are the batches themselves."""
    made, theta = student(encoder_folder)
    found = {}
    for kind in ("unroll", estimator):
        tensors = leaves(1, steps=1)
        (batch,) = batches(tensors)
        whole = replace(batch, inputs=tensors["inputs"], labels=tensors["labels"])
        whole = replace(whole, attention=tensors["attention"].softmax(-1), learning_rate=tensors["rates"][0])
        hypergradient(kind, made, theta, [whole] * 3, [real_batch()], optimiser=OPTIMISERS[optimiser])
        found[kind] = gradients(tensors)
    assert_close(found[estimator], found["unroll"], 1e-9)


@pytest.mark.parametrize("estimator", ["unroll", *ESTIMATORS])
def test_several_real_batches_are_one(encoder_folder: Folder, estimator: Estimator) -> None:
    made, theta = student(encoder_folder)
    whole = real_batch(rows=7)
    parts = [{name: tensor[rows] for name, tensor in whole.items()} for rows in (slice(0, 5), slice(5, 7))]
    found, losses = [], []
    for real in ([whole], parts):
        tensors = leaves(1)
        losses.append(hypergradient(estimator, made, theta, batches(tensors), real).item())
        found.append(gradients(tensors))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert_close(found[1], found[0], 1e-10)


@pytest.mark.parametrize("estimator", ["unroll", *ESTIMATORS])
def test_the_loss_is_that_of_the_trained_student(encoder_folder: Folder, estimator: Estimator) -> None:
    made, theta = student(encoder_folder)
    for optimiser in OPTIMISERS.values():
        tensors, real = leaves(1), [real_batch()]
        loss = hypergradient(estimator, made, theta, batches(tensors), real, optimiser=optimiser, scale=8.0)
        trained = descend(made, theta, batches(tensors), optimiser=optimiser)
        assert loss.item() == pytest.approx(outer_loss(made, trained, real).item(), rel=1e-11)
        assert not loss.requires_grad


@pytest.mark.parametrize("estimator", ["unroll", *ESTIMATORS])
def test_nothing_is_changed_in_place(encoder_folder: Folder, estimator: Estimator) -> None:
    made, theta = student(encoder_folder)
    before = {name: value.clone() for name, value in theta.items()}
    tensors = leaves(1)
    kept = {name: value.detach().clone() for name, value in tensors.items()}
    for optimiser in OPTIMISERS.values():
        hypergradient(estimator, made, theta, batches(tensors), [real_batch()], optimiser=optimiser)
    assert equal(theta, before)
    assert equal({name: value.detach() for name, value in tensors.items()}, kept)
    assert all(value.grad is None for value in theta.values())


def test_adam_with_its_usual_epsilon(encoder_folder: Folder) -> None:
    """Differences cannot follow entries of g near zero, which 1 / ε blows up; the estimators agree all the same."""
    made, theta = student(encoder_folder)
    found = {}
    for estimator in ("unroll", *ESTIMATORS):
        tensors = leaves(1)
        with torch.no_grad():
            tensors["rates"] *= 0.1
        hypergradient(estimator, made, theta, batches(tensors), [real_batch()], optimiser=Adam())
        found[estimator] = gradients(tensors)
    for estimator in ESTIMATORS:
        assert_close(found[estimator], found["unroll"], 1e-9)


# --- what is alive -------------------------------------------------------------------------------------------------


class _Saved:
    """A tensor that a graph keeps for its backward pass; counts itself."""

    alive = most = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        _Saved.alive += 1
        _Saved.most = max(_Saved.most, _Saved.alive)

    def __del__(self) -> None:
        _Saved.alive -= 1


@contextlib.contextmanager
def counting() -> Iterator[type[_Saved]]:
    _Saved.alive = _Saved.most = 0
    with torch.autograd.graph.saved_tensors_hooks(_Saved, lambda saved: saved.tensor):
        yield _Saved


def test_one_step_of_graph_is_alive(encoder_folder: Folder) -> None:
    """Tensors that graphs hold at once: as many for eight steps as for two, four times as many in the unroll."""
    made, theta = student(encoder_folder)
    most: dict[tuple[str, str, int], int] = {}
    for estimator in ("unroll", "adjoint"):
        for name in ("gd", "adam"):
            for steps in (2, 8):
                tensors = leaves(1, steps)
                inner = batches(tensors)
                with counting() as saved:
                    hypergradient(estimator, made, theta, inner, [real_batch()], optimiser=OPTIMISERS[name])
                most[estimator, name, steps] = saved.most
    for name in ("gd", "adam"):
        assert most["adjoint", name, 8] == most["adjoint", name, 2]
        assert most["unroll", name, 8] > 3 * most["unroll", name, 2]


# --- which estimator -----------------------------------------------------------------------------------------------


class Covered:
    """A student with fused passes, whatever they are."""

    def __init__(self, passes: Any) -> None:
        self.passes = passes

    def fused(self) -> Any:
        return self.passes


def test_auto_takes_the_fastest_that_there_is() -> None:
    fused: Any = object()
    assert choose("auto", Covered(fused), 1)[0] == "fused"
    assert choose("fused", Covered(fused), 50)[0] == "fused"
    assert choose("adjoint", Covered(fused), 1) == ("adjoint", "as configured")
    assert choose("unroll", Covered(fused), 50) == ("unroll", "as configured")
    assert choose("auto", Covered("dropout is on"), 5) == ("unroll", "dropout is on; at most 5 inner steps")
    assert choose("auto", Covered("dropout is on"), 6) == ("adjoint", "dropout is on; more than 5 inner steps")
    assert choose("auto", object(), 1)[0] == "unroll"
    assert "object has no fused passes" in choose("auto", object(), 1)[1]
    with pytest.raises(ValueError, match=r"'fused' cannot be used \(dropout is on\); use auto, unroll or adjoint"):
        choose("fused", Covered("dropout is on"), 1)


def test_fused_passes_are_what_hypergradient_and_descend_call(encoder_folder: Folder) -> None:
    made, theta = student(encoder_folder)
    calls = []

    class Passes(Autograd):
        def gradient(self, *args: Any, **kwargs: Any) -> Any:
            calls.append("gradient")
            return super().gradient(*args, **kwargs)

    class WithPasses:
        __call__, logits = made.__call__, made.logits

        def fused(self) -> Autograd:
            return Passes(made, theta)

    tensors = leaves(0)
    assert isinstance(fused_passes(WithPasses()), Passes)
    hypergradient("auto", WithPasses(), theta, batches(tensors), [real_batch()])
    assert len(calls) == 4 + 4  # forward, and once per step for the graph on the way back
    descend(WithPasses(), theta, batches(tensors))
    assert len(calls) == 12


# --- what is kept of the forward sweep -----------------------------------------------------------------------------


class Keeping(Autograd):
    """Keeps a step's graph where it is asked for, and notes which steps were asked for and which were handed back."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.asked: list[int] = []
        self.reused: list[int] = []

    def gradient(self, theta: Any, batch: InnerBatch, step: int, *, keep: bool = False) -> Any:
        self.asked += [step] * keep
        return super().gradient(theta, batch, step, keep=keep)

    def along(self, theta: Any, batch: InnerBatch, step: int, *args: Any, **kwargs: Any) -> Any:
        self.reused += [step] * (kwargs["kept"] is not None)
        return super().along(theta, batch, step, *args, **kwargs)

    def kept_bytes(self, batch: InnerBatch) -> int | None:
        return 100


@pytest.mark.parametrize("optimiser", ["gd", "nesterov"])
@pytest.mark.parametrize(("keep", "steps"), [(None, [3]), (0, []), (99, []), (250, [2, 3]), (10_000, [0, 1, 2, 3])])
def test_the_last_steps_are_kept_within_the_budget(
    encoder_folder: Folder, keep: int | None, steps: list[int], optimiser: str
) -> None:
    made, theta = student(encoder_folder)
    reference, ours = leaves(1), leaves(1)
    rule = OPTIMISERS[optimiser]
    hypergradient("unroll", made, theta, batches(reference), [real_batch()], optimiser=rule)
    derivatives = Keeping(made, theta)
    adjoint(
        derivatives, theta, batches(ours), [real_batch()], optimiser=rule, snapshots=Snapshots(keep=keep)
    )  # fmt: skip
    assert_close(gradients(ours), gradients(reference), 1e-9)
    if optimiser == "gd":
        # the others are asked for on the way back, where along needs them and nobody has kept them
        assert derivatives.asked == [*steps, *(t for t in (3, 2, 1, 0) if t not in steps)]
        assert derivatives.reused == steps[::-1]
    else:
        assert sorted(derivatives.asked) == [0, 1, 2, 3]
        assert derivatives.reused == [3, 2, 1, 0]
