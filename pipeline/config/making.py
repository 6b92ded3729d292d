"""What every method of stage 2 says of itself: what it makes, and which other cell it starts from."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

from pipeline.config.schema import Frozen


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

    """

    makes: ClassVar[Literal["text", "embeddings", "vectors", "language model"]] = "text"
    parents: ClassVar[Parents | None] = None

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
