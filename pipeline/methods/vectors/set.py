"""The learned tensors of ``bptt``, how they become a distilled set, and what the inner steps train on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.bilevel import InnerBatch
from pipeline.config import BPTT
from pipeline.data.vectors import VectorSplit
from pipeline.distilled import DistilledSet, Recipe
from pipeline.errors import InputError
from pipeline.methods.budgets import Integers
from pipeline.methods.coresets.geometry import centroids
from pipeline.methods.learned import inverse_softplus
from pipeline.methods.leaves import Leaves
from pipeline.randomness import derive, numpy_generator, torch_generator


class LearnedVectors(Leaves):
    """The learned tensors and the set that they parametrise; sample i is of class i mod C.

    ``tensors`` (N = C · shots):

    * ``vectors`` [N, D];
    * ``labels`` [N, C]: logits of soft labels, or unrestricted labels; absent for hard labels;
    * ``learning_rate`` []: the step size before softplus; absent unless it is learned.
    """

    def __init__(self, method: BPTT, classes: int, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.method, self.classes = method, classes
        vectors = self.tensors["vectors"]
        self.label_ids = torch.arange(len(vectors), device=vectors.device) % classes
        self._one_hot = F.one_hot(self.label_ids, classes).to(vectors.dtype)

    def __len__(self) -> int:
        return len(self.label_ids)

    @property
    def shots(self) -> int:
        """Samples per class."""
        return len(self) // self.classes

    @property
    def labels(self) -> Tensor:
        """[N, C] as the loss uses them."""
        labels = self.tensors.get("labels", self._one_hot)
        return labels.softmax(dim=-1) if self.method.labels == "soft" else labels

    @property
    def learning_rate(self) -> Tensor:
        """η, a scalar."""
        if "learning_rate" in self.tensors:
            return F.softplus(self.tensors["learning_rate"])
        return self.tensors["vectors"].new_tensor(self.method.learning_rate)

    def view(self) -> DistilledSet:
        """The set as students see it."""
        return DistilledSet(
            labels=self.labels,
            label_ids=self.label_ids,
            recipe=Recipe("vectors", inner_optimizer=self.method.inner_optimizer),
            vectors=self.tensors["vectors"],
            learning_rates=self.learning_rate.expand(self.method.steps),
        )

    def inner_batches(self, seed: int, step: int, steps: int, *, augmented: bool = True) -> list[InnerBatch]:
        """What each of ``steps`` inner steps trains on, drawn by (seed, step, its number); with a graph to the leaves.

        Steps on all samples share their tensors, so that memory does not grow with their number.
        """
        vectors, labels, rate = self.tensors["vectors"], self.labels, self.learning_rate
        order = self._order(seed, step, steps)
        whole = InnerBatch(vectors, labels, None, 0.0, rate)
        batches = [whole if r is None else InnerBatch(vectors[r], labels[r], None, 0.0, rate) for r in order]
        if not augmented or (self.method.augment.noise == 0 and self.method.augment.mixup == 0):
            return batches
        return [self._augmented(batch, seed, step, t) for t, batch in enumerate(batches)]

    def _order(self, seed: int, step: int, steps: int) -> list[Tensor] | list[None]:
        """The rows of every step; ``None`` where all of them are in all steps."""
        per_class = min(self.method.batch_shots or self.shots, self.shots)  # an early stage of a chain may have fewer
        in_step = self.method.classes_per_batch or self.classes
        if per_class == self.shots and in_step == self.classes:
            return [None] * steps
        generator = numpy_generator(seed, "inner batches", step)
        of_classes = np.argsort(generator.random((steps, self.classes)), axis=1)[:, :in_step]
        of_shots = np.argsort(generator.random((steps, self.classes, self.shots)), axis=2)[:, :in_step, :per_class]
        rows = torch.from_numpy(of_shots * self.classes + of_classes[..., None]).flatten(start_dim=1)
        return list(rows.to(self.label_ids.device))

    def _augmented(self, batch: InnerBatch, seed: int, step: int, t: int) -> InnerBatch:
        inputs, labels, augment = batch.inputs, batch.labels, self.method.augment
        generator = torch_generator(seed, "augment", step, t)
        if augment.mixup:
            share = float(numpy_generator(seed, "mixup", step, t).beta(augment.mixup, augment.mixup))
            other = torch.randperm(len(inputs), generator=generator).to(inputs.device)
            inputs = share * inputs + (1 - share) * inputs[other]
            labels = share * labels + (1 - share) * labels[other]
        if augment.noise:
            inputs = inputs + augment.noise * torch.randn(inputs.shape, generator=generator).to(inputs)
        return InnerBatch(inputs, labels, None, 0.0, batch.learning_rate)

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the outer optimiser, each with its own step size."""
        outer = self.method.outer
        rates = {"vectors": outer.lr, "labels": outer.lr_labels, "learning_rate": outer.lr_learning_rate}
        return [{"params": [tensor], "lr": rates[name] or outer.lr} for name, tensor in self.tensors.items()]

    @torch.no_grad()
    def project(self, first: int = 0) -> None:
        """Puts samples from ``first`` on back to where they may be after an outer step: unit length, labels ≥ 0."""
        if self.method.unit_norm == "every_step":
            unit_length(self.tensors["vectors"][first:])
        if self.method.nonnegative_labels:
            self.tensors["labels"][first:].clamp_(min=0)

    @torch.no_grad()
    def shrink(self, before: Mapping[str, Tensor], beta: float) -> None:
        """Takes the first samples back to ``before`` + ``beta`` · their step (Boost-DD's stale rate).

        With ``beta`` 0 they stay the same to the bit.
        """
        for name, old in before.items():
            now = self.tensors[name][: len(old)]
            now.copy_(old + beta * (now - old) if beta else old)

    def first(self, samples: int) -> dict[str, Tensor]:
        """Copies of what is learned of the first samples."""
        return {name: tensor.detach()[:samples].clone() for name, tensor in self.tensors.items() if tensor.ndim}


