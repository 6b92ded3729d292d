"""Files of the user's that a method reads."""

from __future__ import annotations

from typing import Annotated

from pipeline.config.schema import Frozen, by_key


class LocalFile(Frozen):
    """A file, or a folder, of the user's; it counts by its content."""

    path: str


FileByPath = Annotated[LocalFile, by_key("path")]
