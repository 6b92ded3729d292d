"""Every random draw is a pure function of (seed, purpose, step); nothing depends on a global generator's history."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, purpose: str, *steps: int) -> int:
    """A 63-bit seed for one draw: the start of SHA-256 of its name."""
    name = ":".join([str(seed), purpose, *map(str, steps)])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, purpose: str, *steps: int) -> torch.Generator:
    """A CPU generator for one draw; draws are made on the CPU so that every device sees the same ones."""
    return torch.Generator().manual_seed(derive(seed, purpose, *steps))


def numpy_generator(seed: int, purpose: str, *steps: int) -> np.random.Generator:
    """NumPy's generator for one draw."""
    return np.random.default_rng(derive(seed, purpose, *steps))


@contextmanager
def seeded(seed: int, purpose: str, *steps: int) -> Iterator[None]:
    """Global torch generators set for one draw inside the block, as they were before after it.

    For code of other libraries that draws from the global generator: weight initialisation, dropout.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(seed, purpose, *steps))
        yield
