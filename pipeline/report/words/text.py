"""What sets of text are called, and their place among the rows of a table."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import DDAL, Distill, Imported, Project, Sentences, Text
from pipeline.report.words.cells import ATTENTION, LABELS, correction, encoder_name, is_on_test

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
_UNLEARNED = {"real": "random sentences", "centres": "k-means", "telling": "telling sentences", "words": "words"}


def text_row(made: Distill) -> tuple[tuple[int, ...], str, bool]:
    """Of a set of text or an imported one its place, its name, and whether what was learned was selected on test."""
    if isinstance(made.method, Imported):
        return (3, 0, 0), f"imported {Path(made.method.file.path).name}", False
    if isinstance(made.method, Sentences):
        which = list(STARTS).index(made.method.initialise)
        return (1, which, 0), f"text (not learned: {_UNLEARNED[made.method.initialise]})", False
    learned = made if isinstance(made.method, Text) else made.parent
    assert isinstance(made.method, Text | Project)
    assert learned is not None
    assert isinstance(learned.method, DDAL | Text)
    on_test = is_on_test(made)
    name = text_name(made.method, learned.method, others(made)) + correction(learned.method)
    return (*text_order(made.method), len(made.others), int(on_test)), name, on_test


def others(made: Distill) -> str:
    """The other encoders for whose students a set was learned, such as ``gte-small and all-mpnet-base-v2``."""
    *most, last = [encoder_name(one) for one in made.others] or [""]
    return f"{', '.join(most)} and {last}" if most else last


def learned_for(made: Distill) -> list[str]:
    """Of a set that was learned for students of several encoders, how, as a sentence."""
    if not made.others:
        return []
    return [
        f"It was learned for students of {others(made)}, too, who were given its text in their own tokens: exchanges "
        f"were kept, and the checkpoint was selected, by the mean over encoders."
    ]


def text_name(method: Text | Project, learned: DDAL | Text, others: str = "") -> str:
    """Such as ``text (swaps)``, or ``SL + AL, nearest tokens (cosine)`` of what was ``learned`` as embeddings.

    ``others`` are the encoders for whose students it was learned besides the one it was made with.
    """
    if isinstance(method, Text):
        labels = "" if method.labels == "hard" else f", {LABELS[method.labels]}"
        fluent = ", fluent" if method.asks_language_model else ""
        also = f", also for {others}" if others else ""
        return f"text ({_RELAXATIONS[method.relaxation.name]}{fluent}{also}){labels}"
    assert isinstance(learned, DDAL)
    return f"{LABELS[learned.labels]}{ATTENTION[learned.attention_labels]}, nearest tokens ({method.measure})"


def text_order(method: Text | Project) -> tuple[int, ...]:
    """Projections first."""
    if isinstance(method, Project):
        return (0, int(method.measure == "l2"))
    return (2, list(_RELAXATIONS).index(method.relaxation.name))
