"""Ways to make a small set: ``make`` runs the one that a config names.

``ddal`` attention labels (its outer loop), ``outer`` one step of it, ``imbalance`` what that does about rare classes,
``learned`` what it learns, ``gradient_check`` whether its hypergradient is right. Rooms of their own: ``vectors``
RaT-BPTT and Boost-DD on frozen sentence vectors, ``text`` sets of text, ``dilm`` a language model that writes the set,
``coresets`` real sentences that a rule chooses.

``loop`` the outer loop of all, ``leaves`` their learned tensors, ``checkpoint`` how they resume, ``budgets`` how many
samples of each class; ``real`` sets of real training sentences; ``projection`` embeddings to text; ``imported`` what
others published; ``composed`` sets put together of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import BPTT, DDAL, LM, Composed, DiLM, Distill, Generated, Imported, Project, Sentences, Text
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet
from pipeline.parallel import Ranks

if TYPE_CHECKING:
    from pipeline.methods.dilm import Generator


def make(
    config: Distill,
    prepared: Prepared,
    out: Path,
    ranks: Ranks | None = None,
    starts: Sequence[Path] = (),
    others: Sequence[Prepared] = (),
) -> DistilledSet | Generator:
    """Runs the method that ``config`` names.

    Args:
        config: the cell.
        prepared: stage 1's output.
        out: for the method's private progress.
        ranks: the processes that do this together, of ``ddal`` alone.
        starts: the folders of the cells that it starts from or is composed of (``config.made_of``).
        others: what stage 1 made for the encoders of ``config.others``.

    Returns:
        A set, or the language model that later cells write sets with.

    """
    parent = None if config.parent is None else starts[0]
    if isinstance(config.method, DDAL):
        from pipeline.methods.ddal import distill

        return distill(config, prepared, out, ranks, parent)
    if isinstance(config.method, BPTT):
        from pipeline.methods.vectors import method as vectors

        return vectors.distill(config, prepared, out)
    if isinstance(config.method, LM | DiLM | Generated):
        from pipeline.methods import dilm

        return dilm.make(config, prepared, out, parent)
    if isinstance(config.method, Text):
        from pipeline.methods.text import method as text

        return text.distill(config, prepared, out, parent, others)
    if isinstance(config.method, Sentences):
        from pipeline.methods.text.start import beginning

        return beginning(config, prepared)
    if isinstance(config.method, Project):
        from pipeline.methods.projection import project

        assert parent is not None
        return project(config, prepared, parent)
    if isinstance(config.method, Imported):
        from pipeline.methods.imported import read

        return read(config, prepared)
    if isinstance(config.method, Composed):
        from pipeline.methods.composed import compose

        return compose(config.method, prepared, starts)
    from pipeline.methods.real import choose

    return choose(config, prepared, parent)
