"""The real training rows that are nearest to the samples of a set, in the frozen encoder's space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet
from pipeline.students.encoder import Student
from pipeline.students.sentences import embed

_AT_ONCE = 16


class Neighbour(NamedTuple):
    """A training row: its number, class and text, and its cosine distance (0 … 2)."""

    row: int
    name: str
    text: str
    distance: float


@torch.no_grad()
def neighbours(
    found: DistilledSet, prepared: Prepared, rows: Sequence[int], count: int, among: int
) -> list[tuple[Neighbour, ...]]:
    """The ``count`` nearest training rows of the samples ``rows``, nearest first; nothing for the others.

    Args:
        found: the set.
        prepared: the task that it was made from, with its encoder.
        rows: samples that are looked at.
        count: training rows for each; 0 looks at none.
        among: training rows that are compared, a draw with the classes' shares.

    """
    empty: list[tuple[Neighbour, ...]] = [()] * len(found)
    if not count or not rows:
        return empty
    train = prepared.split("train")
    drawn = train.stratified_rows(among, 0, "rows beside a set")
    if found.vectors is not None:
        mine, theirs = found.vectors[list(rows)], prepared.vectors("train").vectors[torch.from_numpy(drawn)]
    else:
        student = Student.load(prepared.model_folder, prepared.manifest["fresh_parameters"], "cpu")
        mine = _of_samples(found, rows, student)
        split = train.select(drawn)
        parts = list(embed(student, student.initial(0, 0), split.by_length(), "mean"))
        theirs = torch.cat([vectors for _, vectors in parts])[torch.cat([at for at, _ in parts]).argsort()]
    distances = 1 - F.normalize(mine.double(), dim=1) @ F.normalize(theirs.double(), dim=1).T
    nearest = distances.topk(min(count, len(drawn)), dim=1, largest=False, sorted=True)
    for row, at, values in zip(rows, nearest.indices.tolist(), nearest.values.tolist(), strict=True):
        places = drawn[at].tolist()
        real = train.rows[places]
        texts = prepared.tokenizer.batch_decode(real["input_ids"], skip_special_tokens=True)
        names = [prepared.classes[label] for label in real["label"]]
        empty[row] = tuple(map(Neighbour, places, names, texts, [max(0.0, value) for value in values]))
    return empty


def _of_samples(found: DistilledSet, rows: Sequence[int], student: Student) -> Tensor:
    """[samples, H] mean last hidden states of text, or of input embeddings, every position attended."""
    theta, made = student.initial(0, 0), []
    for part in torch.tensor(rows).split(_AT_ONCE):
        batch = found.examples(part)
        if found.inputs_embeds is not None:
            batch["attention_mask"] = torch.ones(batch["inputs_embeds"].shape[:2], dtype=torch.long)
        made.append(student.vectors(theta, batch, "mean"))
    return torch.cat(made)
