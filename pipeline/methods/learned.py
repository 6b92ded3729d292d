"""The learned tensors of DDAL and how they become a distilled set (DDAL, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import DDAL, Outer
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Split
from pipeline.distilled import DistilledSet, Recipe, load
from pipeline.distilled.selection import selected_on
from pipeline.errors import InputError
from pipeline.methods.budgets import interleaved, per_class
from pipeline.methods.leaves import Leaves
from pipeline.randomness import numpy_generator, torch_generator
from pipeline.students.encoder import Student

_UNFAIR = {
    "test": "selected on the test split",
    "unknown": "published by others, and maybe selected on the test split, which its file does not say",
}


class LearnedSet(Leaves):
    """The learned tensors and the set that they parametrise.

    ``tensors`` (N = C · shots; sample i is made for ``of_samples[i]``, by default class i mod C, as published):

    * ``inputs_embeds`` [N, S, E];
    * ``labels`` [N, C]: logits of soft labels, or unrestricted labels; both start at one-hot; absent for hard labels;
    * ``attention_labels`` [N, L, heads, Q, S]: logits, start at N(0, 1); absent without attention labels;
    * ``learning_rates`` [T] or [1]: the step sizes before softplus.
    """

    def __init__(
        self, method: DDAL, classes: int, tensors: Mapping[str, Tensor], of_samples: Tensor | None = None
    ) -> None:
        super().__init__(tensors)
        self.method = method
        self.classes = classes
        inputs = self.tensors["inputs_embeds"]
        device = inputs.device
        turns = torch.arange(classes * method.shots) % classes
        self._label_ids = (turns if of_samples is None else of_samples).to(device)
        self._one_hot = F.one_hot(self._label_ids, classes).to(inputs.dtype)
        self._order = batch_order(method, classes)

    def view(self) -> DistilledSet:
        """The set as the student sees it, differentiable with respect to the leaves."""
        method, tensors = self.method, self.tensors
        labels = tensors.get("labels", self._one_hot)
        rates = F.softplus(tensors["learning_rates"])
        if not method.learning_rate_per_step:
            steps = torch.arange(method.steps, device=rates.device)
            rates = rates * (1 - steps / method.steps if method.learning_rate_decay else torch.ones_like(steps))
        return DistilledSet(
            labels=labels.softmax(dim=-1) if method.labels == "soft" else labels,
            label_ids=self._label_ids,
            recipe=Recipe(
                "ddal",
                method.attention_weight,
                method.order,
                method.dropout,
                method.precision,
                method.inner_optimizer,
            ),
            inputs_embeds=tensors["inputs_embeds"],
            attention_labels=tensors.get("attention_labels"),
            learning_rates=rates,
            batch_order=self._order,
        )

    def groups(self, outer: Outer) -> list[dict[str, Any]]:
        """Parameter groups of the outer optimiser, each with its own step size."""
        rates = {
            "inputs_embeds": outer.lr,
            "labels": outer.lr_labels,
            "attention_labels": outer.lr_attention,
            "learning_rates": outer.lr_learning_rates,
        }
        return [{"params": [tensor], "lr": rates[name] or outer.lr} for name, tensor in self.tensors.items()]


def batch_order(method: DDAL, classes: int) -> Tensor:
    """[T, C · batch_shots] rows of each inner step: blocks of the set, cycled."""
    size = classes * method.batch_shots
    blocks = torch.arange(classes * method.shots).view(-1, size)
    return blocks[torch.arange(method.steps) % len(blocks)]


def sample_classes(method: DDAL, manifest: Mapping[str, Any]) -> Tensor:
    """[N] the class that each sample is made for: the classes take turns, while they have samples left.

    Raises:
        InputError: with another budget than ``uniform``, a class has fewer training rows than its share.

    """
    C = len(manifest["classes"])
    shares = [method.shots] * C
    if method.budget != "uniform":
        shares = per_class(np.asarray(manifest["class_counts"]["train"]), method.shots, method.budget)
    return torch.from_numpy(interleaved([np.full(share, label) for label, share in enumerate(shares)]))


def initial_tensors(
    method: DDAL, prepared: Prepared, student: Student, seed: int, start: Path | None = None
) -> dict[str, Tensor]:
    """The leaves at outer step 0, with gradients.

    Args:
        method: says which there are and their shapes.
        prepared: stage 1's output.
        student: that learns from them.
        seed: of what is drawn.
        start: a ``distilled.h5`` to start from instead.

    Raises:
        InputError: there are no training samples of a class to start from, or the warm start has other shapes.

    """
    of_samples = sample_classes(method, prepared.manifest)
    N, S = len(of_samples), method.sequence_length
    if method.initialise == "real":
        inputs = real_embeddings(of_samples, S, prepared, student, seed)
    else:
        inputs = torch.randn(N, S, student.width, generator=torch_generator(seed, "initial embeddings"))
    tensors = {"inputs_embeds": inputs}
    if method.labels != "hard":
        tensors["labels"] = torch.eye(len(prepared.classes))[of_samples]
    if method.attention_labels != "none":
        L, heads = prepared.manifest["attention_layers"], prepared.manifest["attention_heads"]
        shape = (N, L, heads, 1 if method.attention_labels == "cls" else S, S)
        tensors["attention_labels"] = torch.randn(shape, generator=torch_generator(seed, "initial attention labels"))
    steps = method.steps if method.learning_rate_per_step else 1
    tensors["learning_rates"] = inverse_softplus(torch.full((steps,), method.learning_rate))
    if start is not None:
        tensors |= _warm(start, method, student, tensors, of_samples)
    return {name: tensor.to(student.device).requires_grad_() for name, tensor in tensors.items()}


def real_embeddings(of_samples: Tensor, length: int, prepared: Prepared, student: Student, seed: int) -> Tensor:
    """[N, S, E] word embeddings of training samples of given classes [N], padded with the padding token's.

    Every position is attended, so rows of at least S tokens are drawn where the class has them; otherwise its longest.
    """
    return student.embedding_matrix.cpu()[real_tokens(of_samples, length, prepared, seed)].float()


def real_tokens(of_samples: Tensor, length: int, prepared: Prepared, seed: int) -> Tensor:
    """[N, S] the token ids that :func:`real_embeddings` are of."""
    train, shares = prepared.split("train"), of_samples.bincount().tolist()
    chosen = {label: iter(_rows(train, label, share, length, seed)) for label, share in enumerate(shares)}
    samples = []
    for label in of_samples.tolist():
        ids = train.rows[int(next(chosen[label]))]["input_ids"][:length]
        samples.append(ids + [prepared.tokenizer.pad_token_id] * (length - len(ids)))
    return torch.tensor(samples)


def _rows(train: Split, label: int, shots: int, length: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    rows = np.flatnonzero(train.labels.numpy() == label)
    if len(rows) < shots:
        raise InputError(
            f"class {label} has {len(rows)} training rows, too few for shots: {shots}; "
            f"lower shots or use initialise: noise"
        )
    shuffled = numpy_generator(seed, "initial samples", label).permutation(rows)
    long_first = np.argsort(-np.minimum(train.lengths[shuffled], length), kind="stable")
    return np.asarray(shuffled[long_first][:shots])


def inverse_softplus(value: Tensor) -> Tensor:
    """x with softplus(x) = value, for positive values."""
    return value + torch.log(-torch.expm1(-value))


def _warm(
    path: Path, method: DDAL, student: Student, tensors: Mapping[str, Tensor], of_samples: Tensor
) -> dict[str, Tensor]:
    """The leaves of another set of the same shape and encoder.

    Raises:
        InputError: it has not what this one learns, is of another encoder or shape, or test may have selected it.

    """
    found = load(path)
    found.check_model(student.embedding_matrix)
    reason = _UNFAIR.get(selected_on(found.about))
    if reason is not None and method.validation.split != "test":
        raise InputError(f"{path}: {reason}; start from another set, or set validation.split: test too")
    given = {"inputs_embeds": found.inputs_embeds, "attention_labels": found.attention_labels}
    if method.labels != "hard":
        given["labels"] = found.labels if method.labels == "unrestricted" else _soft_logits(found.labels, path)
    if found.learning_rates is not None:
        rates = found.learning_rates if method.learning_rate_per_step else found.learning_rates[:1]
        given["learning_rates"] = inverse_softplus(rates)
    for name, tensor in tensors.items():
        other = given.get(name)
        if other is None or other.shape != tensor.shape:
            raise InputError(
                f"{path}: its {name} are {'absent' if other is None else list(other.shape)}, this config's "
                f"{list(tensor.shape)}; use the same shots, sequence_length, steps and attention_labels"
            )
    if not torch.equal(found.label_ids.cpu(), of_samples):
        raise InputError(f"{path}: its samples are divided otherwise over the classes; use the same budget")
    return {name: tensor for name, tensor in given.items() if tensor is not None and name in tensors}


def _soft_logits(labels: Tensor, path: Path) -> Tensor:
    if (labels <= 0).any():
        raise InputError(
            f"{path}: its labels are not all positive, so they have no soft form; use labels: unrestricted"
        )
    return labels.log()
