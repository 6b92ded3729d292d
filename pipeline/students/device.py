"""Where a cell runs."""

from __future__ import annotations

import torch

from pipeline.config import Runtime
from pipeline.errors import InputError


def pick_device(runtime: Runtime) -> torch.device:
    """The device that ``runtime`` asks for; sets the number of CPU threads.

    Raises:
        InputError: torch has no such device here.

    """
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    if runtime.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=runtime.device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"runtime.device: '{runtime.device}' is not to be had here; allowed: auto, cpu, cuda, cuda:N"
        ) from error
