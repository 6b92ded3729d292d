"""A row of a table: a method with its budget."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["majority", "zero-shot", "random", "coreset", "ddal", "full", "mixture"]


class Row(NamedTuple):
    """A method and its budget; rows sort in the order of the paper's tables.

    ``data`` says what the T inner steps see: ``same`` (every step the whole set), ``different`` blocks of it,
    ``random`` draws, or ``-`` where there is one step. ``on_test``: its checkpoint, or that of a part of it, was
    selected on the test split.
    ``kind``: ``ddal`` stands for every learned set, ``mixture`` for all rows of one task beside something of another,
    or of several tasks. ``network``: who learns from vectors, empty where students learn
    from text; ``student``: by which recipe, too.
    """

    order: tuple[int, ...]
    method: str
    kind: Kind
    steps: int | None
    shots: int | None
    data: str
    on_test: bool
    student: str = ""
    network: str = ""

    @property
    def competes(self) -> bool:
        """Whether it is a small set; full data, majority and zero-shot are references."""
        return self.kind in ("random", "coreset", "ddal")

    @property
    def is_constant(self) -> bool:
        """Whether nothing about it is drawn, so that a single run is all there is."""
        return self.kind in ("majority", "zero-shot")

    @property
    def budget(self) -> str:
        """Such as ``3 steps, 1 shot, same``; empty for full data and majority."""
        parts = [f"{n} {word}{'' if n == 1 else 's'}" for n, word in ((self.steps, "step"), (self.shots, "shot")) if n]
        return ", ".join([*parts, self.data] if self.data not in ("", "-") else parts)
