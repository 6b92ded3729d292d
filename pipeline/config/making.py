"""What every method of stage 2 says of itself: what it makes, how much of it, and from which other cell."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

from pipeline.config.schema import Count, Frozen

Budget = Literal["uniform", "prior", "sqrt"]


class Parents(NamedTuple):
    """The cells of stage 2 that a method starts from.

    Attributes:
        names: of their methods.
        purpose: what for, as the end of a sentence: ``to start from``.
        required: whether there has to be one.
        same_encoder: whether it has to be of the child's own encoder.

    """

    names: tuple[str, ...]
    purpose: str
    required: bool = True
    same_encoder: bool = False


class Making(Frozen):
    """A way to make something small of a training split.

    Attributes:
        makes: what a set's samples are: ``text`` (token ids, which any encoder's tokenizer can be given), input
            ``embeddings`` of one encoder, or sentence ``vectors``; a ``language model`` is no set.
        parents: the cells that it starts from; ``None`` where it takes none.
        of_rows: whether samples are training rows as they are.
        name: tells methods apart.
        revision: of what it computes.

    """

    makes: ClassVar[Literal["text", "embeddings", "vectors", "language model"]] = "text"
    parents: ClassVar[Parents | None] = None
    of_rows: ClassVar[bool] = False

    name: str
    revision: int = 1

    @property
    def has_steps(self) -> bool:
        """Whether a set has T steps of its own, by which students learn from it."""
        return False

    @property
    def shared(self) -> tuple[str, ...]:
        """Keys of the method whose values its parent's method has to have too."""
        return ()

    @property
    def is_drawn(self) -> bool:
        """Whether another seed may make something else of the same inputs."""
        return True

    @property
    def slug(self) -> str:
        """Readable part of the address."""
        return self.name

    def planned_steps(self, rows: int) -> int | None:
        """Optimiser steps in all, on so many training rows; ``None`` where none are saved on the way."""
        return None


class SmallSet(Making):
    """A method that makes a set of a chosen size.

    Attributes:
        shots: samples per class, or their mean.

    """

    shots: Count = 1

    @property
    def division(self) -> Budget:
        """How classes x shots samples are divided."""
        return "uniform"

    @property
    def slug(self) -> str:
        """Readable part of the address."""
        return f"{self.name}.{self.shots}shot"
