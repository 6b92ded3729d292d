"""Stage 2 from sets that are there: merged, replayed beside others, or with a part replaced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.making import Making, SmallSet
from pipeline.config.schema import Count, Frozen

if TYPE_CHECKING:
    from pipeline.config.methods import Distill

Made = Literal["text", "embeddings"]
_ALIKE = ("sequence_length", "attention_labels", "attention_weight", "inner_optimizer", "dropout", "precision", "order")


class Part(Frozen):
    """A set, or what is taken of it, and when students learn from it.

    Attributes:
        of: the cell of stage 2 that makes it; of its ``source`` only what differs from ``prepare`` is written, such as
            ``{task: sst2}`` where ``prepare`` joins SST-2 with others.
        classes: only the samples made for these of its own classes, counted from 0; ``null`` takes all.
        shots: only so many samples per class, the first ones; ``null`` takes all.
        repeat: how often each sample stands in the composed set. Batches are drawn evenly over samples, so that a few
            replayed beside thousands are seen more often the larger this is.
        phase: students learn from everything of phase 1 before anything of phase 2, and so on.

    """

    of: Distill
    classes: Annotated[tuple[Annotated[int, Field(ge=0)], ...] | None, Field(min_length=1)] = None
    shots: Count | None = None
    repeat: Count = 1
    phase: Count = 1


class Composed(Making):
    """A set put together of others: one student for several tasks, an old set replayed beside new data, an update.

    Sets of the cell's own task keep their labels; those of one of the tasks that it joins get theirs beside the
    others'. Sets of text are one larger set of text. Sets with steps of their own are learned from by these: in every
    phase the first steps of all parts as one, then their second ones, and so on, each sample moving a student as far
    as it does in its own set.
    """

    name: Literal["composed"]
    parts: Annotated[tuple[Part, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Composed:
        for number, part in enumerate(self.parts):
            _check_kind(f"parts.{number}", part, self.parts[0])
        phases = sorted({part.phase for part in self.parts})
        if phases != list(range(1, len(phases) + 1)):
            raise ValueError(f"parts: their phases are {', '.join(map(str, phases))}; count from 1 without gaps")
        return self

    def of(self, made: Sequence[Distill]) -> Composed:
        """The same of other cells, one for each part."""
        parts = zip(self.parts, made, strict=True)
        return self.model_copy(update={"parts": tuple(part.model_copy(update={"of": one}) for part, one in parts)})

    @property
    def makes(self) -> Made:  # type: ignore[override]
        """What all of its parts are."""
        return "embeddings" if self.parts[0].of.method.makes == "embeddings" else "text"

    @property
    def has_steps(self) -> bool:
        """Sets of embeddings have."""
        return self.parts[0].of.method.has_steps

    @property
    def is_drawn(self) -> bool:
        """Never, of the same parts."""
        return False

    @property
    def slug(self) -> str:
        """Readable part of the address."""
        names = [part.of.method.name for part in self.parts]
        return f"composed-{'+'.join(names)}"[:60]


def _check_kind(place: str, part: Part, first: Part) -> None:
    """Refuses a part that is no set, or that students cannot read together with the first one."""
    method, other = part.of.method, first.of.method
    if method.makes not in ("text", "embeddings") or method.name == "majority":
        what = "holds one row that nothing is trained on" if method.name == "majority" else f"makes {_a(method.makes)}"
        raise ValueError(f"{place}.of: '{method.name}' {what}; compose sets of text, or sets of input embeddings")
    if method.makes != other.makes:
        raise ValueError(
            f"{place}.of: '{method.name}' makes {method.makes} and '{other.name}' makes {other.makes}, which no batch "
            f"holds together; take sets of text alone (project makes text of embeddings), or of embeddings alone"
        )
    sized = method if isinstance(method, SmallSet) else None
    if part.shots is not None and (sized is None or (part.shots > sized.shots and sized.division == "uniform")):
        held = "has no number of samples per class" if sized is None else f"has {sized.shots} samples per class"
        raise ValueError(f"{place}.shots: {part.shots}, and '{method.name}' {held}; remove it, or give at most that")
    if method.makes == "embeddings" and part.repeat > 1:
        raise ValueError(
            f"{place}.repeat: the steps of '{method.name}' see each sample as often as they say; remove it"
        )
    for key in _ALIKE if method.name == other.name == "ddal" else ():
        ours, theirs = getattr(method, key), getattr(other, key)
        if ours != theirs:
            raise ValueError(
                f"{place}.of.method.{key}: {ours!r}, and that of the first part is {theirs!r}; students learn from all "
                f"parts in one way, so they have to be the same"
            )
    if part.classes is not None and len(set(part.classes)) < len(part.classes):
        raise ValueError(f"{place}.classes: one is given twice; give every class once")


def _a(what: str) -> str:
    return f"a {what}" if what == "language model" else what


def tasks_of(parts: Sequence[Part]) -> list[str]:
    """The names of the tasks that parts are of, each once, in their order."""
    return list(dict.fromkeys(part.of.source.task.name for part in parts))
