"""What tables say of tasks with rare classes: two metrics beside the task's own, and what the corrections are."""

from __future__ import annotations

from pipeline.report.collect import Collected
from pipeline.report.layout import Column

BESIDE = ("balanced_accuracy", "mcc")
CORRECTIONS = ("balanced batches", "class weights", "logit adjustment")  # as ``words.correction`` has them
OUTER = (
    "Balanced batches, class weights and logit adjustment correct for unequal classes while a set is distilled, in "
    "its outer loss; students are trained and scored as in the other rows."
)
UNEQUAL = 1.5  # rows of the largest class per row of the smallest, from which a task counts as imbalanced


def beside(collected: Collected, column: Column) -> tuple[str, ...]:
    """The metrics that stand beside an imbalanced task's own, as far as they were measured.

    A task is imbalanced by the rows of the split that is shown: on MRPC's test split, 68 % of one class, a student
    that always answers it has 81 % F1, 50 % balanced accuracy and an MCC of 0.
    """
    counts = collected.manifests[column].get("class_counts", {}).get(column.split) or [1]
    if max(counts) < UNEQUAL * min(counts):
        return ()
    chosen = [entry.chosen for (_, at), entry in collected.entries.items() if at == column and entry.chosen is not None]
    return tuple(
        metric
        for metric in BESIDE
        if metric != column.metric and any(each.sample(metric, column.split) is not None for each in chosen)
    )


def caption(collected: Collected) -> tuple[str, ...]:
    """What the added columns are; nothing where there are none."""
    titles = [column.title for column in collected.layout.columns if beside(collected, column)]
    metrics = (
        f"{', '.join(titles)}: the largest class has at least {UNEQUAL:g} times the rows of the smallest, so balanced "
        "accuracy (mean recall of the classes) and Matthews' correlation (MCC, 0 by chance) stand beside the task's "
        "metric, which decides what is bold and what is tested."
    )
    corrected = any(words in row.method for row in collected.layout.rows for words in CORRECTIONS)
    return (*([metrics] if titles else []), *([OUTER] if corrected else []))
