"""What a user typed after a command's name: messages say it again, whole, so that it can be pasted."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from pipeline.config.schema import Frozen

_LACKS = {"cancel": ("only",), "check-grad": ("only",)}  # options that a command has not


class Typed(Frozen):
    """An experiment as a command line gives it: with other settings it would be another one.

    Attributes:
        config: the path of its file.
        settings: of every ``--set``.
        only: of every ``--only``.
        root: of ``--root``.
        cluster_file: of ``--cluster-file``.

    """

    config: str = "CONFIG"
    settings: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    root: str | None = None
    cluster_file: str | None = None

    def command(self, name: str, *words: str) -> str:
        """The command line ``python -m pipeline NAME CONFIG WORDS`` about the same cells, as far as it has options."""
        lacks = _LACKS.get(name, ())
        return shlex.join(["python", "-m", "pipeline", name, self.config, *words, *self._options(lacks)])

    def stage(self, start: str) -> str:
        """The command line of a stage alone: ``start``, a module's or its script's, and what follows it."""
        return f"{start} {shlex.join([self.config, *self._options(('cluster_file',))])}"

    def _options(self, lacks: tuple[str, ...]) -> Iterator[str]:
        for one in self.settings:
            yield from ("--set", one)
        for one in self.only if "only" not in lacks else ():
            yield from ("--only", one)
        if self.root is not None and "root" not in lacks:
            yield from ("--root", self.root)
        if self.cluster_file is not None and "cluster_file" not in lacks:
            yield from ("--cluster-file", self.cluster_file)
