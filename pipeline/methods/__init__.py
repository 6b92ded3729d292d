"""Ways to make a small set, one file each; all return a distilled set.

``ddal`` attention labels (its outer loop), ``outer`` one step of it, ``imbalance`` what that does about rare classes,
``learned`` what it learns, ``gradient_check`` whether its hypergradient is right; ``vectors`` RaT-BPTT and Boost-DD on
frozen sentence vectors, ``vector_run`` one step of it, ``vector_set`` what it learns; ``text`` sets of text, ``text_run`` one step of it, ``text_set`` what it
learns; ``loop`` the outer loop of all three,
``checkpoint`` how they resume;
``real`` sets of real training sentences, ``coresets`` those that a rule chooses, ``budgets`` how many of each class.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.config import BPTT, DDAL, Distill, Text
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet
from pipeline.parallel import Ranks


def make(config: Distill, prepared: Prepared, out: Path, ranks: Ranks | None = None) -> DistilledSet:
    """Runs the method that ``config`` names; ``out`` is for its private progress, ``ranks`` for ``ddal`` alone."""
    if isinstance(config.method, DDAL):
        from pipeline.methods.ddal import distill

        return distill(config, prepared, out, ranks)
    if isinstance(config.method, BPTT):
        from pipeline.methods import vectors

        return vectors.distill(config, prepared, out)
    if isinstance(config.method, Text):
        from pipeline.methods import text

        return text.distill(config, prepared, out)
    from pipeline.methods.real import choose

    return choose(config, prepared)
