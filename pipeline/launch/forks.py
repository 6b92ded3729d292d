"""Elements as forks of one process that has imported what they import, which takes a fresh one six CPU seconds.

That process computes nothing: it forks for every line that it reads from one pipe, and writes into another who began
and how each ended. A fork inherits modules and nothing that was computed, and no cell draws from a global generator: it
has the results that it has in a process of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

from pipeline.launch.element import run_element
from pipeline.stopping import guarded

_IMPORTED = (
    *("pipeline.stage2_distill", "pipeline.stage3_evaluate", "pipeline.methods.ddal", "pipeline.evaluation.protocols"),
    *("torch._dynamo", "transformers.models.bert.modeling_bert", "transformers.core_model_loading"),
)
_GPUS = ("nvidiactl", "nvhost-gpu", "kfd", "dxg")  # of NVIDIA, Jetson, AMD, and Windows underneath
_PAUSE = 0.05  # seconds between two looks at who ended


def possible() -> bool:
    """Whether processes that have imported torch may be forked: on Linux, where no GPU is that one might look at."""
    if sys.platform != "linux" or any(Path("/dev", name).exists() for name in _GPUS):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # an old kernel, or a sandbox
        return False
    return True


class Template:
    """The process that is forked.

    Args:
        environment: of it and of its forks, which look up nothing on the hub.

    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        code = f"from pipeline.launch.forks import serve; serve({requests}, {replies})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**environment, "HF_HUB_OFFLINE": "1"},
            start_new_session=True,
            pass_fds=(requests, replies),
            stdin=subprocess.DEVNULL,
        )
        os.close(requests)
        os.close(replies)
        self._heard, self._ended, self._ready = b"", dict[int, int](), False

    @property
    def lives(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def ready(self) -> bool:
        """Whether it has imported everything, and lives."""
        self._hear()
        return self._ready and self.lives

    def start(self, folder: Path, array: str, index: int) -> Fork:
        """One element of the submission in this folder.

        Raises:
            OSError: the template has ended, or this machine has no room for another process.

        """
        os.write(self._requests, (json.dumps([str(folder), array, index]) + "\n").encode())
        lived, began = True, None
        while began is None and lived:
            lived = self.lives
            began = self._hear(wait=True)
        if not began:
            raise ChildProcessError("nothing could be forked")
        return Fork(self, began)

    def status(self, pid: int) -> int | None:
        """How a fork ended, if that was heard."""
        self._hear()
        return self._ended.get(pid)

    def close(self) -> None:
        """Ends it; forks that still run go on."""
        os.close(self._requests)
        os.close(self._replies)
        self._process.terminate()
        self._process.wait()

    def _hear(self, *, wait: bool = False) -> int | None:
        """Takes in its replies; the fork that began, if one of them says so, or 0 if none could."""
        began = None
        while select.select([self._replies], [], [], _PAUSE if wait and began is None else 0)[0]:
            said = os.read(self._replies, 4096)
            if not said:
                break
            *lines, self._heard = (self._heard + said).split(b"\n")
            for line in lines:
                match json.loads(line):
                    case ["ready"]:
                        self._ready = True
                    case ["began", pid]:
                        began = pid
                    case ["ended", pid, status]:
                        self._ended[pid] = status
        return began


class Fork:
    """A running element; attributes and methods are those of ``subprocess.Popen``."""

    def __init__(self, template: Template, pid: int) -> None:
        self._template, self.pid = template, pid
        self.returncode: int | None = None
        self._process: int | None = None
        with contextlib.suppress(ProcessLookupError):  # it ended already
            self._process = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Its exit status, or minus the signal that killed it; ``None`` while it runs.

        Where the template ended before it, nobody knows, and it is 1.
        """
        if self.returncode is None:
            lost = not self._template.lives and self._over()
            self.returncode = self._template.status(self.pid)
            if self.returncode is None and lost:
                self.returncode = 1
            if self.returncode is not None and self._process is not None:
                os.close(self._process)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The same, as soon as it has one.

        Raises:
            subprocess.TimeoutExpired: after so many seconds.

        """
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(_PAUSE)
        return status

    def terminate(self) -> None:
        """Asks it to end."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.poll() is None and self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it ended, which is not heard yet
                signal.pidfd_send_signal(self._process, number)

    def _over(self) -> bool:
        return self._process is None or bool(select.select([self._process], [], [], 0)[0])


def serve(requests: int, replies: int) -> None:
    """Forks at every request, until there are no more and all forks have ended; the numbers are those of two pipes."""
    for name in _IMPORTED:
        importlib.import_module(name)
    _say(replies, "ready")
    heard, running, listening = b"", set[int](), True
    while listening or running:
        if listening and select.select([requests], [], [], _PAUSE)[0]:
            said = os.read(requests, 4096)
            listening = bool(said)
            *lines, heard = (heard + said).split(b"\n")
            for line in lines:
                sys.stdout.flush()
                sys.stderr.flush()
                try:
                    pid = os.fork()
                except OSError:
                    _say(replies, "began", 0)
                    continue
                if pid == 0:
                    os.close(requests)
                    os.close(replies)
                    _become(*json.loads(line))
                running.add(pid)
                _say(replies, "began", pid)
        elif not listening:
            time.sleep(_PAUSE)
        while running and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            running.remove(ended[0])
            _say(replies, "ended", ended[0], os.waitstatus_to_exitcode(ended[1]))


def _become(folder: str, array: str, index: int) -> None:
    """What ``python -m pipeline.launch`` does with these words."""
    status = 1
    try:
        os.setsid()
        guarded(lambda: run_element(folder, array, index))
        status = 0
    except SystemExit as stopped:
        status = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _say(replies: int, *words: object) -> None:
    with contextlib.suppress(BrokenPipeError):  # who asked has gone; the forks go on
        os.write(replies, (json.dumps(words) + "\n").encode())
