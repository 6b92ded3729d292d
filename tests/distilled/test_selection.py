"""What a file says of its selection, as later code may trust it."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.distilled.selection import selected_on

DEV, TEST, NONE = ({"selection": {"split": split}} for split in ("dev", "test", "none"))


@pytest.mark.parametrize(
    ("about", "split"),
    [
        ({}, "none"),
        (DEV, "dev"),
        (TEST, "test"),
        ({"selection": {"split": "unknown"}}, "unknown"),
        ({"imported": {"format": "ddal"}} | NONE, "unknown"),
        ({"composed": [NONE, DEV]} | NONE, "dev"),
        ({"composed": [{"composed": [TEST]} | NONE, DEV]} | NONE, "test"),
        ({"composed": [DEV, {"method": "imported"} | NONE]}, "unknown"),
        ({"composed": [TEST, {"method": "imported"} | NONE]}, "test"),
    ],
)
def test_what_says_most_counts(about: dict[str, Any], split: str) -> None:
    assert selected_on(about) == split
