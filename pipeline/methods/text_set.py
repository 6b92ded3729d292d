"""The learned tokens of a set of text; :mod:`~pipeline.methods.text_start` what they begin as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import Outer, Projected, Text
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet, Recipe
from pipeline.students.encoder import Student
from pipeline.students.vocabulary import nearest_tokens, special_ids, unwritable_ids


@dataclass(frozen=True)
class Vocabulary:
    """What tokens may become.

    Attributes:
        matrix: [vocabulary, E] word embeddings.
        barred: ids that are never put in, ascending.
        special: ids of special tokens, whose positions stay as they are.

    """

    matrix: Tensor
    barred: list[int]
    special: list[int]

    @classmethod
    def of(cls, method: Text, prepared: Prepared, student: Student) -> Vocabulary:
        """The encoder's, without what ``method.words`` leaves out."""
        matrix, special = student.embedding_matrix.float(), special_ids(prepared.tokenizer)
        unknown = range(len(prepared.tokenizer), len(matrix))
        barred = sorted({*special, *unknown})
        if method.words != "any":
            barred = unwritable_ids(prepared.tokenizer, len(matrix), whole_words=method.words == "whole")
        return cls(matrix, barred, special)


class LearnedText:
    """Token ids [N, S] with a point of the embedding space behind each, and labels.

    ``tensors`` (N = C · shots, sample i is made for class i mod C):

    * ``inputs_embeds`` [N, S, E]: those points. Of ``straight_through`` what the hypergradient moves, while students
      see the embedding of its nearest token; of ``projected`` what students see; of ``swaps`` the tokens' embeddings;
    * ``labels`` [N, C]: as of ddal; absent for hard labels.

    Special tokens stay where they are.

    Attributes:
        token_ids: [N, S], on the CPU.
        weights: [N, 1] ones, factors of the labels: their gradient says what a larger share of each sample would do.

    """

    def __init__(self, method: Text, classes: int, token_ids: Tensor, vocabulary: Vocabulary) -> None:
        self.method, self.classes, self.vocabulary = method, classes, vocabulary
        self.token_ids = token_ids.clone()
        matrix = vocabulary.matrix
        self._label_ids = (torch.arange(len(token_ids)) % classes).to(matrix.device)
        self._one_hot = F.one_hot(self._label_ids, classes).to(matrix.dtype)
        self.tensors = {"inputs_embeds": self.embedded(token_ids).requires_grad_()}
        self.weights = torch.ones(len(token_ids), 1, device=matrix.device, requires_grad=True)
        if method.labels != "hard":
            self.tensors["labels"] = self._one_hot.clone().requires_grad_()

    @property
    def free(self) -> Tensor:
        """[N, S] whether a token may change."""
        return ~torch.isin(self.token_ids, torch.tensor(self.vocabulary.special))

    @property
    def labels(self) -> Tensor:
        """[N, C] as the loss uses them."""
        labels = self.tensors.get("labels", self._one_hot)
        return labels.softmax(dim=-1) if self.method.labels == "soft" else labels

    def embedded(self, token_ids: Tensor) -> Tensor:
        """[N, S, E] of the encoder's table."""
        return self.vocabulary.matrix[token_ids.to(self.vocabulary.matrix.device)]

    def view(self) -> DistilledSet:
        """What the inner loop trains on, differentiable with respect to the leaves."""
        inputs = self.tensors["inputs_embeds"]
        if self.method.relaxation.name == "straight_through":
            inputs = inputs + (self.embedded(self.token_ids) - inputs).detach()
        return self.of(inputs, self.labels * self.weights)

    def of(self, inputs: Tensor, labels: Tensor) -> DistilledSet:
        """A set of given embeddings [N, S, E] and labels [N, C], with the inner loop's steps."""
        method = self.method
        return DistilledSet(
            labels=labels,
            label_ids=self._label_ids,
            recipe=Recipe(
                "ddal", dropout=method.dropout, precision=method.precision, inner_optimizer=method.inner_optimizer
            ),
            inputs_embeds=inputs,
            learning_rates=torch.full((method.steps,), method.learning_rate, device=inputs.device),
            batch_order=torch.arange(len(inputs)).expand(method.steps, -1),
        )

    def text(self, about: dict[str, Any] | None = None) -> DistilledSet:
        """The set as text, for the recipe of stage 3."""
        return DistilledSet(
            labels=self.labels.detach().clone(),
            label_ids=self._label_ids,
            recipe=Recipe("finetune"),
            token_ids=self.token_ids.clone(),
            about=about or {},
        )

    def groups(self, outer: Outer) -> list[dict[str, Any]]:
        """Parameter groups of the outer optimiser; tokens that are swapped do not move by steps."""
        of_tokens = 0.0 if self.method.relaxation.name == "swaps" else outer.lr
        rates = {"inputs_embeds": of_tokens, "labels": outer.lr_labels or outer.lr}
        return [{"params": [tensor], "lr": rates[name]} for name, tensor in self.tensors.items()]

    @torch.no_grad()
    def nearest(self) -> Tensor:
        """[N, S] the allowed token nearest to every point; special tokens stay."""
        relaxation = self.method.relaxation
        assert relaxation.name != "swaps"
        points, barred = self.tensors["inputs_embeds"], self.vocabulary.barred
        found = nearest_tokens(points, self.vocabulary.matrix, relaxation.measure, without=barred)
        return torch.where(self.free, found.ids, self.token_ids)

    @torch.no_grad()
    def put(self, token_ids: Tensor) -> None:
        """Makes these [N, S] the tokens, with their embeddings as points."""
        self.token_ids = token_ids.clone()
        self.tensors["inputs_embeds"].copy_(self.embedded(token_ids))

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """What happens to tokens after an outer step of number ``step``."""
        relaxation = self.method.relaxation
        if relaxation.name == "swaps":
            return
        self.token_ids = self.nearest()
        if isinstance(relaxation, Projected) and step % relaxation.every == 0:
            self.put(self.token_ids)

    @torch.no_grad()
    def restrain(self) -> None:
        """Adds the gradient of the penalty, and takes the gradient of special tokens away."""
        points, relaxation = self.tensors["inputs_embeds"], self.method.relaxation
        assert points.grad is not None
        if isinstance(relaxation, Projected) and relaxation.penalty:
            points.grad += relaxation.penalty * (points - self.embedded(self.nearest()))
        points.grad *= self.free.to(points.device).unsqueeze(-1)

    def is_finite(self) -> bool:
        """Whether the gradient of every leaf is."""
        return all(bool(leaf.grad.isfinite().all()) for leaf in self.tensors.values() if leaf.grad is not None)

    def state(self) -> dict[str, Tensor]:
        """Copies of the leaves and the tokens."""
        leaves = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}
        return {**leaves, "token_ids": self.token_ids.clone()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Puts saved leaves and tokens back in place."""
        self.token_ids = state["token_ids"].clone()
        for name, tensor in self.tensors.items():
            tensor.copy_(state[name])
