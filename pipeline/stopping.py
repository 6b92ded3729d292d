"""A signal that asks this process to stop: a flag for loops that look at it, an exception at once everywhere else.

A loop whose work would be lost runs inside :func:`polled`: there a signal only sets a flag, which the loop looks at
where it can save, with :func:`requested` or :func:`check`. Everything else (imports, loading a model, a gradient check)
has nothing to save: there the handler itself raises :class:`Stopped`, so that the process ends at once. Files are whole
either way, because each is written aside and moved into place.

Nothing here happens outside :func:`listen`: a notebook keeps its own handlers. Every command line listens, by
:func:`guarded`.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from pipeline.errors import InputError, StageError

# Where ranks were sent different ones the first of these counts: what a user stopped or cancelled is not requeued.
SIGNALS = tuple(name for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))
REQUEUE = ("SIGUSR1", "SIGUSR2")  # sent ahead of a time limit or a pre-emption: the job should be queued again
REQUEUE_STATUS = 85
_STATUS = {"SIGINT": 130, "SIGTERM": 143}
_ECHO = 1.0  # seconds: a launcher passes a signal on to processes that the terminal or SLURM reached already


class Stopped(BaseException):
    """A signal asked this process to stop; what it had done is saved.

    Not an ``Exception``: nobody who catches failures should take it for one.

    Args:
        signal: its name, such as ``SIGTERM``.

    """

    def __init__(self, signal: str) -> None:
        super().__init__(signal)
        self.signal = signal

    @property
    def status(self) -> int:
        """The exit status that says so: 85 to be queued again, 143 (SIGTERM) or 130 (SIGINT) as shells have it."""
        return REQUEUE_STATUS if self.signal in REQUEUE else _STATUS[self.signal]


@dataclass
class _State:
    listening: int = 0
    polling: int = 0
    signal: str | None = None
    interrupts: int = 0
    heard: float = -math.inf


_state = _State()


@contextmanager
def listen() -> Iterator[None]:
    """Hears SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 inside; afterwards the handlers from before are back.

    A second SIGINT raises ``KeyboardInterrupt``, wherever it comes. May be nested. Does nothing in another thread than
    the main one, where Python has no handlers.
    """
    if not _in_main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (getattr(signal, name) for name in SIGNALS)}
    if before[signal.SIGINT] is signal.SIG_IGN:  # started with & by a script: its Ctrl-C is not for us
        del before[signal.SIGINT]
    if not _state.listening:
        _state.signal, _state.interrupts, _state.heard = None, 0, -math.inf
    _state.listening += 1
    try:
        for number in before:
            signal.signal(number, _hear)
        yield
    finally:
        _state.polling += 1  # no exception from here on
        _state.listening -= 1
        for number, handler in before.items():
            signal.signal(number, _afterwards(number, handler))
        if not _state.listening:
            _state.signal = None
        _state.polling -= 1


@contextmanager
def polled() -> Iterator[None]:
    """Inside, a signal only sets the flag: for work that ends badly in the middle, and that looks often, or is short.

    May be nested. Leaving it raises nothing: the work may have been the last there was.
    """
    if not _in_main_thread():
        yield
        return
    _state.polling += 1
    try:
        yield
    finally:
        _state.polling -= 1


@contextmanager
def unheard() -> Iterator[None]:
    """Inside, a signal kills the process at once: for a long wait in C++ with nothing to lose.

    Python runs its handlers between its own instructions only, so that until then a signal would do nothing.

    Raises:
        Stopped: a signal came before.

    """
    ours = [number for number in (getattr(signal, name) for name in SIGNALS) if signal.getsignal(number) is _hear]
    if not _in_main_thread() or not ours:
        yield
        return
    check()
    try:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        yield
    finally:
        for number in ours:
            signal.signal(number, _hear)


def requested() -> str | None:
    """The name of the first signal that came since :func:`listen`, or ``None``."""
    return _state.signal


def check() -> None:
    """Raises if a signal came.

    Raises:
        Stopped: with its name.

    """
    if _state.signal is not None:
        raise Stopped(_state.signal)


def guarded(command: Callable[[], object]) -> None:
    """Runs a command line; what the user can mend is one sentence on standard error and exit status 2.

    A signal stops it with a sentence and a status of its own: 85 asks for the job to be queued again, 143 and 130 do
    not.
    """
    with listen():
        try:
            command()
        except (InputError, StageError) as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        except Stopped as stopped:
            request = "; requeue me" if stopped.signal in REQUEUE else ""
            print(f"stopped by {stopped.signal}; saved{request}: the same command goes on from there", file=sys.stderr)
            raise SystemExit(stopped.status) from None
        except KeyboardInterrupt:
            print("\ninterrupted; the same command continues from the last save", file=sys.stderr)
            raise SystemExit(130) from None


def _hear(number: int, frame: FrameType | None) -> None:
    name, now = signal.Signals(number).name, time.monotonic()
    first = _state.signal is None
    if not first and now - _state.heard < _ECHO:
        return
    _state.heard = now
    again = name == "SIGINT" and _state.interrupts > 0
    _state.interrupts += name == "SIGINT"
    if first:
        _state.signal = name
        with suppress(OSError):  # nobody may be reading any more
            os.write(2, f"{name}: saving and stopping\n".encode())
    if again:
        raise KeyboardInterrupt
    if not _state.polling:
        check()


def _afterwards(number: int, handler: object) -> signal.Handlers | signal._HANDLER:
    """The handler to leave behind: ``before``, but a late echo must not kill the process with another status."""
    echo = _state.signal is not None and not _state.listening and signal.Signals(number).name in REQUEUE
    if handler is None or (echo and handler is signal.SIG_DFL):
        return signal.SIG_IGN if echo else signal.SIG_DFL
    return handler  # type: ignore[return-value]


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
