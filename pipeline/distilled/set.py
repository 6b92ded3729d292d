"""A distilled set as its user has it: trained on, asked for classes, refused where it means nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from pipeline.bilevel import descend
from pipeline.config import FineTune, OnVectors
from pipeline.config.students import VectorNetwork
from pipeline.distilled.asked import in_chunks
from pipeline.distilled.classifier import TextClassifier, learned
from pipeline.distilled.content import Content
from pipeline.errors import InputError
from pipeline.store.places import locate
from pipeline.students.encoder import Student, embedding_hash
from pipeline.students.finetune import finetune_in_turn
from pipeline.students.sentences import encoder_hash
from pipeline.students.vector_training import Samples

_USED = "trained_on_distilled_set"  # in the config of a model that has taken a set's own steps


@dataclass(frozen=True, repr=False)
class DistilledSet(Content):
    """N synthetic (or chosen) samples of C classes, with what is done with them in three lines.

    Its attributes are those of :class:`~pipeline.distilled.content.Content`.
    """

    def __repr__(self) -> str:
        kind = "text" if self.token_ids is not None else "input embeddings" if self.vectors is None else "vectors"
        task, model = self.about.get("task", "a task"), self.about.get("model", {}).get("name", "an encoder")
        of = f"{len(self)} samples of {self.labels.shape[1]} classes ({task})"
        return f"{of}: {kind} of {model}, recipe {self.recipe.name}"

    @property
    def encoder(self) -> str:
        """The encoder that the set was made with, as ``from_pretrained`` takes it: a path, or a hub id.

        Raises:
            InputError: it is in a package that is not installed, or in a folder that is not here.

        """
        name = self.about.get("model", {}).get("name")
        if name is None:
            raise InputError("this set does not say which encoder it was made with; give yours to from_pretrained")
        return str(locate(name) or name)

    def fine_tune(self, model: PreTrainedModel, seed: int = 0, recipe: FineTune | None = None) -> PreTrainedModel:
        """Trains a Hugging Face ``…ForSequenceClassification`` on the set, in place.

        Args:
            model: the encoder the set was made for, with C outputs and a classifier of your choice.
            seed: for random orders and dropout.
            recipe: AdamW instead of the set's own gradient steps; sets of real text have none and take the default
                ``FineTune`` (200 steps) where nothing is given.

        Returns:
            The same model, trained and in eval mode, its outputs named by the classes; where this fails or is
            interrupted, with the parameters it had.

        Raises:
            InputError: no loaded model, another embedding matrix, another number of classes, a set that nothing is
                trained on, a recipe that selects an epoch on dev, which the set does not have, or, for a set with
                gradient steps of its own, a model that has taken such steps already.

        """
        own_steps = self.recipe.name == "ddal" and recipe is None
        self._check_fits(model, recipe, own_steps=own_steps)
        here = self.to(model.device)
        start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        with _lent(model):
            student = Student(model, [], dropout=self.recipe.dropout, precision=self.recipe.precision)
            if own_steps:
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
        if own_steps:
            setattr(model.config, _USED, True)
        if set(model.config.id2label.values()) == {f"LABEL_{label}" for label in range(len(self.class_names))}:
            model.config.id2label = dict(enumerate(self.class_names))  # unless the user named the outputs
            model.config.label2id = {name: label for label, name in enumerate(self.class_names)}
        return model

    @property
    def class_names(self) -> list[str]:
        """C names, in the order of the labels; numbers where the set does not know them."""
        return self.about.get("classes") or [str(label) for label in range(self.labels.shape[1])]

    def classifier(
        self,
        encoder: PreTrainedModel,
        student: VectorNetwork | None = None,
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
            InputError: one text instead of a list, texts and pairs mixed, texts where the set is of pairs, or no
                tokenizer beside the model.

        """
        task = self.about.get("config", {}).get("source", {}).get("task", {}).get("text", [])
        tokenizer = tokenizer or _tokenizer_beside(model.name_or_path)
        classes = self.class_names
        lengths: dict[str, Any] = {"truncation": True, "max_length": self.about.get("max_length"), "padding": True}
        names: list[str] = []
        for columns in in_chunks(texts, task, batch_size):
            batch = tokenizer(*columns, **lengths, return_tensors="pt").to(model.device)
            names += [classes[label] for label in model(**batch).logits.argmax(dim=-1).tolist()]
        return names

    def _check_fits(self, model: PreTrainedModel, recipe: FineTune | None, *, own_steps: bool) -> None:
        """Refuses what :meth:`fine_tune` cannot do; its errors."""
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
        if own_steps and getattr(model.config, _USED, False):
            raise InputError(
                "this model was trained on a distilled set already, and the set's steps start from a new classifier on "
                "the encoder as it was: load it anew, AutoModelForSequenceClassification.from_pretrained(…)"
            )

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
                f"in which they mean nothing: load {name} instead, in float32 (its path: found.encoder)"
            )
        if self.token_ids is not None and int(self.token_ids.max()) >= len(matrix):
            raise InputError(
                f"this set holds token ids up to {int(self.token_ids.max())}; the given model knows {len(matrix)} "
                f"tokens: load {name} instead"
            )


def _tokenizer_beside(model: str) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes up for a folder without one
        raise InputError(
            f"{model}: no tokenizer is saved there; predict(…, tokenizer=AutoTokenizer.from_pretrained(found.encoder)) "
            f"gives one, and its save_pretrained('{model}') keeps it beside the model"
        )
    return tokenizer


@contextmanager
def _lent(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block ``eager`` attention; after it, however it ends, no dropout, and the rest as it was.

    The rest is the model's attention and how the process rounds float32 products, which a student decides. torch has
    two ways to say the latter and refuses to read it where a program mixes them; there, the student's choice stays.
    """
    attention = model.config._attn_implementation
    try:
        products = torch.get_float32_matmul_precision()
    except RuntimeError:
        products = None
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.eval()
        model.set_attn_implementation(attention)
        if products is not None:
            torch.set_float32_matmul_precision(products)
