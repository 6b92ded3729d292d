"""First-order passes over real sequences: the outer loss, its gradient, and the scores of a split."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from pipeline.bilevel.fused.encoder import Encoder
from pipeline.bilevel.fused.flat import Views
from pipeline.bilevel.fused.grid import Grid
from pipeline.bilevel.fused.packed import Packed
from pipeline.bilevel.fused.sums import GradientSums
from pipeline.bilevel.losses import CROSS_ENTROPY, OuterLoss


@dataclass(frozen=True)
class RealPasses:
    """An encoder at one θ; linear layers compute in the type that their weights have.

    Attributes:
        encoder: the passes.
        theta: θ by place.

    """

    encoder: Encoder
    theta: Views

    def logits(self, packed: Packed) -> Tensor:
        """[B, C] in the order of the chunk's rows."""
        return self.encoder.logits(self.theta, packed.vectors, _grid(packed), packed.segments)

    def first_tokens(self, packed: Packed) -> Tensor:
        """[B, H] last hidden states of the first tokens, in the order of the chunk's rows."""
        return self.encoder.hidden(self.theta, packed.vectors, _grid(packed), packed.segments, all_rows=False)

    def means(self, packed: Packed) -> Tensor:
        """[B, H] means of the last hidden states over real tokens, in the order of the chunk's rows."""
        hidden = self.encoder.hidden(self.theta, packed.vectors, _grid(packed), packed.segments, all_rows=True)
        rows, length = packed.size
        padded = hidden
        if packed.places is not None:
            padded = hidden.new_zeros(rows * length, hidden.shape[1]).index_copy_(0, packed.places, hidden)
        padded = padded.view(rows, length, -1)
        if packed.mask is None:
            return padded.mean(dim=1)
        mask = packed.mask.unsqueeze(-1).to(hidden.dtype)
        return (padded * mask).sum(dim=1) / mask.sum(dim=1)

    def cross_entropy(
        self,
        packed: Packed,
        y: Tensor,
        weight: float | Tensor,
        sums: GradientSums,
        scale: float | Tensor = 1.0,
        loss: OuterLoss = CROSS_ENTROPY,
    ) -> tuple[Tensor, Tensor]:
        """``weight`` · −Σ y log softmax(logits) over a chunk, and ``scale`` times its gradient.

        Args:
            packed: the chunk.
            y: [B, C] labels, in the order of the chunk's rows.
            weight: of every row, such as 1 / rows of all chunks for their mean.
            sums: gets the parameters' gradient.
            scale: of the gradient alone.
            loss: shifts the logits; its class weights are in ``y`` already.

        Returns:
            The loss, and the gradient of the word vectors [n, E].

        """
        trace = self.encoder.forward(self.theta, packed.vectors, _grid(packed), packed.segments)
        logits = loss.shifted(trace.classified.logits)
        value = F.cross_entropy(logits, y, reduction="sum") * weight
        d_logits = (logits.softmax(-1) * y.sum(-1, keepdim=True) - y).mul_(weight * scale)
        no_labels = [None] * self.encoder.structure.layers
        return value, self.encoder.backward(self.theta, trace, d_logits, no_labels, sums, keep=False)


def _grid(packed: Packed) -> Grid:
    return Grid(*packed.size, packed.places, packed.mask)
