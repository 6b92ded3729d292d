"""Text learned as mixtures of tokens: a softmax over candidates at every position, which is sharpened on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import Mixture, Text
from pipeline.distilled import DistilledSet
from pipeline.methods.text.set import LearnedText, Vocabulary
from pipeline.randomness import torch_generator
from pipeline.students.vocabulary import neighbours


class LearnedMixture(LearnedText):
    """Token ids [N, S], each the likeliest of its position's candidates.

    ``tensors`` has ``logits`` [N, S, K] in place of points of the embedding space. Students see the sum over k of
    softmax((l + g)/τ)_k e_k, with e the candidates' embeddings and g Gumbel noise or nothing; or, by
    ``straight_through``, the embedding of the largest l + g, with the derivative of that sum.

    Attributes:
        candidates: [N, S, K] token ids, on the matrix's device; the first is the one that a position began as.
        temperature: τ of this outer step.

    """

    def __init__(self, method: Text, classes: int, token_ids: Tensor, vocabulary: Vocabulary) -> None:
        relaxation = method.relaxation
        assert isinstance(relaxation, Mixture)
        self.relaxation, self.temperature = relaxation, relaxation.temperature
        self._noise: Tensor | float = 0.0
        super().__init__(method, classes, token_ids, vocabulary)

    def points(self) -> dict[str, Tensor]:
        """Logits that give each position's token its first share, and all other candidates the same; finds those."""
        relaxation, matrix = self.relaxation, self.vocabulary.matrix
        found = neighbours(
            self.token_ids, matrix, relaxation.candidates, relaxation.measure, without=self.vocabulary.barred
        )
        self.candidates = found.to(matrix.device)
        logits = matrix.new_zeros(found.shape)
        others = max(1, found.shape[-1] - 1)
        logits[..., 0] = relaxation.temperature * math.log(relaxation.share * others / (1 - relaxation.share))
        return {"logits": logits}

    def begin(self, step: int, steps: int, seed: int) -> None:
        """Sets the temperature of this outer step, and draws its noise: pure functions of what is given."""
        first, last = self.relaxation.temperature, self.relaxation.last_temperature
        self.temperature = first * (last / first) ** (step / max(1, steps - 1))
        if self.relaxation.gumbel:
            drawn = torch.empty(self.candidates.shape)
            drawn.exponential_(generator=torch_generator(seed, "Gumbel noise of tokens", step))
            self._noise = -drawn.log().to(self.tensors["logits"])

    def view(self) -> DistilledSet:
        """What the inner loop trains on, differentiable with respect to the logits and the labels."""
        shares = ((self.tensors["logits"] + self._noise) / self.temperature).softmax(dim=-1)
        inputs = self.mixed(shares)
        if self.relaxation.straight_through:
            inputs = inputs + (self.embedded(self._at(shares)) - inputs).detach()
        fixed = ~self.free.to(inputs.device).unsqueeze(-1)
        return self.of(torch.where(fixed, self.embedded(self.token_ids), inputs), self.labels * self.weights)

    def mixed(self, shares: Tensor) -> Tensor:
        """[N, S, E] sums of the candidates' embeddings, so weighted [N, S, K]; never as large as N x S x K x E."""
        K = shares.shape[-1]
        flat = F.embedding_bag(
            self.candidates.view(-1, K), self.vocabulary.matrix, per_sample_weights=shares.reshape(-1, K), mode="sum"
        )
        return flat.view(*shares.shape[:-1], -1)

    def _at(self, scores: Tensor) -> Tensor:
        """[N, S] the candidate with the highest score [N, S, K], on the CPU."""
        return self.candidates.gather(-1, scores.argmax(dim=-1, keepdim=True)).squeeze(-1).cpu()

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """The likeliest candidates are the tokens now; special ones stay."""
        self.token_ids = torch.where(self.free, self._at(self.tensors["logits"]), self.token_ids)

    def restrain(self, scale: float) -> None:
        """Nothing: whatever their logits are, students see special tokens."""

    def state(self) -> dict[str, Tensor]:
        """Copies of the leaves, the tokens and the candidates."""
        return {**super().state(), "candidates": self.candidates.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Puts saved leaves, tokens and candidates back in place."""
        self.candidates = state["candidates"].to(self.vocabulary.matrix.device, copy=True)
        super().restore(state)
