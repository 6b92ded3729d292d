"""The texts that updates look at, clustered so that every mini-batch is diverse (DiLM, section 3.3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans

from pipeline.config import DiLM, Distill
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Split
from pipeline.methods.budgets import Integers
from pipeline.methods.coresets.vectors import vectors_of
from pipeline.methods.dilm.generator import Generator, Text
from pipeline.methods.dilm.sampling import Written, as_split, write
from pipeline.methods.dilm.sequences import Sequences
from pipeline.randomness import derive
from pipeline.students.encoder import Student


class TextPool:
    """Texts of every class, as the generator wrote them and as the student reads them.

    Attributes:
        sequences: as they were written.
        split: as the student reads them.
        clusters: int64 [n] of each text, numbered within its class.

    """

    def __init__(self, sequences: Sequences, texts: list[Text], clusters: Integers, prepared: Prepared) -> None:
        self.sequences, self.clusters = sequences, clusters
        self.split = as_split(texts, sequences.labels.tolist(), prepared.tokenizer, prepared.manifest["max_length"])

    def batch(self, label: int, count: int, clusters: int, update: int) -> Integers:
        """Positions of ``count`` texts of a class: equally many of every cluster, the next ones in turn.

        No text twice. Where a cluster has too few, the others of the class stand in, in turn as well.

        Args:
            label: the class.
            count: texts.
            clusters: of a class.
            update: how many came before, since the texts were written.

        """
        of_class = np.flatnonzero(self.sequences.labels.numpy() == label)
        numbers, share = self.clusters[of_class], count // clusters
        chosen = np.concatenate([_next(of_class[numbers == number], share, update) for number in range(clusters)])
        others = of_class[~np.isin(of_class, chosen)]
        return np.concatenate([chosen, _next(others, count - len(chosen), update)])

    def state(self) -> dict[str, Any]:
        """What :meth:`restored` needs; flat tensors."""
        return {**self.sequences.state(), "clusters": torch.from_numpy(self.clusters)}

    @classmethod
    def restored(cls, state: dict[str, Any], generator: Generator, fields: int, prepared: Prepared) -> TextPool:
        """A pool from its saved state; texts are decoded again."""
        sequences = Sequences(state["tokens"], state["ends"], state["labels"])
        texts = [generator.text(sequences.row(index), fields) for index in range(len(sequences))]
        usable = [text for text in texts if text is not None]
        assert len(usable) == len(texts)
        return cls(sequences, usable, state["clusters"].numpy(), prepared)


def _next(rows: Integers, count: int, update: int) -> Integers:
    """The ``count`` of ``rows`` whose turn it is; behind the last one comes the first again."""
    return np.roll(rows, -count * update)[:count]


def written_pool(
    config: Distill, generator: Generator, student: Student, prepared: Prepared, longest: int, step: int
) -> TextPool:
    """A new pool by the generator as it is.

    Args:
        config: how large, in how many clusters; its seed and the step decide the draw.
        generator: writes the texts.
        student: by whose pretrained vectors texts are clustered.
        prepared: the student's data.
        longest: tokens of a text at most.
        step: of the optimiser.

    Raises:
        StageError: the generator writes too few usable texts.
        Stopped: a signal came.

    """
    method, drawn = config.method, derive(config.seed, "pool", step)
    assert isinstance(method, DiLM)
    found = write(
        generator, method.pool_size, len(config.source.task.text), method.sampling, longest, drawn, distinct=False
    )
    pool = TextPool(found.sequences, found.texts, np.zeros(len(found.texts), np.int64), prepared)
    if method.clusters > 1:
        pool.clusters = clustered(found, pool.split, student, method, drawn)
    return pool


def clustered(written: Written, split: Split, student: Student, method: DiLM, seed: int) -> Integers:
    """[n] number of each text's cluster within its class, by k-means (k-means++, one start)."""
    theta = student.initial(seed, 0)
    numbers = np.zeros(len(split), np.int64)
    for label in range(int(written.sequences.labels.max()) + 1):
        rows = written.of_class(label)
        vectors = vectors_of(student, theta, split.select(rows), method.pooling)
        distinct = len(np.unique(vectors, axis=0))  # of the same text over and over there are no more clusters
        k_means = KMeans(min(method.clusters, distinct), init="k-means++", n_init=1, random_state=seed % 2**32)
        numbers[rows] = k_means.fit(vectors).labels_
    return numbers
