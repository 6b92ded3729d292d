"""The passes through the whole encoder: embeddings, layers, classifier, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from pipeline.bilevel.fused import layer
from pipeline.bilevel.fused.attention import AttentionLabels
from pipeline.bilevel.fused.ends import (
    Classified,
    ClassifiedCotangent,
    Classifier,
    Embedded,
    EmbeddedCotangent,
    EmbeddedTangent,
    Embeddings,
)
from pipeline.bilevel.fused.flat import Views
from pipeline.bilevel.fused.grid import Grid
from pipeline.bilevel.fused.structure import PostNorm
from pipeline.bilevel.fused.sums import GradientSums

Labels = Sequence[AttentionLabels | None]  # one entry per layer


@dataclass
class Trace:
    """What the passes over one chunk of sequences leave for those that follow; the last ones empty it.

    Attributes:
        embeddings: the chunk's embeddings as a function.
        grid: where its tokens stand.
        queries: per layer, the tokens that it computes.

    """

    embeddings: Embeddings
    grid: Grid
    queries: list[Grid]
    embedded: Embedded
    layers: list[layer.Primal]
    classified: Classified
    embedded_back: EmbeddedCotangent | None = None
    layers_back: list[layer.Cotangent] = field(default_factory=list)
    classified_back: ClassifiedCotangent | None = None

    @property
    def tokens(self) -> int:
        """n."""
        return len(self.embedded.norm.hat)

    def slimmed(self) -> Trace:
        """This trace without what is large and quick to compute again, to be kept through other computations."""
        for back in self.layers_back:
            back.d_active = None
        for primal in self.layers[1:]:
            primal.x = None
        return self


@dataclass
class Tangents:
    """Tangents of a trace's values."""

    embedded: EmbeddedTangent
    layers: list[layer.Tangent]
    classified: Classified


