"""What tables call sets of vectors, and students that learn from vectors."""

from __future__ import annotations

from pipeline.config import BPTT, Evaluate, OnVectors, PublishedMlp, PublishedTransformer
from pipeline.config.students import VectorNetwork

_TITLES = {"mlp": "MLP", "transformer": "Transformer"}
_LABELS = {"hard": "", "soft": "soft labels", "unrestricted": "unrestricted labels"}
_STARTS = ("random", "end", "forward")


def network_name(cell: Evaluate) -> str:
    """Which network learns from vectors; empty where students learn from text."""
    return "" if cell.student is None else _title(cell.student)


def network_words(student: VectorNetwork) -> str:
    """Such as ``transformer, width 256, dropout 0.1``: what is told of a network's options, where it has them."""
    options = student.model_dump(include={"width", "dropout"})
    return ", ".join([student.name, *(f"{name} {value:g}" for name, value in options.items() if value)])


def _title(student: VectorNetwork) -> str:
    """A network that no words were written for is called by the name that YAML has."""
    return _TITLES.get(student.name, student.name)


def student_name(cell: Evaluate) -> str:
    """Who learns from vectors and how, where another recipe than ``vectors`` or another length is asked for.

    Such as ``MLP``, ``MLP, 5000 steps`` or ``MLP (published recipe)``; empty where students learn from text.
    """
    if cell.student is None:
        return ""
    name, recipe = network_name(cell), cell.recipe
    if isinstance(cell.protocol, PublishedMlp | PublishedTransformer):
        return f"{name} (published recipe)"
    assert isinstance(recipe, OnVectors)
    usual = OnVectors(name="vectors")
    return name if (recipe.steps, recipe.epochs) == (usual.steps, usual.epochs) else f"{name}, {recipe.amount}"


def student_order(cell: Evaluate) -> tuple[int, ...]:
    """Where such rows stand: after those of students of text."""
    if cell.student is None:
        return (0,)
    recipe = cell.recipe
    assert isinstance(recipe, OnVectors)
    published = isinstance(cell.protocol, PublishedMlp | PublishedTransformer)
    place = list(_TITLES).index(cell.student.name) if cell.student.name in _TITLES else len(_TITLES)
    return (1 + place, int(published), recipe.epochs or 0, recipe.steps)


def bptt_name(method: BPTT, student: VectorNetwork | None = None) -> str:
    """Such as ``RaT-BPTT (W 40, T 100) + Boost, β = 0.3``; says for whom it was made if not for ``student``."""
    kind = "Full-BPTT" if method.window is None else "RaT-BPTT" if method.start == "random" else "T-BPTT"
    forward = "forward" if method.window is not None and method.start == "forward" else ""
    window = "" if method.window is None else f"W {method.window}"
    made_for = "" if student in (None, method.student) else f"made for {_title(method.student)}"
    parts = [window, f"T {method.steps}", forward, _LABELS[method.labels], made_for]
    boost = "" if method.boost is None else f" + Boost, β = {method.boost.beta:g}"
    return f"{kind} ({', '.join(filter(None, parts))}){boost}"


def bptt_order(method: BPTT) -> tuple[int, ...]:
    """Full before windows, short before long, without boosting before with it."""
    start = 0 if method.window is None else 1 + _STARTS.index(method.start)
    boost = 0 if method.boost is None else 1 + round(1000 * method.boost.beta)
    return (start, boost, method.steps, method.window or 0, list(_LABELS).index(method.labels))
