"""What a window of W differentiated steps costs: W, whatever comes before it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.bilevel import Estimator, hypergradient, unroll
from tests.bilevel.members import Members, batches, leaves, real_batch, start
from tests.bilevel.problem import equal, gradients
from tests.bilevel.test_estimators import OPTIMISERS, counting

ESTIMATORS: list[Estimator] = ["unroll", "adjoint"]


def most_saved(estimator: Estimator, optimiser: str, steps: int, window: int | None) -> int:
    """The most tensors that graphs held at once."""
    tensors = leaves()
    inner = batches(tensors, steps)
    with counting() as saved:
        hypergradient(
            estimator, Members(), start([0, 1]), inner, [real_batch()], optimiser=OPTIMISERS[optimiser], window=window
        )
    assert tensors["vectors"].grad is not None
    assert tensors["vectors"].grad.any()
    return saved.most


@pytest.mark.parametrize("optimiser", ["gd", "adam"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_steps_before_the_window_hold_no_graph(estimator: Estimator, optimiser: str) -> None:
    few = most_saved(estimator, optimiser, steps=5, window=4)
    many = most_saved(estimator, optimiser, steps=40, window=4)
    assert many == few
    if estimator == "unroll":
        assert most_saved(estimator, optimiser, steps=40, window=None) > 8 * few


@pytest.mark.parametrize("optimiser", ["gd", "adam"])
def test_the_graph_of_the_outer_loss_is_as_long_as_the_window(optimiser: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes behind the outer loss: the public code for sentence vectors keeps those of all steps."""
    true, nodes = unroll.outer_loss, []

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        value = true(*args, **kwargs)
        nodes.append(_behind(value))
        return value

    monkeypatch.setattr(unroll, "outer_loss", counted)

    def size(steps: int, window: int | None) -> int:
        most_saved("unroll", optimiser, steps, window)
        return nodes.pop()

    one, two, three = (size(30, window) for window in (4, 8, 12))
    assert size(10, 4) == size(60, 4) == one
    assert three - two == two - one > 0
    assert size(12, None) == three
    assert size(24, None) - three == 3 * (two - one)


def _behind(value: Tensor) -> int:
    """Nodes of the graph that ends in ``value``, without the leaves' own."""
    seen: set[Any] = set()
    waiting = [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen or type(node).__name__ == "AccumulateGrad":
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return len(seen)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_window_of_all_steps_is_full_to_the_bit(estimator: Estimator, optimiser: str) -> None:
    found = []
    for window in (None, 7):
        tensors = leaves()
        hypergradient(
            estimator,
            Members(),
            start([2]),
            batches(tensors, 7),
            [real_batch()],
            optimiser=OPTIMISERS[optimiser],
            window=window,
        )
        found.append(gradients(tensors))
    assert equal(*found)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_what_comes_before_the_window_is_where_it_starts(estimator: Estimator) -> None:
    """The same as θ_N and the optimiser's state after N steps by hand, then the whole of the rest."""
    truncated, rest = leaves(), leaves()
    rate, theta = truncated["rate"].detach(), start([0])
    for batch in batches(leaves(), 5)[:3]:
        tracked = {name: tensor.clone().requires_grad_() for name, tensor in theta.items()}
        logits, _ = Members()(tracked, batch.inputs.detach())
        loss = -(batch.labels.detach() * logits[0].log_softmax(-1)).sum(-1).mean()
        found = torch.autograd.grad(loss, list(tracked.values()))
        theta = {name: theta[name] - rate * g for name, g in zip(theta, found, strict=True)}
    hypergradient(estimator, Members(), start([0]), batches(truncated, 5), [real_batch()], window=2)
    hypergradient(estimator, Members(), theta, batches(rest, 5)[3:], [real_batch()])
    for name, gradient in gradients(rest).items():
        torch.testing.assert_close(gradients(truncated)[name], gradient, rtol=1e-10, atol=1e-14)
