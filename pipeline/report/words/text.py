"""What sets of text are called, and their place among the rows of a table."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import DDAL, Distill, Imported, Project, Text
from pipeline.report.words.cells import ATTENTION, LABELS, correction

_RELAXATIONS = {
    "swaps": "swaps",
    "straight_through": "straight-through",
    "projected": "projected on the way",
    "mixture": "mixtures of tokens",
    "admm": "ADMM",
}

STARTS = {
    "real": "random real sentences",
    "centres": "the real sentences nearest to k-means centres",
    "telling": "the real sentences whose words tell most of their class",
    "words": "the words that tell most of their class",
}


def text_row(made: Distill) -> tuple[tuple[int, ...], str, bool]:
    """Of a set of text or an imported one its place, its name, and whether what was learned was selected on test."""
    if isinstance(made.method, Imported):
        return (2, 0, 0), f"imported {Path(made.method.file.path).name}", False
    learned = made if isinstance(made.method, Text) else made.parent
    assert isinstance(made.method, Text | Project)
    assert learned is not None
    assert isinstance(learned.method, DDAL | Text)
    on_test = learned.method.validation.split == "test"
    name = text_name(made.method, learned.method) + correction(learned.method)
    return (*text_order(made.method), int(on_test)), name, on_test


def text_name(method: Text | Project, learned: DDAL | Text) -> str:
    """Such as ``text (swaps)``, or ``SL + AL, nearest tokens (cosine)`` of what was ``learned`` as embeddings."""
    if isinstance(method, Text):
        labels = "" if method.labels == "hard" else f", {LABELS[method.labels]}"
        fluent = ", fluent" if method.asks_language_model else ""
        return f"text ({_RELAXATIONS[method.relaxation.name]}{fluent}){labels}"
    assert isinstance(learned, DDAL)
    return f"{LABELS[learned.labels]}{ATTENTION[learned.attention_labels]}, nearest tokens ({method.measure})"


def text_order(method: Text | Project) -> tuple[int, ...]:
    """Projections first."""
    if isinstance(method, Project):
        return (0, int(method.measure == "l2"))
    return (1, list(_RELAXATIONS).index(method.relaxation.name))
