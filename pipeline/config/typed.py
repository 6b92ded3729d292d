"""What a user typed after a command's name: messages say it again, whole, so that it can be pasted."""

from __future__ import annotations

import shlex

from pipeline.config.schema import Frozen


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
        """The command line ``python -m pipeline NAME WORDS`` about the same cells; ``cancel`` is for whole grids."""
        return self._line("pipeline", [name], words, only=name != "cancel", root=name != "cancel", cluster_file=True)

    def module(self, module: str, *words: str) -> str:
        """The command line of a stage, ``python -m MODULE WORDS``; it reads no cluster's file."""
        return self._line(module, [], words, only=True, root=True, cluster_file=False)

    def _line(
        self, module: str, name: list[str], words: tuple[str, ...], *, only: bool, root: bool, cluster_file: bool
    ) -> str:
        line = ["python", "-m", module, *name, self.config, *words]
        line += [word for one in self.settings for word in ("--set", one)]
        line += [word for one in self.only for word in ("--only", one)] if only else []
        line += ["--root", self.root] if root and self.root else []
        line += ["--cluster-file", self.cluster_file] if cluster_file and self.cluster_file else []
        return shlex.join(line)
