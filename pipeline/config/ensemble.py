"""Students of several encoders in one distillation: which sets they can learn together, and which data that takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.config.data import OTHER_SPLITS, Prepare
from pipeline.config.making import Making
from pipeline.config.text import Swaps, Text


def check_others(method: Making, source: Prepare, others: Sequence[Prepare]) -> None:
    """Refuses other encoders that cannot learn from what the method makes, or not beside the first one.

    Args:
        method: of the cell.
        source: the data of the encoder whose tokens the set has.
        others: those of the other encoders.

    Raises:
        ValueError: a method whose samples are no text all along, or data that differ in more than the encoder.

    """
    if not others:
        return
    if not isinstance(method, Text) or not isinstance(method.relaxation, Swaps):
        made = f"relaxation '{method.relaxation.name}' of" if isinstance(method, Text) else "what is made by"
        raise ValueError(
            f"others: {made} method '{method.name}' is not exchanged as text, which all that encoders have in common "
            f"is; write method: {{name: text, relaxation: {{name: swaps}}}}, or remove others"
        )
    seen = [source.model]
    for number, other in enumerate(others):
        if (key := other.split_otherwise(source)) is not None:
            raise ValueError(f"others.{number}.{key}: {OTHER_SPLITS}")
        if other.model.head == "language":
            raise ValueError(
                f"others.{number}.model: {other.model.name} is prepared as a language model, and students are "
                f"classifiers; remove head"
            )
        if other.model in seen:
            place = "that of prepare" if other.model == source.model else "given twice"
            raise ValueError(f"others.{number}.model: {other.model.name} is {place}; give every encoder once")
        seen.append(other.model)


def told_apart(slugs: Sequence[str]) -> Iterator[str]:
    """The encoders' readable names, numbered from the second one of a name on."""
    for at, slug in enumerate(slugs):
        before = slugs[:at].count(slug)
        yield f"{slug}.{before + 1}" if before else slug
