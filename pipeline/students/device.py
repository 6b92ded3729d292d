"""Where a cell runs."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys

import torch

from pipeline.config import Runtime
from pipeline.errors import InputError
from pipeline.store.usage import UNUSED_GPUS


def pick_device(runtime: Runtime) -> torch.device:
    """The device that ``runtime`` asks for; sets the number of CPU threads, and how memory is kept on a CPU.

    A job that was given GPUs and computes on the CPU nevertheless says so on standard error, once in every log.

    Raises:
        InputError: torch has no such device here.

    """
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    keep_freed_memory()
    if runtime.device == "auto":
        found = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if found.type == "cpu" and (given := _given_gpus()):
            _say_unused(given, os.environ.get("TEXTDD_LOG"))
        return found
    try:
        return torch.empty(0, device=runtime.device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"runtime.device: '{runtime.device}' is not to be had here; allowed: auto, cpu, cuda, cuda:N"
        ) from error


def _given_gpus() -> str:
    """The variable by which SLURM, or a user, gave this process GPUs, with its value; empty where there is none."""
    for name in ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "CUDA_VISIBLE_DEVICES"):
        if os.environ.get(name, "") not in ("", "-1", "NoDevFiles"):
            return f"{name}={os.environ[name]}"
    return ""


@functools.cache
def _say_unused(given: str, log: str | None) -> None:
    print(
        f"{UNUSED_GPUS} ({given}), but torch {torch.__version__} sees none, so that this runs on the CPU; "
        f"python -m pipeline doctor in such a job says why",
        file=sys.stderr,
        flush=True,
    )


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory for the next step instead of giving it back to the system.

    A step frees and allocates gigabytes in blocks of megabytes; taking each anew from the system, page by page, costs
    a tenth of its time and more. Does nothing with another C library.
    """
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of mallopt(3)
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        # 32 MiB is the most that glibc takes; whole parameter vectors stay above it, where they leave no holes
        library.mallopt(mmap_threshold, 32 << 20)
        library.mallopt(trim_threshold, 2**31 - 1)
