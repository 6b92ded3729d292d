"""The losses' derivatives by the encoder's passes, chunk by chunk.

A batch is cut into chunks of a few hundred tokens: all that the passes keep of one chunk stays small and near the
cores, and gradients add up over chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.bilevel.derivatives import Along, Gradient, Vector
from pipeline.bilevel.fused.attention import AttentionLabels, keeps_maps
from pipeline.bilevel.fused.encoder import Encoder, Trace
from pipeline.bilevel.fused.flat import FlatParameters, Views
from pipeline.bilevel.fused.grid import Grid
from pipeline.bilevel.fused.packed import Packed
from pipeline.bilevel.fused.real import RealPasses
from pipeline.bilevel.fused.structure import PostNorm
from pipeline.bilevel.fused.sums import GradientSums
from pipeline.bilevel.inner import InnerBatch, Parameters, RealBatch
from pipeline.bilevel.losses import CROSS_ENTROPY, OuterLoss

_CHUNK = {"cpu": 512, "cuda": 16384}  # tokens


@dataclass(frozen=True)
class _Chunk:
    """Some of an inner batch's samples: word vectors [n, E], y [m, C], A per layer, and where they are in the batch."""

    rows: slice
    grid: Grid
    vectors: Tensor
    y: Tensor
    labels: list[AttentionLabels | None]
    all_rows: bool


