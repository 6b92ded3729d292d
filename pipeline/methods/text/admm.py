"""Text by ADMM between embeddings and tokens, in the manner of GRADMM (Nguyen et al., 2025)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.config import ADMM, Text
from pipeline.methods.text.fluency import Fluency
from pipeline.methods.text.set import LearnedText, Vocabulary
from pipeline.students.vocabulary import nearest_tokens


class LearnedADMM(LearnedText):
    """Minimises the outer loss L(x) of free embeddings x that have to be the embeddings z of tokens.

    With multipliers u (scaled by 1/ρ): ``every`` outer steps along ∇L(x) + ρ (x − z + u); then z = the projection of
    x + u onto tokens and u ← u + x − z. The tokens change with z alone.

    Attributes:
        multipliers: u [N, S, E].

    """

    def __init__(
        self, method: Text, classes: int, token_ids: Tensor, vocabulary: Vocabulary, fluency: Fluency | None = None
    ) -> None:
        assert isinstance(method.relaxation, ADMM)
        self.relaxation, self._fluency = method.relaxation, fluency
        super().__init__(method, classes, token_ids, vocabulary)

    def points(self) -> dict[str, Tensor]:
        """The tokens' embeddings; multipliers are zero again."""
        found = super().points()
        self.multipliers = torch.zeros_like(found["inputs_embeds"])
        return found

    @torch.no_grad()
    def restrain(self, scale: float) -> None:
        """Adds ρ (x − z + u), times ``scale``, to the gradient, and takes that of special tokens away."""
        points = self.tensors["inputs_embeds"]
        assert points.grad is not None
        apart = points - self.embedded(self.token_ids) + self.multipliers
        points.grad += scale * self.relaxation.rho * apart
        points.grad *= self.free.to(points.device).unsqueeze(-1)

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Projects and moves the multipliers, after every so many outer steps."""
        if step % self.relaxation.every:
            return
        moved = self.tensors["inputs_embeds"] + self.multipliers
        self.token_ids = torch.where(self.free, self._projected(moved), self.token_ids)
        self.multipliers = moved - self.embedded(self.token_ids)

    def _projected(self, points: Tensor) -> Tensor:
        """[N, S] nearest tokens, among the likeliest where a language model is asked."""
        measure, count = self.relaxation.measure, self.relaxation.top_k
        if self._fluency is None or count is None:
            return nearest_tokens(points, self.vocabulary.matrix, measure, without=self.vocabulary.barred).ids
        return self._fluency.nearest(points, self.token_ids, self.free, measure, count)

    def state(self) -> dict[str, Tensor]:
        """Copies of the leaves, the tokens and the multipliers."""
        return {**super().state(), "multipliers": self.multipliers.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Puts saved leaves, tokens and multipliers back in place."""
        super().restore(state)
        self.multipliers = state["multipliers"].to(self.vocabulary.matrix.device, copy=True)
