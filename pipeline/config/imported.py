"""Stage 2 by others: a set that was published."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pipeline.config.files import FileByPath
from pipeline.config.making import SmallSet


class Imported(SmallSet):
    """A published set: DDAL's folder, DiLM's JSON lines, or the h5 file of RaT-BPTT and of the NYU project.

    Attributes:
        file: the folder, or the file.
        kind: what its samples are; who publishes a file says so, and recipes are checked against it before it is read.

    """

    name: Literal["imported"]
    file: FileByPath
    kind: Literal["text", "embeddings", "vectors"]

    @property
    def makes(self) -> Literal["text", "embeddings", "vectors"]:  # type: ignore[override]
        """As the config says."""
        return self.kind

    @property
    def has_steps(self) -> bool:
        """DDAL's have."""
        return self.kind == "embeddings"

    @property
    def is_drawn(self) -> bool:
        """Never."""
        return False

    @property
    def slug(self) -> str:
        """Readable part of the address."""
        return f"imported-{Path(self.file.path).stem.lower()}.{self.shots}shot"
