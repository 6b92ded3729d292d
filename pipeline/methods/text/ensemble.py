"""Students of other encoders beside which a set of text is learned.

A set of text begins as tokens of one encoder, whose gradient proposes what to exchange. Of the others each is given the
text as stage 3 gives it to them (:func:`~pipeline.distilled.transferred`: written out, and read by their own tokenizer,
whether or not it agrees with the first one), so that what is compared here is what they will learn from. Nothing else
is common to them: classifiers, hypergradient and the tokens of the real rows are each encoder's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pipeline.bilevel import Estimator
from pipeline.config import Runtime, Text
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Batch, Split
from pipeline.distilled import DistilledSet, transferred
from pipeline.errors import InputError
from pipeline.methods.ddal import load_student
from pipeline.methods.outer import Estimation
from pipeline.methods.text.set import LearnedText, of_second_texts
from pipeline.students.device import pick_device
from pipeline.students.encoder import Student
from pipeline.students.masked import Masked, with_mask


@dataclass(frozen=True)
class Companion:
    """The student of another encoder.

    Attributes:
        name: of the encoder, for the log.
        own: the data of the encoder whose tokens the set has.
        prepared: the same splits as this encoder reads them.
        student: as the method trains it.
        train: its training split, row by row that of ``own``.
        estimation: of its hypergradient.
        second: [E] what a pair's second text adds to its tokens' embeddings; absent where the encoder has no such.

    """

    name: str
    own: Prepared
    prepared: Prepared
    student: Student
    train: Split
    estimation: Estimation
    second: Tensor | None

    @classmethod
    def load(cls, name: str, method: Text, own: Prepared, prepared: Prepared, runtime: Runtime) -> Companion:
        """The student of what stage 1 prepared.

        Raises:
            InputError: its rows are not those of ``own``, or it has no passes where ``estimator: fused`` asks for them.

        """
        train = prepared.split("train")
        if not torch.equal(train.labels, own.split("train").labels):
            raise InputError(
                f"{prepared.folder}: its training rows are not those of {own.folder}; prepare both from the same "
                f"files, with the same seed, dev and test"
            )
        student = load_student(method, prepared, pick_device(runtime))
        estimation = Estimation.of(method, runtime, student)
        if method.estimator == "auto" and estimation.name == "unroll":
            estimation = replace(
                estimation, name="adjoint", why="the graph of one step at a time, beside other students"
            )
        return cls(name, own, prepared, student, train, estimation, of_second_texts(student))

    def read(self, text: DistilledSet) -> DistilledSet:
        """The set as this encoder reads it."""
        return transferred(text, self.own, self.prepared).to(self.student.device)

    def real(self, rows: Sequence[Any]) -> list[Batch]:
        """Batches of these rows, in this encoder's tokens."""
        return [self.train.batch(each, self.student.device) for each in rows]

    def inner(self, learned: LearnedText, token_ids: Tensor, labels: Tensor) -> tuple[Student | Masked, DistilledSet]:
        """Who learns in the inner loop, and from what.

        Args:
            learned: says by which steps.
            token_ids: [N, S] of the first encoder.
            labels: [N, C] with a graph where they, or the samples' weights, are to get a gradient.

        Returns:
            The student itself where all texts are equally long in its tokens, so that hand-derived passes serve it;
            otherwise one that attends to no padding. The set has its word embeddings.

        """
        found = self.read(learned.text(token_ids=token_ids))
        assert found.token_ids is not None
        there = found.token_ids >= 0
        there = there[:, : int(there.sum(dim=1).max())]
        inputs = self.student.embedding_matrix.float()[found.token_ids[:, : there.shape[1]].clamp_min(0)]
        if self.second is not None and found.token_type_ids is not None:
            inputs = inputs + found.token_type_ids[:, : there.shape[1], None].to(inputs) * self.second.to(inputs)
        if there.all():
            return self.student, learned.inner(inputs, labels)
        return Masked(self.student), learned.inner(with_mask(inputs, there), labels)

    def estimator(self, learner: Student | Masked) -> Estimator:
        """Of the hypergradient through this learner: hand-derived passes know of no padding in the inner loop."""
        masked = isinstance(learner, Masked) and self.estimation.name == "fused"
        return "adjoint" if masked else self.estimation.name
