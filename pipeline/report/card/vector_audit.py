"""What is in a set of sentence vectors: how near its samples are to real rows, beside how near real rows are."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet
from pipeline.randomness import torch_generator
from pipeline.report.card.facts import Finding
from pipeline.students.vocabulary import nearest_tokens

_SAME = 1e-5  # cosine distance of what counts as the row itself
_DRAWN = 256  # rows of dev, and random directions, that samples are compared with


def distances_to_rows(vectors: Tensor, prepared: Prepared, seed: int) -> tuple[list[Finding], list[int]]:
    """The findings, and the nearest training row of every sample.

    Args:
        vectors: [N, D] the set's.
        prepared: the task, with vectors.
        seed: of what is drawn to compare with.

    """
    train, test, dev = (prepared.vectors(name).vectors for name in ("train", "test", "dev"))
    drawn = torch_generator(seed, "rows of an audit")
    some = dev[torch.randperm(len(dev), generator=drawn)[:_DRAWN]]
    random = train.new_empty(_DRAWN, train.shape[1]).normal_(generator=drawn)
    found = []
    for name, matrix in (("train", train), ("test", test)):
        mine = nearest_tokens(vectors, matrix).distances
        theirs, nothing = (nearest_tokens(other, matrix).distances for other in (some, random))
        same = int((mine < _SAME).sum())
        found.append(
            Finding(
                about=f"cosine distance to the nearest row of {name}",
                measured=f"{mine.mean():.3f} on average, {mine.min():.3f} at least; {same} of {len(mine)} are rows",
                beside=f"{len(some)} rows of dev: {theirs.mean():.3f} on average; random directions: "
                f"{nothing.mean():.3f}",
                flagged_if="any is a row" if name == "test" else "",
                flagged=name == "test" and same > 0,
            )
        )
    return found, nearest_tokens(vectors, train).ids.tolist()


def lengths(distilled: DistilledSet, prepared: Prepared) -> Finding:
    """Euclidean lengths of the samples beside those of real rows."""
    assert distilled.vectors is not None
    mine, real = distilled.vectors.norm(dim=1), prepared.vectors("train").vectors.norm(dim=1)
    return Finding(
        about="length of the vectors",
        measured=f"{mine.mean():.2f} on average, {mine.min():.2f} to {mine.max():.2f}",
        beside=f"rows of train: {real.mean():.2f} on average, {real.min():.2f} to {real.max():.2f}",
    )
