"""What tables and cards call sets that a language model wrote."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config import LM, AtRandom, ByCentres, ByHerding, ByRank, DiLM, Distill, Generated

_SELECTIONS = ("k_centres", "herding", "rank", "random", "none")


def generated_name(config: Distill) -> str:
    """Such as ``DiLM``, ``LM (no selection)`` or ``DiLM (random teachers)``: what differs from the paper's method."""
    method, parent = config.method, config.parent
    assert isinstance(method, Generated)
    assert parent is not None
    parts = [*(_ablations(parent.method) if isinstance(parent.method, DiLM) else []), _selection(method)]
    words = ", ".join(part for part in parts if part)
    kind = "LM" if isinstance(parent.method, LM) else "DiLM"
    return f"{kind} ({words})" if words else kind


def generated_order(config: Distill) -> tuple[int, ...]:
    """The language model alone before matching, ablations after the whole."""
    method, parent = config.method, config.parent
    assert isinstance(method, Generated)
    assert parent is not None
    matched = parent.method
    own = [int(bool(word)) for word in _ablations(matched)] if isinstance(matched, DiLM) else []
    return (int(isinstance(matched, DiLM)), _SELECTIONS.index(method.selection.name), *(own or [0] * 5))


def _selection(method: Generated) -> str:
    rule = method.selection
    if isinstance(rule, ByCentres):
        return "" if rule.centres == "kmeans" else "greedy k-centres"
    if isinstance(rule, ByHerding):
        return "herding"
    if isinstance(rule, ByRank):
        return "rank"
    return "random selection" if isinstance(rule, AtRandom) else "no selection"


def _ablations(method: DiLM) -> list[str]:
    """What is not as in the paper; empty words for what is."""
    return [
        "random teachers" if method.teachers.choose == "random" else "",
        "plain mini-batches" if method.clusters == 1 else "",
        "" if method.gradients == "head" else f"gradients of {method.gradients.replace('_', ' ')}",
        "padded losses" if method.normalise == "padded" else "",
        f"λ = {method.lm_weight:g}" if method.lm_weight else "",
    ]


def kept_state(config: Distill) -> str:
    """By what the states of the generators of a chain were chosen."""
    lm = config.chain[-1].method
    assert isinstance(lm, LM)
    return "the best of lm by dev loss" if lm.validation.keep == "best" else "the last step"


def origin(starts: Sequence[Distill], sets: int) -> str:
    """What sets share that start from fewer cells than they are: ``of one language model``, ``from 2 other sets``.

    What is drawn in making those varies less than the sets do, or not at all. Empty where each has its own, or none.

    Args:
        starts: the distinct cells that the sets start from.
        sets: how many there are.

    """
    if not 0 < len(starts) < sets:
        return ""
    of, noun = ("of", "language model") if starts[0].method.makes == "language model" else ("from", "other set")
    return f"{of} one {noun}" if len(starts) == 1 else f"{of} {len(starts)} {noun}s"


def writer(config: Distill) -> str:
    """How the set was written, in a sentence for cards."""
    method, parent = config.method, config.parent
    assert isinstance(method, Generated)
    assert parent is not None
    first = config.chain[-1]
    lm = first.method
    assert isinstance(lm, LM)
    text = (
        f"Written by a language model, {first.source.model.name}, after {lm.steps:,} steps of class-conditional "
        f"language modelling on batches of {lm.batch_size}"
    )
    if isinstance(parent.method, DiLM):
        matched = parent.method
        text += (
            f" and {matched.steps:,} steps of gradient matching (DiLM, Maekawa et al., Findings of NAACL 2024) of "
            f"{matched.shots} texts per class with {matched.teachers.shots} real rows"
        )
    chosen = _selection(method) or "k-centres (k-means)"
    text += f": {method.candidates:,} texts per class, nucleus {method.sampling.top_p:g}"
    return f"{text}, of which {method.shots} were kept by {chosen}." if chosen != "no selection" else f"{text}."