@dataclass(frozen=True)
class Encoder:
    """Four passes of a post-norm encoder; parameters come as views of a flat vector."""

    structure: PostNorm

    def logits(self, theta: Views, vectors: Tensor, grid: Grid, segments: Tensor | None = None) -> Tensor:
        """[B, C] from word vectors [n, E]; nothing is kept."""
        first = self.hidden(theta, vectors, grid, segments, all_rows=False)
        return Classifier(self.structure).forward(theta.ends, first).logits

    def hidden(
        self, theta: Views, vectors: Tensor, grid: Grid, segments: Tensor | None = None, *, all_rows: bool
    ) -> Tensor:
        """The last hidden states from word vectors [n, E]: [B, H] of first tokens, or [n, H]; nothing is kept."""
        x, _ = Embeddings(self.structure, grid, segments).forward(theta.ends, vectors)
        for weights, query in zip(theta.layers, self._queries(grid, all_rows), strict=True):
            x, _ = layer.forward(weights, x, grid, query, self.structure, keep=False)
        return x

    def forward(
        self, theta: Views, vectors: Tensor, grid: Grid, segments: Tensor | None = None, *, all_rows: bool = False
    ) -> Trace:
        """The forward pass with what the others need.

        Args:
            theta: parameters.
            vectors: [n, E] word vectors.
            grid: where the n tokens stand.
            segments: [n] segment ids; all 0 where not given.
            all_rows: compute every row of the last layer's attention, not the first token's alone.

        """
        embeddings = Embeddings(self.structure, grid, segments)
        x, embedded = embeddings.forward(theta.ends, vectors)
        queries, kept = self._queries(grid, all_rows), []
        for weights, query in zip(theta.layers, queries, strict=True):
            x, primal = layer.forward(weights, x, grid, query, self.structure, keep=True)
            assert primal is not None
            kept.append(primal)
        classified = Classifier(self.structure).forward(theta.ends, queries[-1].take(x, grid.first))
        return Trace(embeddings, grid, queries, embedded, kept, classified)

    def backward(
        self, theta: Views, trace: Trace, d_logits: Tensor, labels: Labels, gradient: GradientSums | None, *, keep: bool
    ) -> Tensor:
        """The gradient of the word vectors [n, E], from ∂ℓ/∂logits [B, C] and the attention loss.

        Adds to ``gradient`` where it is given. With ``keep``, the trace is ready for :meth:`tangent`; otherwise it is
        emptied on the way.
        """
        ends = None if gradient is None else gradient.ends
        d_first, classified_back = Classifier(self.structure).backward(theta.ends, trace.classified, d_logits, ends)
        last, first = trace.queries[-1], trace.grid.first
        dx = last.spread(d_first, first, trace.tokens)
        for number in reversed(range(self.structure.layers)):
            kept = trace.layers[number] if keep else trace.layers.pop()
            dx, back = layer.backward(
                theta.layers[number], kept, dx, trace.grid, trace.queries[number], self.structure, labels[number],
                None if gradient is None else gradient.layers[number],
            )  # fmt: skip
            if keep:
                trace.layers_back.append(back)
        embedded_back = trace.embeddings.backward(theta.ends, trace.embedded, dx, ends)
        if keep:
            trace.embedded_back, trace.classified_back = embedded_back, classified_back
        return embedded_back.d_sum

    def tangent(
        self, theta: Views, theta_t: Views, trace: Trace, labels: Labels
    ) -> tuple[Tangents, list[Tensor | None]]:
        """Tangents of all values along ``theta_t``; and, per layer, that of ∂ℓ/∂A [G, R, S]."""
        x_t, embedded_t = trace.embeddings.tangent(theta.ends, theta_t.ends, trace.embedded)
        found, pushed = [], []
        for number, kept in enumerate(trace.layers):
            if kept.x is None:
                kept.x = trace.layers[number - 1].output(theta.layers[number - 1])
            x_t, tangents, push = layer.tangent(
                theta.layers[number], theta_t.layers[number], kept, x_t, trace.grid,
                trace.queries[number], self.structure, labels[number],
            )  # fmt: skip
            found.append(tangents)
            pushed.append(push)
        first_t = trace.queries[-1].take(x_t, trace.grid.first)
        classified_t = Classifier(self.structure).tangent(theta.ends, theta_t.ends, trace.classified, first_t)
        return Tangents(embedded_t, found, classified_t), pushed

    def backward_tangent(
        self,
        theta: Views,
        theta_t: Views,
        trace: Trace,
        tangents: Tangents,
        d_logits_t: Tensor,
        labels: Labels,
        gradient_t: GradientSums | None,
    ) -> Tensor:
        """The tangent of the word vectors' gradient [n, E]; adds the parameters' to ``gradient_t`` where it is given.

        Empties the trace and the tangents.
        """
        assert trace.classified_back is not None
        assert trace.embedded_back is not None
        ends = None if gradient_t is None else gradient_t.ends
        d_first_t = Classifier(self.structure).backward_tangent(
            theta.ends, theta_t.ends, trace.classified, trace.classified_back, tangents.classified, d_logits_t, ends
        )
        dx_t = trace.queries[-1].spread(d_first_t, trace.grid.first, trace.tokens)
        for number in reversed(range(self.structure.layers)):
            # cotangents were kept from the last layer to the first
            dx_t = layer.backward_tangent(
                theta.layers[number], theta_t.layers[number], trace.layers.pop(), trace.layers_back.pop(0),
                tangents.layers.pop(), dx_t, trace.grid, trace.queries[number], self.structure, labels[number],
                None if gradient_t is None else gradient_t.layers[number],
            )  # fmt: skip
        return trace.embeddings.backward_tangent(
            theta.ends, theta_t.ends, trace.embedded, trace.embedded_back, tangents.embedded, dx_t, ends
        )

    def _queries(self, grid: Grid, all_rows: bool) -> list[Grid]:
        last = grid if all_rows else grid.first
        return [grid] * (self.structure.layers - 1) + [last]
