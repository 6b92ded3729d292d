"""What a distilled set holds, and the batches that the inner loop trains on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from pipeline.bilevel import InnerBatch
from pipeline.distilled.padding import places
from pipeline.distilled.recipe import Recipe
from pipeline.randomness import torch_generator
from pipeline.students.finetune import Examples


@dataclass(frozen=True)
class Content:
    """N synthetic (or chosen) samples of C classes.

    Exactly one of ``inputs_embeds``, ``token_ids`` and ``vectors`` is given.

    Attributes:
        labels: [N, C] as the loss uses them.
        label_ids: [N] the class each sample was made for.
        recipe: how a student learns from it.
        inputs_embeds: [N, S, E] input embeddings; the encoder still adds positions and normalises.
        token_ids: [N, length] token ids, padded on the right with -1.
        token_type_ids: [N, length] segment ids, where the tokenizer makes them.
        vectors: [N, D] sentence vectors; ``about["vectors"]`` says of which encoder and pooling.
        vector_mean: [D] what was subtracted from the encoder's vectors, among which ``vectors`` are, where it was.
        attention_labels: [N, L, heads, Q, S] logits of the attention labels (softmax over the last axis).
        learning_rates: [T] step sizes.
        batch_order: [T, batch] rows of each inner step, -1 where one has fewer; always on the CPU.
        batch_weights: [T, batch] how much each row counts in its step's mean loss; ``None``: all the same.
        phases: [N] when students learn from each sample, counted from 1; ``None``: from all at once.
        about: where it came from; plain JSON values (config, model, data, versions, scores).

    """

    labels: Tensor
    label_ids: Tensor
    recipe: Recipe
    inputs_embeds: Tensor | None = None
    token_ids: Tensor | None = None
    token_type_ids: Tensor | None = None
    vectors: Tensor | None = None
    vector_mean: Tensor | None = None
    attention_labels: Tensor | None = None
    learning_rates: Tensor | None = None
    batch_order: Tensor | None = None
    batch_weights: Tensor | None = None
    phases: Tensor | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert sum(each is not None for each in (self.inputs_embeds, self.token_ids, self.vectors)) == 1
        assert self.labels.ndim == 2
        assert len(self.labels) == len(self.label_ids)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def steps(self) -> int:
        """T, the number of inner steps; 0 for sets without step sizes."""
        return 0 if self.learning_rates is None else len(self.learning_rates)

    def to(self, device: torch.device | str) -> Self:
        """The set with its tensors on ``device``, but for the order of batches, which is read on the CPU."""
        return replace(self._mapped(lambda tensor: tensor.to(device)), batch_order=self.batch_order)

    def detached(self) -> Self:
        """The set without any graph."""
        return self._mapped(Tensor.detach)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Self:
        changed: dict[str, Any] = {n: change(v) for n, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **changed)

    def inner_batches(self, seed: int = 0, index: int = 0) -> list[InnerBatch]:
        """What each of the T inner steps trains on; differentiable with respect to the set's tensors.

        Steps on the same rows share their tensors, so that memory does not grow with T. With a random order, the rows
        are drawn by (seed, index).
        """
        assert self.learning_rates is not None
        assert self.batch_order is not None
        order = self.random_order(seed, index) if self.recipe.order == "random" else self.batch_order
        weights = [None] * self.steps if self.batch_weights is None else list(self.batch_weights)
        distinct: dict[tuple[Any, ...], InnerBatch] = {}
        batches = []
        for padded, rate, weight in zip(order.tolist(), self.learning_rates, weights, strict=True):
            rows = [row for row in padded if row >= 0]
            key = *rows, *(() if weight is None else weight.tolist())
            if key not in distinct:
                distinct[key] = self._batch(torch.tensor(rows), rate, None if weight is None else weight[: len(rows)])
            batches.append(replace(distinct[key], learning_rate=rate))
        return batches

    def _batch(self, rows: Tensor, rate: Tensor, weights: Tensor | None) -> InnerBatch:
        inputs = self.inputs_embeds if self.vectors is None else self.vectors
        assert inputs is not None
        labels = self.labels[rows]
        attention = None if self.attention_labels is None else self.attention_labels[rows].softmax(dim=-1)
        if weights is not None:  # both terms of a sample's loss are linear in its labels, up to a constant
            labels = labels * weights[:, None]
            attention = None if attention is None else attention * weights[:, None, None, None, None]
        return InnerBatch(inputs[rows], labels, attention, self.recipe.attention_weight, rate)

    def random_order(self, seed: int, index: int) -> Tensor:
        """[T, batch] rows drawn by (seed, index) without replacement within a step, not stratified."""
        assert self.batch_order is not None
        size = self.batch_order.shape[1]
        draws = [
            torch.randperm(len(self), generator=torch_generator(seed, "inner batch", index, step))[:size]
            for step in range(self.steps)
        ]
        return torch.stack(draws)

    def examples(self, rows: Any) -> dict[str, Tensor]:
        """Rows as a batch for :func:`~pipeline.students.finetune.finetune`: inputs, mask, and ``labels`` [rows, C].

        Text is padded on the side on which the encoder's tokenizer pads what is scored: XLNet's head reads the last
        position.
        """
        if self.inputs_embeds is not None:
            return {"inputs_embeds": self.inputs_embeds[rows], "labels": self.labels[rows]}
        if self.vectors is not None:
            return {"vectors": self.vectors[rows], "labels": self.labels[rows]}
        assert self.token_ids is not None
        model = self.about.get("model", {})
        columns = places(self.token_ids[rows], left=model.get("padding_side") == "left")
        ids = self.token_ids[rows].gather(1, columns)
        pad = model.get("pad_token_id") or 0
        batch = {
            "input_ids": torch.where(ids >= 0, ids, pad),
            "attention_mask": (ids >= 0).long(),
            "labels": self.labels[rows],
        }
        if self.token_type_ids is not None:
            batch["token_type_ids"] = self.token_type_ids[rows].gather(1, columns)
        return batch

    def prefix(self, shots: int | None) -> Self:
        """The first ``shots`` samples of every class, in the set's order; its T steps, which see all, are left out.

        Args:
            shots: ``None`` for the whole set, with its steps.

        """
        return self if shots is None else self.of_rows(self.first_rows(shots))

    def first_rows(self, shots: int | None, classes: Collection[int] | None = None) -> list[int]:
        """Rows of the first ``shots`` samples (``None``: all) of every class, or of these, in the set's order."""
        seen = [0] * self.labels.shape[1]
        rows = []
        for row, label in enumerate(self.label_ids.tolist()):
            seen[label] += 1
            if (shots is None or seen[label] <= shots) and (classes is None or label in classes):
                rows.append(row)
        return rows

    def of_rows(self, rows: Sequence[int]) -> Self:
        """The set of some rows, without T steps, which are made for all."""
        about = self.about
        if "chosen" in about:
            chosen = [about["chosen"]["rows"][row] for row in rows]
            about = {**about, "chosen": {**about["chosen"], "rows": chosen}}
        if "texts" in about:
            about = {**about, "texts": [about["texts"][row] for row in rows]}
        of_rows = replace(self, learning_rates=None, batch_order=None, batch_weights=None, vector_mean=None)
        return replace(of_rows._mapped(lambda tensor: tensor[rows]), about=about, vector_mean=self.vector_mean)

    def turns(self) -> list[tuple[int, Examples]]:
        """What students learn from one after another: of each phase its size and its samples."""
        if self.phases is None:
            return [(len(self), self.examples)]
        rows = [(self.phases == phase).nonzero().flatten() for phase in self.phases.unique()]
        return [(len(own), lambda at, own=own: self.examples(own[at])) for own in rows]  # type: ignore[misc]
