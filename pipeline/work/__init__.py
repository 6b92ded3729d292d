"""How much computing a cell is, counted from its config and its data before anything of it has run.

FLOPs by kind (:class:`~pipeline.work.cells.Work`), because each kind has a speed of its own: ``estimate`` divides them
by what :mod:`pipeline.probe` measured here, and the ledger of stage 4 sets them beside what was used. ``cells`` any
cell, and those whose students read text; ``text``, ``vectors``, ``language`` and ``prompts`` what is particular;
``lengths`` the rows that all of them read.
"""

from pipeline.work.cells import (
    Work,
    estimator,
    has_passes,
    inner,
    of_distill,
    of_evaluate,
    of_row,
    of_training,
    samples_of,
    scored,
    validations,
)

__all__ = [
    "Work",
    "estimator",
    "has_passes",
    "inner",
    "of_distill",
    "of_evaluate",
    "of_row",
    "of_training",
    "samples_of",
    "scored",
    "validations",
]
