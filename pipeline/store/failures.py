"""Why an attempt at a cell ended: an exception as outcome and reason."""

from __future__ import annotations

import errno
import re
from typing import Literal

from pipeline.errors import InputError, StageError
from pipeline.stopping import Stopped
from pipeline.store.atomic import is_full

Outcome = Literal["done", "failed", "stopped", "killed"]
OUT_OF_MEMORY = "out of memory"
OUT_OF_GPU_MEMORY = f"{OUT_OF_MEMORY} on the GPU"  # which more memory of the node does not help
NO_MEMORY = (OUT_OF_MEMORY, OUT_OF_GPU_MEMORY)
_NO_MEMORY = re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory")
_NO_GPU_MEMORY = re.compile(r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED")


def describe(error: BaseException) -> tuple[Outcome, str, str | None]:
    """Outcome, reason and exception of an attempt that ``error`` ended (:class:`~pipeline.store.attempts.Attempt`)."""
    if isinstance(error, Stopped):
        return "stopped", f"signal {error.signal}", None
    if isinstance(error, KeyboardInterrupt | GeneratorExit):  # the latter: interrupted on the way into the block
        return "stopped", "signal SIGINT", None
    lines = str(error).strip().splitlines()
    exception = type(error).__name__ + (f": {lines[-1].strip()}" if lines else "")
    if type(error).__name__ == "OutOfMemoryError" or _NO_GPU_MEMORY.search(str(error)):
        return "failed", OUT_OF_GPU_MEMORY, exception
    named = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if named or _NO_MEMORY.search(str(error)):
        return "failed", OUT_OF_MEMORY, exception
    if isinstance(error, InputError | StageError):
        return "failed", str(error), exception
    if isinstance(error, OSError) and is_full(error):
        return "failed", "no space left on the disk", exception
    return "failed", "exception", exception
