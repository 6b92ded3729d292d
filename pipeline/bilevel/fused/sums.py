"""Where gradients add up: a flat vector by place, of which nothing is assumed before the first contribution."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from pipeline.bilevel.fused.elementwise import Norm, NormTangent
from pipeline.bilevel.fused.products import rows_by_rows


@dataclass
class Sums:
    """The parameters' gradients of one part (the ends, or a layer).

    A part's memory need not be zero: the first contribution to a place is written, the others are added.

    Attributes:
        targets: place -> view of the flat gradient.

    """

    targets: dict[str, Tensor]
    _begun: set[str] = field(default_factory=set)

    def add(self, place: str, value: Tensor) -> None:
        """Adds to the whole of a place."""
        if place in self._begun:
            self.targets[place].add_(value)
        else:
            self.targets[place].copy_(value)
            self._begun.add(place)

    def rows(self, place: str) -> Tensor | None:
        """A table to which rows can be added, or ``None`` where the encoder has none; zero at first."""
        table = self.targets.get(place)
        if table is not None and place not in self._begun:
            table.zero_()
            self._begun.add(place)
        return table

    def linear(self, place: str, dy: Tensor, x: Tensor) -> None:
        """dW += dyᵀ x, db += Σ dy."""
        self.add(f"{place}.weight", rows_by_rows(dy, x))
        self.add(f"{place}.bias", dy.sum(0))

    def linear_tangent(self, place: str, dy: Tensor, dy_t: Tensor, x: Tensor, x_t: Tensor) -> None:
        """dW_t += dy_tᵀ x + dyᵀ x_t, db_t += Σ dy_t."""
        self.add(f"{place}.weight", rows_by_rows(dy_t, x, rows_by_rows(dy, x_t)))
        self.add(f"{place}.bias", dy_t.sum(0))

    def norm(self, place: str, dy: Tensor, kept: Norm) -> None:
        """dγ += Σ dy x̂, dβ += Σ dy."""
        self.add(f"{place}.weight", (dy * kept.hat).sum(0))
        self.add(f"{place}.bias", dy.sum(0))

    def norm_tangent(self, place: str, dy: Tensor, dy_t: Tensor, kept: Norm, tangent: NormTangent) -> None:
        """dγ_t += Σ (dy_t x̂ + dy x̂_t), dβ_t += Σ dy_t."""
        self.add(f"{place}.weight", (dy_t * kept.hat).addcmul_(dy, tangent.hat_t).sum(0))
        self.add(f"{place}.bias", dy_t.sum(0))


@dataclass
class GradientSums:
    """The sums of the ends and of every layer."""

    ends: Sums
    layers: tuple[Sums, ...]
