"""Real training sentences chosen by a rule, class by class (DiLM's and other papers' baselines).

``geometry`` rules on vectors (herding, k-centres, moderate), ``vectors`` where these come from, ``scores`` rules on
what trained students make of a sentence (loss rank, EL2N; ``rank``, by a language model, is in ``dilm``),
``candidates`` among which rows is chosen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import ByVectors, Coreset, Distill, Rank
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Split
from pipeline.methods.budgets import Integers, per_class
from pipeline.methods.coresets.candidates import drawn
from pipeline.methods.coresets.geometry import pick
from pipeline.methods.coresets.scores import ranked
from pipeline.methods.coresets.vectors import Vectors


def choose_coreset(
    config: Distill, prepared: Prepared, train: Split, parent: Path | None = None
) -> tuple[list[Integers], dict[str, Any]]:
    """The rows of the training split that the method keeps.

    Equal configs give equal rows on the same machine, with the same versions and thread count. The lower row wins ties.

    Returns:
        The rows of every class, in the order in which they were chosen, so that a smaller uniform budget is the
        beginning of a larger one (but for ``centres: kmeans``); and among how many rows they were chosen.

    Raises:
        InputError: a class has fewer different rows than its budget, there are fewer candidates than samples, the
            encoder has no vector of a first token, or see :func:`~pipeline.methods.dilm.rank.likeliest`.

    """
    method = config.method
    assert isinstance(method, Coreset)
    shares = per_class(np.bincount(train.labels, minlength=len(prepared.classes)), method.shots, method.budget)
    candidates = drawn(train, shares, method, config.seed)
    if isinstance(method, ByVectors):
        vectors = Vectors(config, prepared, train)
        chosen = [
            rows[pick(method, vectors.of(rows), share, config.seed, label)]
            for label, (rows, share) in enumerate(zip(candidates, shares, strict=True))
        ]
    elif isinstance(method, Rank):
        from pipeline.methods.dilm.rank import likeliest

        assert parent is not None  # the config says so
        chosen = likeliest(config, method, prepared, train, candidates, shares, parent)
    else:
        chosen = ranked(config, prepared, train, candidates, shares)
    return chosen, {"candidates": sum(map(len, candidates))}
