"""What is said about an experiment that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import load
from pipeline.errors import InputError


def refusal(path: Path, *settings: str) -> str:
    """All mistakes of an experiment's file and of what is set beside it."""
    with pytest.raises(InputError) as raised:
        load(path, settings)
    return str(raised.value)
