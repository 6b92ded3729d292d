"""On which split a set's checkpoint was selected, as far as its file says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

SelectedOn = Literal["none", "dev", "unknown", "test"]
UNKNOWN: dict[str, Any] = {"split": "unknown"}  # ``about["selection"]`` of what others published

IN_WORDS: dict[SelectedOn, str] = {
    "dev": "dev",
    "test": "test",
    "unknown": "an unknown split, if on any (published by others)",
}  # what follows on ``selected on``

_ORDER: tuple[SelectedOn, ...] = ("none", "dev", "unknown", "test")


def selected_on(about: Mapping[str, Any]) -> SelectedOn:
    """The split; of a set that is put together of others the last of ``none, dev, unknown, test`` that a part has.

    A set that others published says of no split that it selected nothing, also where an earlier version of this file
    wrote so.

    Args:
        about: of a set, or what a composed set's has of one part.

    """
    split: SelectedOn = about.get("selection", {}).get("split", "none")
    published = "imported" in about or about.get("method") == "imported"
    own: SelectedOn = "unknown" if published else split
    return max((own, *map(selected_on, about.get("composed", ()))), key=_ORDER.index)
