"""What a process used while it was at a cell: processor, memory, GPU; written every few seconds, for kill -9."""

from __future__ import annotations

import os
import platform
import resource
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEAT_SECONDS = 15.0  # between two readings that are written down
UNUSED_GPUS = "warning: GPUs were given"  # how a log says so that torch sees none of them; `status` looks for it
_MIB = 2**20


@dataclass(frozen=True)
class Usage:
    """What was used between two moments of a process.

    Attributes:
        cpu_seconds: processor seconds of all threads, in user and kernel mode, and of child processes that have ended.
        peak_mb: the most main memory (MiB) that the process held in between, with what earlier work in it did not give
            back; where the system cannot forget an earlier peak (not Linux), since the process began.
        threads: that torch computes with; ``None`` while it is not imported.
        cpu: model of the processor.
        gpu: name of the GPU that it put tensors on, if any.
        gpu_seconds: wall seconds, where there were tensors on a GPU: it is taken all the while; else 0.
        gpu_peak_mb: the most GPU memory (MiB) that torch reserved.
        gpu_allocated_mb: the most GPU memory (MiB) that tensors had.

    """

    cpu_seconds: float
    peak_mb: float
    threads: int | None
    cpu: str
    gpu: str | None
    gpu_seconds: float
    gpu_peak_mb: float | None
    gpu_allocated_mb: float | None


class Meter:
    """Begins to measure this process."""

    def __init__(self) -> None:
        self._began, self._cpu = time.monotonic(), _cpu_seconds()
        self._held = 0  # bytes on the GPU of what came before
        self._gpu: tuple[str, float, float] | None = None
        with suppress(OSError):  # Linux: the peak is what is held now
            Path("/proc/self/clear_refs").write_text("5")
        with suppress(RuntimeError):  # of a device that was lost
            if (cuda := _cuda()) is not None:
                cuda.reset_peak_memory_stats()
                self._held = cuda.max_memory_allocated()

    def read(self) -> Usage:
        """What was used since."""
        self._look_at_gpu()
        gpu, reserved, allocated = self._gpu or (None, None, None)
        count = getattr(sys.modules.get("torch"), "get_num_threads", None)  # torch may be half imported
        return Usage(
            cpu_seconds=round(_cpu_seconds() - self._cpu, 3),
            peak_mb=_peak_mb(),
            threads=None if count is None else count(),
            cpu=cpu_model(),
            gpu=gpu,
            gpu_seconds=0.0 if gpu is None else round(time.monotonic() - self._began, 3),
            gpu_peak_mb=reserved,
            gpu_allocated_mb=allocated,
        )

    def _look_at_gpu(self) -> None:
        """Remembers the last answer: a device that was lost gives none."""
        with suppress(RuntimeError):
            if (cuda := _cuda()) is not None and cuda.max_memory_allocated() > self._held:
                peaks = cuda.max_memory_reserved(), cuda.max_memory_allocated()
                self._gpu = (cuda.get_device_name(), *(round(peak / _MIB, 1) for peak in peaks))


class Beat:
    """Calls ``note`` every :data:`BEAT_SECONDS` on a thread of its own, until :meth:`stop`."""

    def __init__(self, note: Callable[[], None]) -> None:
        self._note, self._stopped, self._noting = note, threading.Event(), threading.Lock()
        threading.Thread(target=self._run, args=(BEAT_SECONDS,), name="usage", daemon=True).start()

    def stop(self) -> None:
        """When this returns, ``note`` is not running and will not be called again."""
        self._stopped.set()
        with self._noting:
            pass

    def _run(self, seconds: float) -> None:
        while not self._stopped.wait(seconds):
            with self._noting:
                if not self._stopped.is_set():
                    self._note()


def cpu_model() -> str:
    """The processor's name, as the system has it."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _peak_mb() -> float:
    """Linux's ``VmHWM``, which :class:`Meter` resets; elsewhere the peak of the whole process."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return round(int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB, 1)


def _cuda() -> Any:
    """``torch.cuda`` where this process computes on a GPU; imports nothing."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    initialised = getattr(cuda, "is_initialized", None)  # torch may be half imported when a signal comes
    return cuda if initialised is not None and initialised() else None
