"""What stands before and after the layers: embeddings and classifier, four passes each."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pipeline.bilevel.fused.elementwise import (
    Norm,
    NormTangent,
    activate,
    back_and_tangent,
    norm,
    norm_back,
    norm_back_tangent,
    norm_tangent,
    times_slope,
)
from pipeline.bilevel.fused.grid import Grid
from pipeline.bilevel.fused.products import (
    linear,
    linear_back,
    linear_back_tangent,
    linear_tangent,
)
from pipeline.bilevel.fused.structure import PostNorm
from pipeline.bilevel.fused.sums import Sums

Weights = dict[str, Tensor]


@dataclass
class Embedded:
    """Values of the embeddings: x̂ and the norm's output, which the projection reads [n, E]."""

    norm: Norm
    normed: Tensor | None


@dataclass
class EmbeddedCotangent:
    """Derivatives after the projection [n, H], after the norm [n, E] and before it [n, E]."""

    dx: Tensor
    d_normed: Tensor
    d_sum: Tensor


@dataclass
class EmbeddedTangent:
    """Tangents of the same values."""

    norm: NormTangent
    normed: Tensor | None


@dataclass(frozen=True)
class Embeddings:
    """word vectors + positions (+ segments) → norm (→ projection)."""

    structure: PostNorm
    grid: Grid
    segments: Tensor | None = None

    def _added(self, w: Weights, tokens: int) -> Tensor:
        """Positions and segments of every token [n, E]."""
        grid, start = self.grid, self.structure.first_position
        if grid.places is None:
            added = w["positions"][start : start + grid.length].repeat(grid.rows, 1)
        else:
            added = w["positions"].index_select(0, start + grid.places % grid.length)
        if "segments" in w:
            added.add_(w["segments"][0] if self.segments is None else w["segments"].index_select(0, self.segments))
        assert len(added) == tokens
        return added

    def _spread(self, gradient: Sums, d_sum: Tensor) -> None:
        """Adds [n, E] to the rows of the tables that the tokens came from."""
        grid, start = self.grid, self.structure.first_position
        positions, segments = gradient.rows("positions"), gradient.rows("segments")
        assert positions is not None
        if grid.places is None:
            positions[start : start + grid.length] += d_sum.view(grid.rows, grid.length, -1).sum(0)
        else:
            positions.index_add_(0, start + grid.places % grid.length, d_sum)
        if segments is not None and self.segments is None:
            segments[0] += d_sum.sum(0)
        elif segments is not None and self.segments is not None:
            segments.index_add_(0, self.segments, d_sum)

    def forward(self, w: Weights, vectors: Tensor) -> tuple[Tensor, Embedded]:
        """x [n, H] from word vectors [n, E]."""
        normed, kept = norm(
            self._added(w, len(vectors)).add_(vectors), w["norm.weight"], w["norm.bias"], self.structure.epsilon
        )
        if "project.weight" not in w:
            return normed, Embedded(kept, None)
        return linear(normed, w["project.weight"], w["project.bias"]), Embedded(kept, normed)

    def backward(self, w: Weights, kept: Embedded, dx: Tensor, gradient: Sums | None) -> EmbeddedCotangent:
        """``d_sum`` of the result is the gradient of the word vectors."""
        d_normed = dx if kept.normed is None else linear_back(dx, w["project.weight"])
        d_sum = norm_back(d_normed, kept.norm, w["norm.weight"])
        if gradient is not None:
            if kept.normed is not None:
                gradient.linear("project", dx, kept.normed)
            gradient.norm("norm", d_normed, kept.norm)
            self._spread(gradient, d_sum)
        return EmbeddedCotangent(dx, d_normed, d_sum)

    def tangent(self, w: Weights, w_t: Weights, kept: Embedded) -> tuple[Tensor, EmbeddedTangent]:
        """x_t [n, H]; word vectors do not move."""
        normed_t, norm_t = norm_tangent(
            self._added(w_t, len(kept.norm.hat)), kept.norm, w["norm.weight"], w_t["norm.weight"], w_t["norm.bias"]
        )
        if kept.normed is None:
            return normed_t, EmbeddedTangent(norm_t, None)
        x_t = linear_tangent(kept.normed, normed_t, w["project.weight"], w_t["project.weight"], w_t["project.bias"])
        return x_t, EmbeddedTangent(norm_t, normed_t)

    def backward_tangent(
        self,
        w: Weights,
        w_t: Weights,
        kept: Embedded,
        d: EmbeddedCotangent,
        t: EmbeddedTangent,
        dx_t: Tensor,
        gradient_t: Sums | None,
    ) -> Tensor:
        """The tangent of the word vectors' gradient [n, E]."""
        d_normed_t = dx_t
        if kept.normed is not None:
            d_normed_t = linear_back_tangent(d.dx, dx_t, w["project.weight"], w_t["project.weight"])
        d_sum_t = norm_back_tangent(
            d.d_normed, d_normed_t, d.d_sum, kept.norm, t.norm, w["norm.weight"], w_t["norm.weight"]
        )
        if gradient_t is not None:
            g = gradient_t
            if kept.normed is not None and t.normed is not None:
                g.linear_tangent("project", d.dx, dx_t, kept.normed, t.normed)
            g.norm_tangent("norm", d.d_normed, d_normed_t, kept.norm, t.norm)
            self._spread(g, d_sum_t)
        return d_sum_t