class Fused:
    """Derivatives of a post-norm encoder's losses; θ is one flat vector (see :class:`~.structure.FlatParameters`).

    Args:
        structure: the encoder.
        pack: a real batch without its padding, in chunks.
        outer_dtype: ``torch.bfloat16`` computes the linear layers of real sequences in it.

    """

    def __init__(
        self,
        structure: PostNorm,
        pack: Callable[[RealBatch], Sequence[Packed]],
        outer_dtype: torch.dtype | None = None,
    ) -> None:
        self.structure = structure
        self._flat = FlatParameters(structure)
        self._encoder = Encoder(structure)
        self._pack = pack
        self._outer_dtype = outer_dtype

    def pack(self, parameters: Parameters) -> Vector:
        """θ as one vector."""
        return (self._flat.pack(parameters),)

    def unpack(self, theta: Vector, parameters: Parameters) -> Parameters:
        """θ by name; the word embeddings come from ``parameters``."""
        return {**parameters, **self._flat.unpack(theta[0])}

    @torch.no_grad()
    def gradient(
        self, theta: Vector, batch: InnerBatch, step: int, *, keep: bool = False
    ) -> tuple[Gradient, list[Trace] | None]:
        """g, and the traces of all chunks where they are to be kept."""
        views, g = self._flat.views(theta[0]), torch.empty_like(theta[0])
        sums = self._flat.sums(g)
        chunks = self._chunks(batch)
        traces = [self._trace(views, batch, chunk, sums, keep=keep).slimmed() for chunk in chunks]
        return (g,), traces if keep else None

    @torch.no_grad()
    def along(
        self,
        theta: Vector,
        batch: InnerBatch,
        step: int,
        direction: Vector,
        *,
        kept: list[Trace] | None = None,
        curvature: bool,
    ) -> Along:
        """The tangent of the inner gradient along ``direction``: one tangent pass over forward and backward."""
        views, views_t = self._flat.views(theta[0]), self._flat.views(direction[0])
        hessian = torch.empty_like(theta[0]) if curvature else None
        gradient_t = None if hessian is None else self._flat.sums(hessian)
        value = theta[0].new_zeros(())
        inputs, labels = torch.empty_like(batch.inputs), torch.empty_like(batch.labels)
        attention = None if not _has_attention(batch) else torch.empty_like(_attention(batch))
        for chunk in self._chunks(batch):
            trace = kept.pop(0) if kept else self._trace(views, batch, chunk, None, keep=True)
            tangents, pushed = self._encoder.tangent(views, views_t, trace, chunk.labels)
            loss_t, y_t, d_logits_t = _cross_entropy_tangent(
                trace.classified.logits, tangents.classified.logits, chunk.y, len(batch.inputs)
            )
            value += loss_t
            labels[chunk.rows] = y_t
            for number, (push, of_layer) in enumerate(zip(pushed, chunk.labels, strict=True)):
                if push is not None and of_layer is not None and attention is not None:
                    value += (of_layer.labels * push).sum()
                    attention[chunk.rows, number] = push.view_as(attention[chunk.rows, number])
            inputs_t = self._encoder.backward_tangent(
                views, views_t, trace, tangents, d_logits_t, chunk.labels, gradient_t
            )
            inputs[chunk.rows] = inputs_t.view_as(inputs[chunk.rows])
        return Along(value, inputs, labels, attention, None if hessian is None else (hessian,))

    def kept_bytes(self, batch: InnerBatch) -> int:
        """Memory of one step's traces: per token and layer 12 values of width H, one of the feed-forward's,
        and maps where they are kept."""
        structure, (m, S, _) = self.structure, batch.inputs.shape
        inner = structure.shapes["0.up.weight"][0]
        width = 12 * structure.hidden + inner
        maps = structure.heads * S if keeps_maps(S, structure.hidden // structure.heads) else 0
        return batch.inputs.element_size() * m * S * structure.layers * (width + maps)

    @torch.no_grad()
    def outer(
        self,
        theta: Vector,
        real: Sequence[RealBatch],
        scale: float | Tensor = 1.0,
        loss: OuterLoss = CROSS_ENTROPY,
    ) -> tuple[Tensor, Vector]:
        """The mean of ``loss`` over all rows of the real batches, and its gradient times ``scale``."""
        passes, v = self.at(theta), torch.empty_like(theta[0])
        sums = self._flat.sums(v)
        rows = sum(len(batch["labels"]) for batch in real)
        total = theta[0].new_zeros(())
        for batch in real:
            y = loss.targets(batch["labels"], self.structure.shapes["logits.weight"][0]).to(v.dtype)
            for packed in self._pack(batch):
                total += passes.cross_entropy(packed, y[packed.order], 1 / rows, sums, scale, loss)[0]
        return total, (v,)

    def at(self, theta: Vector) -> RealPasses:
        """The first-order passes over real sequences at θ, in the outer precision."""
        views = self._flat.views(theta[0])
        return RealPasses(self._encoder, views if self._outer_dtype is None else views.matrices_in(self._outer_dtype))

    @torch.no_grad()
    def forward_rows(self, theta: Vector, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [m, C] and the first token's attention [m, L, heads, S], to compare with the model itself."""
        m, S, _ = inputs.shape
        trace = self._encoder.forward(self._flat.views(theta[0]), inputs.flatten(end_dim=1), Grid(m, S))
        rows = [kept.heads.probabilities(slice(None))[:, 0].view(m, -1, S) for kept in trace.layers]
        return trace.classified.logits, torch.stack(rows, dim=1)

    def _trace(
        self, views: Views, batch: InnerBatch, chunk: _Chunk, gradient: GradientSums | None, *, keep: bool
    ) -> Trace:
        """Forward and backward passes of the inner loss over one chunk."""
        trace = self._encoder.forward(views, chunk.vectors, chunk.grid, all_rows=chunk.all_rows)
        mass = chunk.y.sum(-1, keepdim=True)
        d_logits = (trace.classified.logits.softmax(-1) * mass - chunk.y) / len(batch.inputs)
        self._encoder.backward(views, trace, d_logits, chunk.labels, gradient, keep=keep)
        return trace

    def _chunks(self, batch: InnerBatch) -> Iterator[_Chunk]:
        m, S, E = batch.inputs.shape
        samples = max(1, _CHUNK.get(batch.inputs.device.type, _CHUNK["cuda"]) // S)
        attention = _attention(batch) if _has_attention(batch) else None
        for start in range(0, m, samples):
            rows = slice(start, min(start + samples, m))
            labels: list[AttentionLabels | None] = [None] * self.structure.layers
            if attention is not None:
                _, L, heads, R, _ = attention.shape
                weight = batch.attention_weight / (m * L * heads * R)
                labels = [AttentionLabels(attention[rows, layer].reshape(-1, R, S), weight) for layer in range(L)]
            yield _Chunk(
                rows,
                Grid(rows.stop - rows.start, S),
                batch.inputs[rows].reshape(-1, E),
                batch.labels[rows],
                labels,
                attention is not None and attention.shape[-2] > 1,
            )


def _has_attention(batch: InnerBatch) -> bool:
    return batch.attention is not None and batch.attention_weight != 0


def _attention(batch: InnerBatch) -> Tensor:
    assert batch.attention is not None
    return batch.attention


def _cross_entropy_tangent(logits: Tensor, logits_t: Tensor, y: Tensor, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tangents of −Σ y log softmax(logits) / samples, of its gradient with respect to y, and of that to the logits."""
    p = logits.softmax(-1)
    log_p_t = logits_t - (p * logits_t).sum(-1, keepdim=True)
    mass = y.sum(-1, keepdim=True)
    return -(y * log_p_t).sum() / samples, -log_p_t / samples, p * log_p_t * mass / samples
