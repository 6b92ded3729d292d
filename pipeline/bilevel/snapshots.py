"""Where the θ_t of the forward sweep wait for the recursion: on the device, the host, a disk, or nowhere."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.bilevel.descent import Point
from pipeline.bilevel.memory import free_memory

Where = Literal["auto", "device", "host", "disk", "recompute"]
Read = Callable[[], Tensor]


@dataclass(frozen=True)
class Snapshots:
    """Where snapshots go; the hypergradient is bit-equal whatever is chosen (with deterministic kernels).

    Attributes:
        where: ``device``, ``host`` (pinned memory; on a CPU the same as ``device``), ``disk`` (a temporary file without
            a name in ``$TMPDIR``), ``recompute`` (every ⌈√T⌉-th is kept and the steps between are run again), or
            ``auto``: the device if they fit the budget, else the host if they fit half of its free memory, else
            recomputed if those that are kept fit the budget, else the disk.
        budget: bytes for snapshots; ``None`` takes a quarter of what is free on the device.
        keep: bytes for activations of the forward sweep that the recursion can reuse, those of the last steps first;
            ``None`` keeps the last step's, whatever their size.

    """

    where: Where = "auto"
    budget: int | None = None
    keep: int | None = None


AUTO = Snapshots()


class Trail:
    """The points before each of ``steps`` on the forward sweep, taken back in reverse.

    Tensors that are the very same objects as in ``origin`` (word embeddings, which no step changes) take no room.

    Args:
        policy: where they go.
        origin: the point before step 0.
        steps: numbers of the steps that will be asked for.
        rerun: (point, steps) -> the point after each of them.

    Attributes:
        where: what was chosen; ``auto`` until something has to be kept.

    """

    def __init__(
        self, policy: Snapshots, origin: Point, steps: range, rerun: Callable[[Point, range], Iterator[Point]]
    ) -> None:
        self._policy, self._origin, self._steps, self._rerun = policy, origin, steps, rerun
        self._places: dict[int, list[Read]] = {}
        self._write: Callable[[Tensor], Read] | None = None
        self._stride = 1
        self.where: Where = "auto"

    def __len__(self) -> int:
        return len(self._places)

    def put(self, t: int, point: Point) -> None:
        """Keeps the point before step t, if it is one that is kept."""
        tensors = [tensor for vector in (point.theta, *point.state) for tensor in vector]
        fresh = [tensor for tensor, old in zip(tensors, self._unchanged(), strict=True) if tensor is not old]
        if fresh and self._write is None:
            self._decide(fresh)
        place = t - self._steps.start
        last_segment = (len(self._steps) - 1) // self._stride * self._stride
        if place % self._stride and place < last_segment:
            return
        self._hold(t, tensors)

    def pop(self, t: int) -> Point:
        """The point before step t, which must be the last that is left."""
        if t not in self._places:
            start = max(held for held in self._places if held < t)
            again = range(start, t)
            for step, point in zip(again, self._rerun(self._read(self._places[start]), again), strict=True):
                self._hold(step + 1, [tensor for vector in (point.theta, *point.state) for tensor in vector])
        return self._read(self._places.pop(t))

    def _unchanged(self) -> list[Tensor]:
        return [tensor for vector in (self._origin.theta, *self._origin.state) for tensor in vector]

    def _hold(self, t: int, tensors: list[Tensor]) -> None:
        write = self._write or _in_place
        self._places[t] = [
            _in_place(tensor) if tensor is old else write(tensor)
            for tensor, old in zip(tensors, self._unchanged(), strict=True)
        ]

    def _read(self, places: list[Read]) -> Point:
        tensors = [read() for read in places]
        size = len(self._origin.theta)
        vectors = [tuple(tensors[first : first + size]) for first in range(0, len(tensors), size)]
        return Point(vectors[0], tuple(vectors[1:]))

    def _decide(self, fresh: list[Tensor]) -> None:
        """Chooses the place, when the size of a snapshot is known."""
        device = fresh[0].device
        size = sum(tensor.numel() * tensor.element_size() for tensor in fresh)
        stride = math.isqrt(max(0, len(self._steps) - 1)) + 1
        where = self._policy.where
        if where == "auto":
            budget = free_memory(device) // 4 if self._policy.budget is None else self._policy.budget
            if size * len(self._steps) <= budget:
                where = "device"
            elif device.type == "cuda" and size * len(self._steps) <= free_memory(torch.device("cpu")) // 2:
                where = "host"
            else:
                where = "recompute" if size * 2 * stride <= budget else "disk"
        self.where = where
        self._stride = stride if where == "recompute" else 1
        on_host = where == "host" and device.type == "cuda"
        self._write = _Disk() if where == "disk" else _on_host if on_host else _in_place


def _in_place(tensor: Tensor) -> Read:
    return lambda: tensor


def _on_host(tensor: Tensor) -> Read:
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
    device = tensor.device
    return lambda: copy.to(device, non_blocking=True)


class _Disk:
    """A temporary file without a name: its room is free again when this object is gone, however the process ends."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (open as long as this object)

    def __call__(self, tensor: Tensor) -> Read:
        """Appends the tensor; written and read, never mapped, so that it does not count as the process's memory."""
        offset = self._file.seek(0, os.SEEK_END)
        _whole(self._file.write, tensor.cpu())
        shape, dtype, device = tensor.shape, tensor.dtype, tensor.device

        def read() -> Tensor:
            self._file.seek(offset)
            found = torch.empty(shape, dtype=dtype)
            _whole(self._file.readinto, found)
            return found.to(device)

        return read


def _whole(move: Callable[[memoryview], int | None], tensor: Tensor) -> None:
    """Reads or writes all bytes of a tensor; one call of the system moves at most 2 GiB."""
    left = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    while left:
        done = move(left)
        if not done:
            raise OSError(f"a snapshot of {tensor.nbytes} bytes was cut short in {tempfile.gettempdir()}")
        left = left[done:]
