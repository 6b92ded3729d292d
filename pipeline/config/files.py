"""Files of the user's that a method reads."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from pipeline.config.schema import Frozen


class LocalFile(Frozen):
    """A file, or a folder, of the user's; it counts by its content."""

    path: str


def _file_by_path(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


FileByPath = Annotated[LocalFile, BeforeValidator(_file_by_path)]
