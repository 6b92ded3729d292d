"""Commands in processes of their own that need not import torch again.

A fork server imports what all commands need, once, and computes nothing; every command is a fork of it, with its own
arguments, environment, folder, output, signals and exit status. How a fresh interpreter starts is not seen here: some
tests of every command start one.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
_FORKS = multiprocessing.get_context("forkserver")
# What the stages import, but not the stages: `python -m` runs these anew.
_FORKS.set_forkserver_preload(
    [
        *("datasets", "matplotlib.figure", "matplotlib.backends.backend_agg", "pandas", "sklearn.metrics"),
        *("torch", "torch._dynamo", "torch.distributed", "transformers", "typer.main"),
        *("pipeline.launch", "pipeline.methods.ddal", "pipeline.evaluation.protocols", "pipeline.distilled"),
    ]
)


class Forked:
    """A running command; attributes and methods are those of ``subprocess.Popen``.

    Args:
        call: what the process does; can be pickled.
        words: its command line, without the program.
        environment: what is set beside this process's environment.

    """

    def __init__(
        self, call: Callable[[], object], *words: object, environment: Mapping[str, str] | None = None
    ) -> None:
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with mock.patch.dict(os.environ, own):
            forkserver.ensure_running()
        self._folder = tempfile.TemporaryDirectory()
        self._files = [str(Path(self._folder.name, name)) for name in ("out", "err")]
        whole = {**os.environ, **own, **(environment or {})}
        self._process = _FORKS.Process(target=_run, args=(call, [str(word) for word in words], whole, self._files))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """Its exit status, or minus the signal that killed it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it a signal, unless it is over."""
        if self.poll() is None:
            assert self._process.pid is not None
            os.kill(self._process.pid, number)

    def terminate(self) -> None:
        """Asks it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """Ends it."""
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, as soon as it has one."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it said, standard output and error, when it is over."""
        self.wait(timeout)
        return self.said()

    def said(self) -> tuple[str, str]:
        """What it has said so far, standard output and error."""
        out, err = (path.read_text() if path.exists() else "" for path in map(Path, self._files))
        return out, err


def module(name: str) -> Callable[[], object]:
    """What ``python -m NAME`` does."""
    return partial(runpy.run_module, name, run_name="__main__", alter_sys=True)


def completed(name: str, *words: object, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """``python -m NAME WORDS`` to its end."""
    process = Forked(module(name), *words)
    try:
        out, err = process.communicate(timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess([name, *words], process.wait(), out, err)


def _popen(command: Sequence[str], *, env: Mapping[str, str], start_new_session: bool) -> Forked:
    assert command[:2] == [sys.executable, "-m"]
    return Forked(module(command[2]), *command[3:], environment=env)


def _completed(command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
    assert command[:2] == [sys.executable, "-m"]
    return completed(*command[2:])


# The module ``subprocess`` as far as the product uses it for commands of its own.
SUBPROCESS = SimpleNamespace(Popen=_popen, run=_completed, TimeoutExpired=subprocess.TimeoutExpired)


def _run(call: Callable[[], object], words: list[str], environment: dict[str, str], files: list[str]) -> None:
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, str(ROOT))
    sys.argv = ["python", *words]
    call()
