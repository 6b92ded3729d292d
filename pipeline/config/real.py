"""Stage 2 by real training sentences: a random draw, coresets, the whole split, the majority class; or by none."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from pipeline.config.data import Vectors
from pipeline.config.making import Budget, Making, SmallSet
from pipeline.config.schema import Count
from pipeline.config.training import Training


class RealRows(SmallSet):
    """Training sentences as they are.

    Attributes:
        shots: samples per class; with another budget than ``uniform``, their mean over classes.
        budget: how the classes x shots samples are divided: ``uniform``, or in proportion to the classes' training
            rows (``prior``) or to the square root of these (``sqrt``); at least one per class.

    """

    budget: Budget = "uniform"
    of_rows: ClassVar[bool] = True

    @property
    def division(self) -> Budget:
        """As the budget says."""
        return self.budget

    @property
    def slug(self) -> str:
        """Readable part of the address."""
        return super().slug + ("" if self.budget == "uniform" else f".{self.budget}")


class RandomReal(RealRows):
    """Real training sentences drawn at random: the first baseline of every table."""

    name: Literal["random"]


class Coreset(RealRows):
    """Real training sentences that a rule chooses, class by class; one member per rule.

    Rows with the same tokens and the same class count once. What is chosen depends on the seed through ``candidates``
    and through what a rule draws; without either, all seeds give the same set.

    Attributes:
        candidates: choose among so many training rows, a draw with the classes' shares; ``null`` looks at all.

    """

    candidates: Count | None = None

    @property
    def is_drawn(self) -> bool:
        """Whether another seed may choose another set."""
        return self.candidates is not None


class ByVectors(Coreset):
    """Coresets that look at where sentences lie.

    Attributes:
        pooling: a sentence's vector: the last hidden state of its ``first`` token (DiLM's [CLS]), or their ``mean``.
        training: of the encoder on the training split before that; ``null`` takes the frozen encoder.

    """

    pooling: Literal["first", "mean"] = "first"
    training: Training | None = None

    def reads(self, stored: Vectors | None) -> bool:
        """Whether the vectors of stage 1 are the ones that are looked at, so that none need be computed."""
        pooling = "cls" if self.pooling == "first" else "mean"
        same = stored is not None and (stored.pooling, stored.dtype) == (pooling, "float32")
        return same and self.training is None

    @property
    def is_drawn(self) -> bool:
        """Also where the encoder is trained."""
        return super().is_drawn or self.training is not None


class Herding(ByVectors):
    """The class mean, approximated by the mean of the chosen (Welling, ICML 2009; Rebuffi et al., CVPR 2017)."""

    name: Literal["herding"]


class KCentres(ByVectors):
    """Centres that cover the class.

    Attributes:
        centres: ``greedy``: always the row farthest from the chosen (Gonzalez, 1985; Sener and Savarese, ICLR 2018);
            ``kmeans``: the rows nearest to the centroids of k-means++ (what DiLM calls k-centres).
        start: of greedy: the row nearest to the class ``mean`` (with one shot the same set as herding's), or a
            ``random`` one.

    """

    name: Literal["k_centres"]
    centres: Literal["greedy", "kmeans"] = "greedy"
    start: Literal["mean", "random"] = "mean"

    @model_validator(mode="after")
    def _check(self) -> KCentres:
        if self.centres == "kmeans" and self.start != "mean":
            raise ValueError(f"start: {self.start} is of centres: greedy; k-means++ draws its own start, remove it")
        return self

    @property
    def is_drawn(self) -> bool:
        """Also where centres are; one centroid of k-means is the mean, however it starts."""
        several = self.shots > 1 or self.budget != "uniform"
        return super().is_drawn or self.start == "random" or (self.centres == "kmeans" and several)


class Moderate(ByVectors):
    """Rows at the median distance from the class mean (Xia et al., ICLR 2023)."""

    name: Literal["moderate"]


class ByScores(Coreset):
    """Coresets that look at how students trained on the whole training split do on each sentence.

    Attributes:
        trainings: students, each from a fresh classifier, over which scores are averaged.
        training: of each.

    """

    trainings: Count = 5
    training: Training = Training()

    @property
    def is_drawn(self) -> bool:
        """Always: classifiers and the order of their training are."""
        return True


class LossRank(ByScores):
    """Rows with the lowest or highest mean cross-entropy of classifiers; ``rank`` goes by a language model's."""

    name: Literal["loss_rank"]
    keep: Literal["lowest", "highest"] = "lowest"

    @property
    def slug(self) -> str:
        """Readable part of the address."""
        return super().slug.replace(self.name, f"{self.name}-{self.keep}", 1)


class EL2N(ByScores):
    """Rows by the mean length of the error, softmax − one-hot label (Paul, Ganguli and Dziugaite, NeurIPS 2021).

    The paper keeps the highest, of students early in training; at small budgets these are often mislabelled rows. With
    two classes and one training, the order is that of the losses.
    """

    name: Literal["el2n"]
    keep: Literal["highest", "lowest"] = "highest"


class FullData(Making):
    """The whole training split: what a distilled set is measured against."""

    name: Literal["full"]
    of_rows: ClassVar[bool] = True

    @property
    def is_drawn(self) -> bool:
        """Never."""
        return False


class Majority(Making):
    """One real sample of the most frequent training class, for the protocol that always answers it."""

    name: Literal["majority"]
    of_rows: ClassVar[bool] = True

    @property
    def is_drawn(self) -> bool:
        """Never."""
        return False


class Empty(Making):
    """No sample at all: what a language model answers without examples (zero-shot)."""

    name: Literal["empty"]

    @property
    def is_drawn(self) -> bool:
        """Never."""
        return False
