"""The learned tokens of a set of text; :mod:`~pipeline.methods.text.start` what they begin as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import Beginning, Outer, Projected, StraightThrough, Text
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet, Recipe
from pipeline.errors import InputError
from pipeline.students.encoder import Student
from pipeline.students.vocabulary import frame, nearest_tokens, special_ids, unwritable_ids


@dataclass(frozen=True)
class Vocabulary:
    """What tokens may become.

    Attributes:
        matrix: [vocabulary, E] word embeddings.
        barred: ids that are never put in, ascending.
        special: ids of special tokens, whose positions stay as they are.
        separator: of pairs whose texts the tokenizer numbers, the token that ends the first one.
        second: [E] what a pair's second text adds to its tokens' embeddings: segment embeddings, the second minus the
            first; absent where the encoder has none.

    """

    matrix: Tensor
    barred: list[int]
    special: list[int]
    separator: int | None = None
    second: Tensor | None = None

    @classmethod
    def of(cls, method: Beginning, prepared: Prepared, student: Student, texts: int = 1) -> Vocabulary:
        """The encoder's, without what ``method.words`` leaves out, for single texts or for pairs.

        Raises:
            InputError: this tokenizer does not separate the texts of a pair, or numbers them otherwise than BERT's.

        """
        matrix, special = student.embedding_matrix.float(), special_ids(prepared.tokenizer)
        unknown = range(len(prepared.tokenizer), len(matrix))
        barred = sorted({*special, *unknown})
        if method.words != "any":
            barred = unwritable_ids(prepared.tokenizer, len(matrix), whole_words=method.words == "whole")
        separator = None if texts == 1 else numbered_from(prepared)
        if separator is None:
            return cls(matrix, barred, special)
        return cls(matrix, barred, special, separator, of_second_texts(student))

    def segments(self, token_ids: Tensor) -> Tensor | None:
        """[N, S] as :func:`segments`, or ``None`` where students are told no such numbers."""
        return None if self.separator is None else segments(token_ids, self.separator)


def segments(token_ids: Tensor, separator: int) -> Tensor:
    """[N, S] 0 up to the first text's end, which is the first ``separator``, and 1 after it."""
    ends = (token_ids == separator).long()
    return (ends.cumsum(dim=1) - ends).clamp(max=1)


def numbered_from(prepared: Prepared) -> int | None:
    """Of a task of pairs the token that ends the first text, or ``None`` where the tokenizer does not number texts.

    Raises:
        InputError: this tokenizer does not separate the texts of a pair, or numbers them otherwise than BERT's.

    """
    train = prepared.split("train").rows
    if "token_type_ids" not in train.column_names:
        return None
    separator = frame(prepared.tokenizer, 2)[1][0]
    if segments(torch.tensor([train[0]["input_ids"]]), separator)[0].tolist() != train[0]["token_type_ids"]:
        raise InputError(
            "this encoder's tokenizer does not number the texts of a pair 0 up to the separator and 1 after it; "
            "give an encoder such as BERT"
        )
    return separator


def of_second_texts(student: Student) -> Tensor | None:
    """[E] the encoder's second segment embedding minus its first."""
    tables = (table for name, table in student.initial(0, 0).items() if name.endswith("token_type_embeddings.weight"))
    table = next(tables, None)
    return None if table is None or len(table) < 2 else (table[1] - table[0]).detach().float()


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
        self.tensors = {name: leaf.requires_grad_() for name, leaf in self.points().items()}
        self.weights = torch.ones(len(token_ids), 1, device=matrix.device, requires_grad=True)
        if method.labels != "hard":
            self.tensors["labels"] = self._one_hot.clone().requires_grad_()

    def points(self) -> dict[str, Tensor]:
        """What stands behind the tokens where learning begins from them."""
        return {"inputs_embeds": self.embedded(self.token_ids)}

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

    def of(self, inputs: Tensor, labels: Tensor, token_ids: Tensor | None = None) -> DistilledSet:
        """A set of given embeddings [N, S, E] and labels [N, C], with the inner loop's steps.

        Where the texts of pairs end, ``token_ids`` say; by default those of now.
        The inner loop reads every position as of the first text; of a second one, what tells it apart is added here.
        (The same outputs before the first step; afterwards students learn segment embeddings from it, and here not.)
        """
        second = self.vocabulary.second
        numbers = self.vocabulary.segments(self.token_ids if token_ids is None else token_ids)
        if second is not None and numbers is not None:
            inputs = inputs + numbers.to(inputs).unsqueeze(-1) * second.to(inputs)
        return self.inner(inputs, labels)

    def inner(self, inputs: Tensor, labels: Tensor) -> DistilledSet:
        """What the inner loop's steps train on: samples [N, ...] as their students read them, with labels [N, C]."""
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

    def text(self, about: dict[str, Any] | None = None, token_ids: Tensor | None = None) -> DistilledSet:
        """The set as text, for the recipe of stage 3; of other tokens than those of now where ``token_ids`` say."""
        ids = self.token_ids if token_ids is None else token_ids
        return DistilledSet(
            labels=self.labels.detach().clone(),
            label_ids=self._label_ids,
            recipe=Recipe("finetune"),
            token_ids=ids.clone(),
            token_type_ids=self.vocabulary.segments(ids),
            about=about or {},
        )

    def groups(self, outer: Outer) -> list[dict[str, Any]]:
        """Parameter groups of the outer optimiser; tokens that are swapped do not move by steps."""
        of_points = 0.0 if self.method.relaxation.name == "swaps" else outer.lr
        of_labels = outer.lr_labels or outer.lr
        return [
            {"params": [tensor], "lr": of_labels if name == "labels" else of_points}
            for name, tensor in self.tensors.items()
        ]

    @torch.no_grad()
    def nearest(self) -> Tensor:
        """[N, S] the allowed token nearest to every point; special tokens stay."""
        relaxation = self.method.relaxation
        assert isinstance(relaxation, StraightThrough | Projected)
        points, barred = self.tensors["inputs_embeds"], self.vocabulary.barred
        found = nearest_tokens(points, self.vocabulary.matrix, relaxation.measure, without=barred)
        return torch.where(self.free, found.ids, self.token_ids)

    @torch.no_grad()
    def put(self, token_ids: Tensor) -> None:
        """Makes these [N, S] the tokens, with what stands behind them where learning begins."""
        self.token_ids = token_ids.clone()
        for name, value in self.points().items():
            self.tensors[name].copy_(value)

    def begin(self, step: int, steps: int, seed: int) -> None:
        """Prepares outer step number ``step`` of ``steps``; there is nothing to prepare but for mixtures."""

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
    def restrain(self, scale: float) -> None:
        """Adds the gradient of the penalty, and takes the gradient of special tokens away.

        Args:
            scale: by which the gradients of this step are multiplied so far (fp16).

        """
        points, relaxation = self.tensors["inputs_embeds"], self.method.relaxation
        assert points.grad is not None
        if isinstance(relaxation, Projected) and relaxation.penalty:
            points.grad += scale * relaxation.penalty * (points - self.embedded(self.nearest()))
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