@dataclass
class Classified:
    """Values of the classifier: first tokens [B, H], before the activation [B, H], and logits [B, C]."""

    first: Tensor
    dense: Tensor
    logits: Tensor


@dataclass
class ClassifiedCotangent:
    """Derivatives with respect to logits, activation and dense layer."""

    d_logits: Tensor
    d_active: Tensor
    d_dense: Tensor


@dataclass(frozen=True)
class Classifier:
    """first token → dense → activation → logits."""

    structure: PostNorm

    def forward(self, w: Weights, first: Tensor) -> Classified:
        """Logits [B, C] of first tokens [B, H]."""
        dense = linear(first, w["dense.weight"], w["dense.bias"])
        active = activate(dense, self.structure.head_activation)
        return Classified(first, dense, linear(active, w["logits.weight"], w["logits.bias"]))

    def backward(
        self, w: Weights, kept: Classified, d_logits: Tensor, gradient: Sums | None
    ) -> tuple[Tensor, ClassifiedCotangent]:
        """The gradient of the first tokens [B, H]."""
        kind = self.structure.head_activation
        d_active = linear_back(d_logits, w["logits.weight"])
        d_dense = times_slope(d_active, kept.dense, kind)
        if gradient is not None:
            active = activate(kept.dense, kind)
            gradient.linear("logits", d_logits, active)
            gradient.linear("dense", d_dense, kept.first)
        return linear_back(d_dense, w["dense.weight"]), ClassifiedCotangent(d_logits, d_active, d_dense)

    def tangent(self, w: Weights, w_t: Weights, kept: Classified, first_t: Tensor) -> Classified:
        """The tangents of all three values."""
        kind = self.structure.head_activation
        dense_t = linear_tangent(kept.first, first_t, w["dense.weight"], w_t["dense.weight"], w_t["dense.bias"])
        logits_t = linear_tangent(
            activate(kept.dense, kind), times_slope(dense_t, kept.dense, kind),
            w["logits.weight"], w_t["logits.weight"], w_t["logits.bias"],
        )  # fmt: skip
        return Classified(first_t, dense_t, logits_t)

    def backward_tangent(
        self,
        w: Weights,
        w_t: Weights,
        kept: Classified,
        d: ClassifiedCotangent,
        t: Classified,
        d_logits_t: Tensor,
        gradient_t: Sums | None,
    ) -> Tensor:
        """The tangent of the first tokens' gradient [B, H]."""
        kind = self.structure.head_activation
        d_active_t = linear_back_tangent(d.d_logits, d_logits_t, w["logits.weight"], w_t["logits.weight"])
        d_dense, d_dense_t = back_and_tangent(d.d_active, d_active_t, kept.dense, t.dense, kind)
        if gradient_t is not None:
            g, active, active_t = gradient_t, activate(kept.dense, kind), times_slope(t.dense, kept.dense, kind)
            g.linear_tangent("logits", d.d_logits, d_logits_t, active, active_t)
            g.linear_tangent("dense", d_dense, d_dense_t, kept.first, t.first)
        return linear_back_tangent(d_dense, d_dense_t, w["dense.weight"], w_t["dense.weight"])
