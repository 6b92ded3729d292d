"""Inner optimisers as pure update rules: one step, and its vector-Jacobian product.

All have the form θ_{t+1} = θ_t − η_t u_t, where u_t depends on the gradient g_t and on the optimiser's own state s_t,
and not on θ_t itself. Parameters that the loss does not depend on (gradient ``None``) and their state are passed on as
the same objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from pipeline.bilevel.derivatives import Gradient, Vector

State = tuple[Vector, ...]
_PIECE = {"cpu": 2**17, "cuda": 2**25}  # entries


@dataclass(frozen=True)
class Pullback:
    """What a step makes of the cotangents λ of θ_{t+1} and ν of s_{t+1}; the cotangent of θ_t that is direct is λ.

    Attributes:
        direction: w, so that the cotangent of g_t is ``factor`` · w.
        factor: a scalar.
        state: cotangents of s_t.
        rate: cotangent of η_t; ``None`` says that it is −⟨g_t, w⟩.

    """

    direction: Vector
    factor: Tensor
    state: State
    rate: Tensor | None


class Optimiser(Protocol):
    """A differentiable update rule."""

    @property
    def needs_gradient(self) -> bool:
        """Whether :meth:`pullback` reads g_t and s_t."""
        ...

    def start(self, theta: Vector) -> State:
        """s_0."""
        ...

    def step(self, theta: Vector, state: State, gradient: Gradient, rate: Tensor, t: int) -> tuple[Vector, State]:
        """(θ_{t+1}, s_{t+1}), differentiable with respect to every tensor; nothing is changed in place."""
        ...

    def pullback(
        self, state: State, gradient: Gradient | None, rate: Tensor, t: int, cotangent: Vector, of_state: State
    ) -> Pullback:
        """The vector-Jacobian product of step t.

        Args:
            state: s_t.
            gradient: g_t, or ``None`` where it is not needed.
            rate: η_t.
            t: number of the step, from 0.
            cotangent: λ, of θ_{t+1}.
            of_state: ν, of s_{t+1}.

        """
        ...


@dataclass(frozen=True)
class GradientDescent:
    """θ_{t+1} = θ_t − η_t g_t (DDAL, equation 2)."""

    needs_gradient: ClassVar[bool] = False

    def start(self, theta: Vector) -> State:
        """Nothing."""
        return ()

    def step(self, theta: Vector, state: State, gradient: Gradient, rate: Tensor, t: int) -> tuple[Vector, State]:
        """See :class:`Optimiser`."""
        return moved(theta, gradient, -rate), ()

    def pullback(
        self, state: State, gradient: Gradient | None, rate: Tensor, t: int, cotangent: Vector, of_state: State
    ) -> Pullback:
        """The cotangent of g_t is −η_t λ and that of η_t is −⟨g_t, λ⟩: no copy of λ, and no g_t, is needed."""
        return Pullback(cotangent, -rate, (), None)


PLAIN = GradientDescent()


class _ByElement:
    """Rules that treat every entry of θ alike: one tensor's step gives the whole, and autograd its pullback."""

    needs_gradient: ClassVar[bool] = True
    _slots: ClassVar[int]

    def _move(self, theta: Tensor, gradient: Tensor, slots: Sequence[Tensor], rate: Tensor, t: int) -> list[Tensor]:
        """θ_{t+1} and s_{t+1} of one tensor, differentiable."""
        raise NotImplementedError

    def _move_plainly(
        self, theta: Tensor, gradient: Tensor, slots: Sequence[Tensor], rate: Tensor, t: int
    ) -> Sequence[Tensor]:
        """The same to the bit, where no graph is recorded."""
        return self._move(theta, gradient, slots, rate, t)

    def _back(
        self, gradient: Tensor, slots: Sequence[Tensor], rate: Tensor, t: int, ends: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """Cotangents of η_t, g_t and s_t from ``ends``, those of θ_{t+1} and s_{t+1}; here by autograd."""
        leaves = [tensor.detach().requires_grad_() for tensor in (rate, gradient, *slots)]
        with torch.enable_grad():
            after = self._move(gradient.new_zeros(()), leaves[1], leaves[2:], leaves[0], t)
        return torch.autograd.grad(after, leaves, ends)

    def start(self, theta: Vector) -> State:
        """Zeros, which take no memory until they change."""
        return tuple(tuple(part.new_zeros(()).expand_as(part) for part in theta) for _ in range(self._slots))

    def step(self, theta: Vector, state: State, gradient: Gradient, rate: Tensor, t: int) -> tuple[Vector, State]:
        """See :class:`Optimiser`."""

        rule = self._move if torch.is_grad_enabled() else self._move_plainly

        def move(part: Tensor, g: Tensor, *slots: Tensor) -> Sequence[Tensor]:
            return rule(part, g, slots, rate, t)

        found = [
            [part, *slots] if g is None else _in_pieces(move, [part, g, *slots], 1 + self._slots)
            for part, g, *slots in zip(theta, gradient, *state, strict=True)
        ]
        after, *after_state = zip(*found, strict=True)
        return after, tuple(after_state)

    def pullback(
        self, state: State, gradient: Gradient | None, rate: Tensor, t: int, cotangent: Vector, of_state: State
    ) -> Pullback:
        """See :class:`Optimiser`."""
        assert gradient is not None
        of_rate = torch.zeros_like(rate)

        def back(part: Tensor, g: Tensor, *rest: Tensor) -> Sequence[Tensor]:
            slots, of_slots = rest[: self._slots], rest[self._slots :]
            its_rate, *found = self._back(g, slots, rate, t, (part, *of_slots))
            of_rate.add_(its_rate)
            return found

        found = [
            [part, *rest[self._slots :]] if g is None else _in_pieces(back, [part, g, *rest], 1 + self._slots)
            for part, g, *rest in zip(cotangent, gradient, *state, *of_state, strict=True)
        ]
        directions, *states = zip(*found, strict=True)
        return Pullback(directions, torch.ones_like(rate), tuple(states), of_rate)


def _in_pieces(function: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor], outputs: int) -> Sequence[Tensor]:
    """A function of every entry alone, of tensors of one shape: what it needs on the way is as small as a piece.

    In one piece where a graph is recorded.
    """
    first = tensors[0]
    size = _PIECE.get(first.device.type, _PIECE["cuda"])
    if first.numel() <= size or torch.is_grad_enabled():
        return function(*tensors)
    rows = max(1, size // first[0].numel())
    found = [torch.empty_like(first) for _ in range(outputs)]
    for piece in zip(*(tensor.split(rows) for tensor in (*tensors, *found)), strict=True):
        for place, value in zip(piece[-outputs:], function(*piece[:-outputs]), strict=True):
            place.copy_(value)
    return found


@dataclass(frozen=True)
class Momentum(_ByElement):
    """b_{t+1} = μ b_t + g_t;  u_t = b_{t+1}, or g_t + μ b_{t+1} with Nesterov (``torch.optim.SGD``)."""

    momentum: float = 0.9
    nesterov: bool = False
    _slots: ClassVar[int] = 1

    def _move(self, theta: Tensor, gradient: Tensor, slots: Sequence[Tensor], rate: Tensor, t: int) -> list[Tensor]:
        (buffer,) = slots
        buffer = self.momentum * buffer + gradient
        update = gradient + self.momentum * buffer if self.nesterov else buffer
        return [theta - rate * update, buffer]


@dataclass(frozen=True)
class Adam(_ByElement):
    """u_t = m̂ / (√v̂ + ε) with the bias-corrected moving averages of g and g² (``torch.optim.Adam``)."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    _slots: ClassVar[int] = 2

    def _move(self, theta: Tensor, gradient: Tensor, slots: Sequence[Tensor], rate: Tensor, t: int) -> list[Tensor]:
        mean, square = slots
        first, second = self.betas
        mean = first * mean + (1 - first) * gradient
        square = second * square + (1 - second) * gradient * gradient
        # √v has no derivative at v = 0, where g is and was 0; u is g / ε around there, which this gives
        moving = square > 0
        root = torch.where(moving, square, 1.0).sqrt() * moving / (1 - second ** (t + 1)) ** 0.5
        return [theta - rate / (1 - first ** (t + 1)) * mean / (root + self.eps), mean, square]

    def _move_plainly(
        self, theta: Tensor, gradient: Tensor, slots: Sequence[Tensor], rate: Tensor, t: int
    ) -> Sequence[Tensor]:
        """Without the precautions for derivatives, and in fewer buffers."""
        first, second = self.betas
        mean = (first * slots[0]).add_((1 - first) * gradient)
        square = (second * slots[1]).add_(((1 - second) * gradient).mul_(gradient))
        below = square.sqrt().div_((1 - second ** (t + 1)) ** 0.5).add_(self.eps)
        step = (rate / (1 - first ** (t + 1)) * mean).div_(below)
        return theta - step, mean, square

    @torch.no_grad()
    def _back(
        self, gradient: Tensor, slots: Sequence[Tensor], rate: Tensor, t: int, ends: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """In closed form: the operations of autograd in its order, so that the result is the same to the bit.

        With u = η̂ m / d and d = √v / c + ε: λ_m = μ − λ η̂ / d and λ_v = ν + λ u / d / (2 c √v), or ν where v = 0.
        """
        first, second = self.betas
        correction = (1 - second ** (t + 1)) ** 0.5
        size = rate / (1 - first ** (t + 1))
        scaled = (1 - second) * gradient
        mean = (first * slots[0]).add_((1 - first) * gradient)
        square = (second * slots[1]).add_(scaled * gradient)
        moving = square > 0
        root = square.masked_fill_(~moving, 1.0).sqrt_()
        below = (root * moving).div_(correction).add_(self.eps)
        of_step = -ends[0]
        of_below = (size * mean).div_(below).div_(below).mul_(-of_step)
        of_step.div_(below)
        of_rate = (of_step * mean).sum() / (1 - first ** (t + 1))
        of_mean = of_step.mul_(size).add_(ends[1])
        of_square = of_below.div_(correction).mul_(moving).div_(root.mul_(2)).add_(ends[2])
        of_gradient = (of_square * gradient).mul_(1 - second).add_(scaled.mul_(of_square)).add_(of_mean * (1 - first))
        return of_rate, of_gradient, of_mean.mul_(first), of_square.mul_(second)


def moved(vector: Vector, change: Gradient, factor: Tensor) -> Vector:
    """vector + factor · change, without a temporary copy."""
    return tuple(
        part if step is None else torch.addcmul(part, step, factor) for part, step in zip(vector, change, strict=True)
    )
