"""A distilled set in memory: what the inner loop trains on, and what a user does with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from pipeline.bilevel import InnerBatch, descend
from pipeline.config import FineTune, Mlp, OnVectors, Transformer
from pipeline.distilled.asked import in_chunks
from pipeline.distilled.classifier import TextClassifier, learned
from pipeline.distilled.padding import places
from pipeline.distilled.recipe import Recipe
from pipeline.errors import InputError
from pipeline.randomness import torch_generator
from pipeline.students.encoder import Student, embedding_hash
from pipeline.students.finetune import Examples, finetune_in_turn
from pipeline.students.sentences import encoder_hash
from pipeline.students.vector_training import Samples


@dataclass(frozen=True)
class DistilledSet:
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

    def to(self, device: torch.device | str) -> DistilledSet:
        """The set with its tensors on ``device``, but for the order of batches, which is read on the CPU."""
        return replace(self._mapped(lambda tensor: tensor.to(device)), batch_order=self.batch_order)

    def detached(self) -> DistilledSet:
        """The set without any graph."""
        return self._mapped(Tensor.detach)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> DistilledSet:
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

    def prefix(self, shots: int) -> DistilledSet:
        """The first ``shots`` samples of every class, in the set's order; its T steps, which see all, are left out."""
        return self.of_rows(self.first_rows(shots))

    def first_rows(self, shots: int | None, classes: Collection[int] | None = None) -> list[int]:
        """Rows of the first ``shots`` samples (``None``: all) of every class, or of these, in the set's order."""
        seen = [0] * self.labels.shape[1]
        rows = []
        for row, label in enumerate(self.label_ids.tolist()):
            seen[label] += 1
            if (shots is None or seen[label] <= shots) and (classes is None or label in classes):
                rows.append(row)
        return rows

    def of_rows(self, rows: Sequence[int]) -> DistilledSet:
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

    def check_vectors(self, pooling: str, encoder_hash: str, *, centred: bool) -> None:
        """Refuses sentence vectors of an encoder, or of a pooling, among whose vectors the set's mean nothing.

        Raises:
            InputError: they are not those that the set was made for.

        """
        made_for = self.about.get("vectors", {})
        name = self.about.get("model", {}).get("name", "the encoder it was made for")
        if made_for.get("encoder_hash") != encoder_hash:
            raise InputError(
                f"this set holds sentence vectors of {name}; those of another encoder, or of other weights, have "
                f"nothing to do with them: load {name} instead, in float32"
            )
        if made_for["pooling"] != pooling:
            raise InputError(
                f"this set holds {made_for['pooling']} vectors and is asked for {pooling} vectors; "
                f"prepare with vectors: {made_for['pooling']}"
            )
        if centred != (self.vector_mean is not None):
            kinds = ("vectors as the encoder gives them", "vectors from which the mean over train is subtracted")
            raise InputError(
                f"this set holds {kinds[not centred]} and is asked for {kinds[centred]}; "
                f"prepare with vectors: {{pooling: {pooling}, centred: {str(not centred).lower()}}}"
            )

    def check_model(self, matrix: Tensor) -> None:
        """Refuses an encoder in whose embedding matrix [vocabulary, E] the set means nothing.

        Raises:
            InputError: input embeddings of another matrix, or token ids beyond its vocabulary.

        """
        made_for = self.about.get("model", {})
        name = made_for.get("name", "the encoder it was made for")
        if self.vectors is not None:
            raise InputError(
                f"this set holds sentence vectors of {name}, from which small students learn: evaluate it with "
                f"{{name: vectors}}; in Python use classifier(encoder) instead of fine_tune(model)"
            )
        if self.inputs_embeds is not None and embedding_hash(matrix) != made_for.get("embedding_hash"):
            raise InputError(
                f"this set holds input embeddings of {name}; the given model has another embedding matrix, "
                f"in which they mean nothing: load {name} instead, in float32"
            )
        if self.token_ids is not None and int(self.token_ids.max()) >= len(matrix):
            raise InputError(
                f"this set holds token ids up to {int(self.token_ids.max())}; the given model knows {len(matrix)} "
                f"tokens: load {name} instead"
            )

    def fine_tune(self, model: PreTrainedModel, seed: int = 0, recipe: FineTune | None = None) -> PreTrainedModel:
        """Trains a Hugging Face ``…ForSequenceClassification`` on the set, in place.

        Args:
            model: the encoder the set was made for, with C outputs and a classifier of your choice.
            seed: for random orders and dropout.
            recipe: AdamW instead of the set's own gradient steps; sets of real text have none and take the default
                ``FineTune`` (200 steps) where nothing is given.

        Returns:
            The same model, trained and in eval mode.

        Raises:
            InputError: no loaded model, another embedding matrix, another number of classes, a set that nothing is
                trained on, or a recipe that selects an epoch on dev, which the set does not have.

        """
        if not isinstance(model, PreTrainedModel):
            raise InputError(
                f"fine_tune takes a loaded model, not {model!r}: "
                f"AutoModelForSequenceClassification.from_pretrained(…, num_labels={self.labels.shape[1]})"
            )
        if recipe is not None and recipe.select is not None:
            raise InputError("a set has no dev rows to select an epoch with; remove select from the recipe")
        if self.recipe.name == "majority":
            raise InputError("a majority set is not trained on; its one sample only says which class is most frequent")
        if self.recipe.name == "prompting":
            raise InputError("an empty set is not trained on; it stands for prompts without examples")
        self.check_model(model.get_input_embeddings().weight)
        if model.config.num_labels != self.labels.shape[1]:
            raise InputError(
                f"the model has {model.config.num_labels} outputs, the set {self.labels.shape[1]} classes; "
                f"load it with num_labels={self.labels.shape[1]}"
            )
        attention = model.config._attn_implementation
        model.set_attn_implementation("eager")
        student = Student(model, [], dropout=self.recipe.dropout, precision=self.recipe.precision)
        start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        here = self.to(model.device)
        if self.recipe.name == "ddal" and recipe is None:
            trained = descend(
                student,
                start,
                here.inner_batches(seed),
                optimiser=self.recipe.optimiser,
                dropping=lambda step: student.dropping(seed, step),
            )
        else:
            trained = finetune_in_turn(student, start, here.turns(), recipe or FineTune(name="finetune"), seed)
        student.install(trained)
        model.set_attn_implementation(attention)
        return model

    def classifier(
        self,
        encoder: PreTrainedModel,
        student: Mlp | Transformer | None = None,
        recipe: OnVectors | None = None,
        seed: int = 0,
    ) -> TextClassifier:
        """A classifier of text from a set of sentence vectors.

        Args:
            encoder: the one whose vectors these are, with or without a head; it stays as it is.
            student: what learns; by default the network that the set was distilled for.
            recipe: how; by default Adam, 1,000 steps.
            seed: of the student.

        Raises:
            InputError: a set of something else, another encoder, or no student where the set knows none.

        """
        if self.vectors is None:
            raise InputError("this set holds no sentence vectors; use fine_tune(model)")
        about = self.about
        self.check_vectors(about["vectors"]["pooling"], encoder_hash(encoder), centred=self.vector_mean is not None)
        samples = Samples(self.vectors, self.labels)
        recipe = recipe or OnVectors(name="vectors")
        return learned(samples, about, encoder, student, recipe, seed, self.vector_mean)

    @torch.no_grad()
    def predict(
        self,
        model: PreTrainedModel | TextClassifier,
        texts: Sequence[str | tuple[str, str]],
        tokenizer: PreTrainedTokenizerBase | None = None,
        batch_size: int = 64,
    ) -> list[str]:
        """Class names that ``model`` gives to texts (or pairs of texts).

        Args:
            model: as returned by :meth:`fine_tune` or :meth:`classifier`.
            texts: sentences, or (first, second) pairs for a pair task.
            tokenizer: by default the one saved beside the model.
            batch_size: texts per forward pass.

        Raises:
            InputError: one text instead of a list, texts and pairs mixed, or texts where the set is of pairs.

        """
        task = self.about.get("config", {}).get("source", {}).get("task", {}).get("text", [])
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(model.name_or_path)
        classes = self.about.get("classes") or [str(label) for label in range(self.labels.shape[1])]
        lengths: dict[str, Any] = {"truncation": True, "max_length": self.about.get("max_length"), "padding": True}
        names: list[str] = []
        for columns in in_chunks(texts, task, batch_size):
            batch = tokenizer(*columns, **lengths, return_tensors="pt").to(model.device)
            names += [classes[label] for label in model(**batch).logits.argmax(dim=-1).tolist()]
        return names
