"""Of which rows of a grid one is chosen, and which are compared; mistakes are found before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config import Experiment
from pipeline.config.problems import nearest
from pipeline.errors import InputError
from pipeline.report.alternatives import alternatives, searched
from pipeline.report.layout import Layout, layout
from pipeline.report.row import Row


def check_choices(experiment: Experiment) -> None:
    """Refuses a grid whose hyper-parameters could not be chosen, before anything of it is computed.

    Raises:
        InputError: alternatives for one place of the table are not scored on the split that selects, or
            ``report.compare`` (see :func:`asked_pairs`) or ``report.apart`` names what is not there.

    """
    plan = layout(experiment.cells, experiment.report.table, experiment.report.apart)
    asked_pairs(experiment.report.compare, plan)
    for (row, column), cells in plan.members(experiment.cells).items():
        groups = alternatives(cells)
        split = "test" if row.on_test else "dev"
        if len(groups) > 1 and not all(any(split in cell.splits for cell in group) for group in groups):
            raise InputError(
                f"{plan.labels[row]} on {column.title}: {len(groups)} alternatives differ in "
                f"{', '.join(searched([group[0] for group in groups]))} and the best is chosen on {split}, "
                f"which is not scored; write evaluate.splits: [dev, test], or report: {{apart: [key, …]}} for rows of "
                f"their own"
            )


def asked_pairs(asked: Sequence[tuple[str, ...]], plan: Layout) -> list[tuple[Row, Row]]:
    """The rows that pairs of labels mean, each pair once.

    A label without a budget stands for all rows of that method; rows of equal budgets are then paired.

    Raises:
        InputError: no row has such a label, or no two rows of a pair have the same budget.

    """
    pairs: dict[frozenset[Row], tuple[Row, Row]] = {}
    for names in asked:
        ours, theirs = (_labelled(name, plan) for name in names)
        found = [(a, b) for a in ours for b in theirs if len(ours) * len(theirs) == 1 or same_budget(a, b)]
        if not found:
            raise InputError(
                f"report.compare: no row of '{names[0]}' has the budget of one of '{names[1]}'; name two rows in full: "
                f"{'; '.join(plan.labels.values())}"
            )
        for pair in found:
            pairs.setdefault(frozenset(pair), pair)
    return list(pairs.values())


def same_budget(a: Row, b: Row) -> bool:
    """Whether two rows have one kind of student, equally many samples, and steps where both count them."""
    pairs = ((a.shots, b.shots), (a.steps, b.steps), (a.data or None, b.data or None))
    return a.student == b.student and all(x is None or y is None or x == y for x, y in pairs)


def _labelled(label: str, plan: Layout) -> list[Row]:
    labels = plan.labels
    found = [row for row in labels if labels[row] == label] or [row for row in labels if row.method == label]
    if not found:
        allowed = list(dict.fromkeys([*labels.values(), *(row.method for row in labels)]))
        near = nearest(label, allowed)
        raise InputError(f"report.compare: no row is called '{label}'{near}; allowed: {'; '.join(allowed)}")
    return found