def unit_length(vectors: Tensor) -> None:
    """Scales each of the vectors [N, D] to length 1, in place."""
    vectors.div_(vectors.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(vectors.dtype).tiny))


def initial_tensors(
    method: BPTT, train: VectorSplit, classes: int, shots: int, seed: int, older: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The leaves at the first step of a stage that ends with ``shots`` samples per class.

    Args:
        method: of the cell.
        train: what samples start from.
        classes: C.
        shots: per class.
        seed: of the cell.
        older: the leaves of the stage before, whose samples come first.

    Raises:
        InputError: a class has too few training rows to start from.

    """
    known = 0 if older is None else len(older["vectors"])
    of_new = torch.arange(known, classes * shots) % classes
    if method.initialise == "real":
        vectors = train.vectors[_rows(train, classes, shots, seed)[known:]].float()
    elif method.initialise == "centres":
        vectors = _centres(train, classes, shots - known // classes, seed)
    else:
        vectors = torch.randn(len(of_new), train.vectors.shape[1], generator=torch_generator(seed, "noise", shots))
    if method.unit_norm is not None:
        unit_length(vectors)
    tensors = {"vectors": vectors}
    if method.labels != "hard":
        scale = method.soft_start if method.labels == "soft" else 1.0
        tensors["labels"] = scale * torch.eye(classes)[of_new]
    if older is not None:
        tensors = {name: torch.cat([older[name].to(new), new]) for name, new in tensors.items()}
    if method.learn_learning_rate:
        start = inverse_softplus(torch.tensor(method.learning_rate))
        tensors["learning_rate"] = start if older is None else older["learning_rate"].to(start)
    return {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}


def _rows(train: VectorSplit, classes: int, shots: int, seed: int) -> Tensor:
    """[C · shots] training rows that samples start from; those of fewer shots are the first of them."""
    chosen = [
        numpy_generator(seed, "initial samples", label).permutation(rows)[:shots]
        for label, rows in enumerate(_of_classes(train, classes, shots))
    ]
    return torch.from_numpy(np.stack(chosen, axis=1).reshape(-1))


def _centres(train: VectorSplit, classes: int, shots: int, seed: int) -> Tensor:
    """[C · shots, D]: the centroids of every class's rows."""
    found = [
        centroids(train.vectors[torch.from_numpy(rows)].numpy(), shots, derive(seed, "centres", label, shots) % 2**32)
        for label, rows in enumerate(_of_classes(train, classes, shots))
    ]
    return torch.from_numpy(np.stack(found, axis=1)).float().flatten(end_dim=1)


def _of_classes(train: VectorSplit, classes: int, shots: int) -> list[Integers]:
    """The rows of every class."""
    found = [np.flatnonzero(train.labels.numpy() == label) for label in range(classes)]
    for label, rows in enumerate(found):
        if len(rows) < shots:
            raise InputError(
                f"class {label} has {len(rows)} training rows, too few for shots: {shots}; "
                f"lower shots or use initialise: noise"
            )
    return found
