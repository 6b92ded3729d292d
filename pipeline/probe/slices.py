"""What a slice measures: seconds and FLOPs of each kind of work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline import work
from pipeline.config import Training
from pipeline.data.tokenised import Batch
from pipeline.students.encoder import Parameters, Student
from pipeline.students.finetune import finetune
from pipeline.students.scoring import score

Piece = tuple[str, Callable[[], object], float]  # kind of work, one repetition, its FLOPs
SECONDS = 3.0  # of each kind of work, once it is warm
MOST = 30  # repetitions
BATCHES = 4  # that are scored


class _Enough(Exception):  # noqa: N818  (no error)
    """The slice is long enough."""


class Stopwatch:
    """Wall and processor seconds of the parts of a slice."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def lap(self) -> tuple[float, float]:
        """(wall, processor) seconds since the last lap."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        now = time.perf_counter(), time.process_time()
        found = now[0] - self._wall, now[1] - self._cpu
        self._wall, self._cpu = now
        return found


class Slice:
    """What was measured.

    Attributes:
        startup: (wall, processor) seconds before the first step.
        rates: kind of work -> FLOPs and (wall, processor) seconds that they took.

    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.watch = folder, Stopwatch()
        self.startup = (0.0, 0.0)
        self.rates: dict[str, tuple[float, float, float]] = {}

    def begun(self) -> None:
        """All that comes before the first step is done."""
        self.startup = self.watch.lap()

    def repeat(self, kind: str, once: Callable[[], object], flops: Callable[[int], float]) -> None:
        """Measures ``once`` after a warm-up; ``flops`` of so many first repetitions, the warm-up included."""
        once()
        self.watch.lap()
        wall = cpu = 0.0
        count = 0
        while count < MOST and (count < 2 or wall < SECONDS):
            once()
            lap = self.watch.lap()
            wall, cpu, count = wall + lap[0], cpu + lap[1], count + 1
        self.rates[kind] = flops(count + 1) - flops(1), wall, cpu

    def scoring(self, student: Student, theta: Parameters, batches: list[tuple[torch.Tensor, Batch]]) -> None:
        """Some batches from the longest sentences to short ones."""
        every = max(1, len(batches) // BATCHES)
        chosen = batches[::-1][::every][:BATCHES]  # the longest one, which decides on the memory, among them
        lengths = torch.cat([batch["attention_mask"].sum(dim=1) for _, batch in chosen]).tolist()
        rows = [(torch.arange(len(positions)), batch) for positions, batch in chosen]
        passes = work.has_passes(self.folder)
        count = float(work.scored(self.folder, lengths, fused=passes))
        self.repeat("scoring", lambda: [score(student, theta, [one]) for one in rows], lambda n: n * count)

    def training(
        self, student: Student, size: int, examples: Callable[[Any], Batch], recipe: Training, flops: float
    ) -> None:
        """Steps of AdamW; ``flops`` is of one."""
        laps: list[tuple[float, float]] = []

        def watch(step: int, steps: int, loss: float) -> None:
            laps.append(self.watch.lap())
            if len(laps) >= 4 and (sum(wall for wall, _ in laps[2:]) > SECONDS or len(laps) > MOST):
                raise _Enough

        self.watch.lap()
        short = Training.model_validate(recipe.model_dump(include=set(Training.model_fields)) | {"epochs": None})
        try:
            finetune(student, student.initial(0, 0), size, examples, short, 0, 0, watch)
        except _Enough:
            student.training(False)
        kept = laps[2:] or laps
        self.rates["training"] = flops * len(kept), sum(wall for wall, _ in kept), sum(cpu for _, cpu in kept)

    def pieces(self, found: Sequence[Piece]) -> None:
        """Measures each, now that all that comes before the first step is done."""
        self.begun()
        for kind, once, each in found:
            self.repeat(kind, once, lambda n, each=each: n * each)  # type: ignore[misc]
