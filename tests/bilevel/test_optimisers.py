"""The inner optimisers: the steps of torch.optim, with a pullback that is right, also where nothing has moved yet."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.bilevel import Adam, GradientDescent, Momentum, Optimiser, optimisers

OPTIMISERS: dict[str, Optimiser] = {
    "gd": GradientDescent(),
    "momentum": Momentum(0.8),
    "nesterov": Momentum(0.8, nesterov=True),
    "adam": Adam((0.7, 0.9), 1e-3),
}


SCALES = (1.0, 1e-3, 1e-2, 0.1, 1.0, 1e2, 1e-4)  # of θ, g, m, √v and what comes back


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_steps_are_those_of_torch(name: str) -> None:
    ours = OPTIMISERS[name]
    parameters = [drawn(0, 3, 2).requires_grad_(), drawn(1, 4).requires_grad_(), drawn(2, 2).requires_grad_()]
    theirs: torch.optim.Optimizer
    if isinstance(ours, Adam):
        theirs = torch.optim.Adam(parameters, lr=0.1, betas=ours.betas, eps=ours.eps)
    else:
        momentum = ours.momentum if isinstance(ours, Momentum) else 0.0
        theirs = torch.optim.SGD(parameters, lr=0.1, momentum=momentum, nesterov=name == "nesterov")
    theta = tuple(parameter.detach().clone() for parameter in parameters)
    last, state = theta[2], ours.start(theta)
    for t in range(6):
        rate = torch.tensor(0.1 * (t + 1), dtype=torch.float64)
        gradient = (drawn(10 + t, 3, 2), torch.zeros(4, dtype=torch.float64) if t < 2 else drawn(20 + t, 4), None)
        for parameter, g in zip(parameters, gradient, strict=True):
            parameter.grad = g
        theirs.param_groups[0]["lr"] = rate.item()
        theirs.step()
        theta, state = ours.step(theta, state, gradient, rate, t)
        for part, parameter in zip(theta, parameters, strict=True):
            torch.testing.assert_close(part, parameter.detach(), rtol=1e-13, atol=1e-14)
    assert theta[2] is last
    assert all(slot[2]._base is not None for slot in state), "state of what never moves takes no memory"


@pytest.mark.parametrize("t", [0, 3])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_pullback_is_the_transposed_derivative_of_the_step(name: str, t: int) -> None:
    """Against autograd through the step, which gradcheck compares with differences below."""
    optimiser = OPTIMISERS[name]
    theta, gradient, rate = (drawn(1, 5), drawn(2, 3)), (drawn(3, 5), drawn(4, 3)), torch.tensor(0.3).double()
    state = optimiser.start(theta)
    for step in range(t):
        _, state = optimiser.step(theta, state, (drawn(50 + step, 5), drawn(60 + step, 3)), rate, step)
    cotangent = (drawn(5, 5), drawn(6, 3))
    of_state = tuple((drawn(7 + slot, 5), drawn(9 + slot, 3)) for slot in range(len(state)))
    back = optimiser.pullback(state, gradient if optimiser.needs_gradient else None, rate, t, cotangent, of_state)

    parts = [tensor.clone().requires_grad_() for tensor in (rate, *theta, *gradient, *(p for s in state for p in s))]
    slots = tuple(tuple(parts[5 + 2 * slot : 7 + 2 * slot]) for slot in range(len(state)))
    after, after_state = optimiser.step(tuple(parts[1:3]), slots, tuple(parts[3:5]), parts[0], t)
    outputs, cotangents = ([*v, *(p for s in w for p in s)] for v, w in ((after, after_state), (cotangent, of_state)))
    of_rate, *expected = torch.autograd.grad(outputs, parts, cotangents)

    along = sum((g * w).sum() for g, w in zip(gradient, back.direction, strict=True))
    torch.testing.assert_close(-along if back.rate is None else back.rate, of_rate)
    found = [*cotangent, *(back.factor * w for w in back.direction), *(p for s in back.state for p in s)]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_steps_pass_gradcheck(name: str) -> None:
    optimiser = OPTIMISERS[name]
    theta, gradient, rate = drawn(1, 3), drawn(2, 3), torch.tensor(0.3, dtype=torch.float64)
    _, state = optimiser.step((theta,), optimiser.start((theta,)), (drawn(3, 3),), rate, 0)

    def flat(theta: Tensor, gradient: Tensor, rate: Tensor, *slots: Tensor) -> tuple[Tensor, ...]:
        after, state = optimiser.step((theta,), tuple((slot,) for slot in slots), (gradient,), rate, 1)
        return (*after, *(slot for (slot,) in state))

    inputs = [theta, gradient, rate, *(slot for (slot,) in state)]
    assert torch.autograd.gradcheck(flat, [tensor.clone().requires_grad_() for tensor in inputs])


def test_adam_has_a_derivative_where_the_gradient_was_always_zero() -> None:
    """u = g / (|g| + ε) at the first step: its derivative at g = 0 is 1 / ε."""
    adam, theta = Adam((0.9, 0.999), 1e-2), (torch.zeros(2, dtype=torch.float64),)
    gradient = (torch.tensor([0.0, 1.0], dtype=torch.float64),)
    rate = torch.tensor(0.5, dtype=torch.float64)
    one = (torch.ones(2, dtype=torch.float64),)
    back = adam.pullback(adam.start(theta), gradient, rate, 0, one, adam.start(theta))
    assert all(tensor.isfinite().all() for tensor in (*back.direction, *back.state[0], *back.state[1]))
    torch.testing.assert_close(back.direction[0][0].item(), -0.5 / 1e-2)
    torch.testing.assert_close(back.direction[0][1].item(), -0.5 * 1e-2 / 1.01**2)


def test_what_the_loss_does_not_depend_on_is_passed_through() -> None:
    for optimiser in (Momentum(), Adam()):
        theta = (drawn(0, 2), drawn(1, 2))
        state = optimiser.start(theta)
        of_state = tuple((drawn(4, 2), drawn(5, 2)) for _ in state)
        rate = torch.tensor(0.1, dtype=torch.float64)
        back = optimiser.pullback(state, (drawn(2, 2), None), rate, 0, theta, of_state)
        assert all(slot[1] is given[1] for slot, given in zip(back.state, of_state, strict=True))


def test_plain_gradient_descent_copies_nothing_to_go_back() -> None:
    cotangent = (drawn(0, 3),)
    back = GradientDescent().pullback((), None, torch.tensor(0.1), 0, cotangent, ())
    assert back.direction is cotangent
    assert not GradientDescent.needs_gradient


@pytest.mark.parametrize("name", ["nesterov", "adam"])
def test_piece_by_piece_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    optimiser = OPTIMISERS[name]
    theta, gradient = (drawn(0, 7, 3), drawn(1, 50)), (drawn(2, 7, 3), drawn(3, 50))
    cotangent, rate = (drawn(4, 7, 3), drawn(5, 50)), torch.tensor(0.3).double()
    found = []
    for piece in (1000, 10):
        monkeypatch.setattr(optimisers, "_PIECE", {"cpu": piece, "cuda": 1})
        with torch.no_grad():
            point = theta, optimiser.start(theta)
            for t in range(3):
                point = optimiser.step(*point, gradient, rate, t)
            back = optimiser.pullback(point[1], gradient, rate, 3, cotangent, point[1])
        vectors = (point[0], *point[1], back.direction, *back.state)
        found.append(([part for vector in vectors for part in vector], back.rate))
    (whole, rate), (pieces, other_rate) = found
    assert all(torch.equal(one, other) for one, other in zip(whole, pieces, strict=True))
    torch.testing.assert_close(rate, other_rate)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("t", [0, 1, 30])
def test_adams_closed_form_is_autograd_to_the_bit(t: int, dtype: torch.dtype) -> None:
    adam, rate = Adam(), torch.tensor(0.01, dtype=dtype)
    theta, gradient, mean, square, *ends = (scale * drawn(at, 999).to(dtype) for at, scale in enumerate(SCALES))
    square = square.square()
    gradient[:300], mean[:100], square[:200] = 0, 0, 0
    closed = adam._back(gradient, (mean, square), rate, t, ends)
    by_autograd = optimisers._ByElement._back(adam, gradient, (mean, square), rate, t, ends)
    plain = adam._move_plainly(theta, gradient, (mean, square), rate, t)
    with_graph = adam._move(theta, gradient, (mean, square), rate, t)
    for ours, reference in zip((*closed, *plain), (*by_autograd, *with_graph), strict=True):
        assert torch.equal(ours, reference)
        assert reference.any()
