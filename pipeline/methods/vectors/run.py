"""One outer step on vectors, where its window lies, and the stages in which a set grows (RaT-BPTT, Boost-DD)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import get_scheduler

from pipeline.bilevel import Parameters, descend, hypergradient
from pipeline.config import BPTT
from pipeline.data.vectors import VectorSplit
from pipeline.methods.imbalance import counts_of, outer_loss, real_order
from pipeline.methods.loop import Best
from pipeline.methods.outer import Estimation
from pipeline.methods.vectors.set import LearnedVectors, initial_tensors
from pipeline.parallel import Ranks
from pipeline.randomness import derive, numpy_generator
from pipeline.students.vector_training import score
from pipeline.students.vectors import VectorStudent


class VectorRun:
    """The learned vectors with their optimiser, schedule, window and best state so far: all that a resumed run needs.

    A stage of Boost-DD begins with the samples that the one before it selected, and with an optimiser of its own.

    Attributes:
        step: outer steps that are taken, of all stages.
        learned: the current set.
        best: its best state so far in this stage.
        selected: the best state of every stage that is over.
        average: of the gradient's length; ``None`` before the first step of a stage.
        position: where a window that goes forward is; ``stale``: validations since it last helped.
        hardness: [rows] loss of every training row, for ``hard_mining``.

    """

    learned: LearnedVectors
    optimizer: torch.optim.Optimizer
    best: Best
    average: float | None
    position: int
    stale: int

    def __init__(
        self, method: BPTT, train: VectorSplit, classes: int, student: VectorStudent, seed: int, estimator: Estimation
    ) -> None:
        self.method, self.train, self.classes, self.student, self.seed = method, train, classes, student, seed
        self.estimator, self.ranks = estimator, Ranks()
        rows = len(train.labels)
        self.order = real_order(train.labels, np.zeros(rows, dtype=np.int64), classes, method.outer, seed)
        self.loss = outer_loss(method.outer.loss, counts_of(train.labels, classes))
        self.epoch_steps = self.order.batches_per_epoch
        self.steps = method.outer.steps * len(method.stages)
        self.step, self.hardness = 0, torch.zeros(0)
        self.selected: list[Best] = []
        self._begin(initial_tensors(method, train, classes, method.stages[0], seed))

    @property
    def stage(self) -> int:
        """Number of the current stage."""
        return len(self.selected)

    @property
    def validates(self) -> bool:
        """Whether the set is scored after the step that was just taken."""
        return self.step % self.method.outer.steps % self.method.every == 0

    @property
    def learning_rate(self) -> float:
        """Step size of the inner loop, for the log."""
        return self.learned.learning_rate.item()

    @property
    def start(self) -> int:
        """N: the inner steps of this outer step that are not differentiated."""
        method, last = self.method, self.method.steps - self.method.differentiated
        if method.start == "random":
            return int(numpy_generator(self.seed, "window", self.step).integers(method.min_start, last + 1))
        return last if method.start == "end" else min(self.position, last)

    def advance(self) -> tuple[float, float]:
        """One outer step (RaT-BPTT, algorithm 1): the outer loss, the length of the gradient before clipping.

        Raises:
            FloatingPointError: one of them, or a loss that ``hard_mining`` goes by, is not finite; nothing was changed.

        """
        outer = self.method.outer
        if self.step == (self.stage + 1) * outer.steps:
            self._grow()
        if outer.hard_mining is not None and self.step % outer.hard_mining.every == 0:
            self.hardness = self._losses()
        before = self.learned.first(self.older)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.gradient().item()
        limit = self._limit()
        norm = torch.nn.utils.clip_grad_norm_(self.learned.tensors.values(), limit).item()
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise FloatingPointError(f"outer loss {loss}, gradient norm {norm}")
        if outer.clip is not None:
            kept = min(norm, limit)
            old = kept if self.average is None else self.average
            self.average = outer.clip.coefficient * old + (1 - outer.clip.coefficient) * kept
        self.optimizer.step()
        self.scheduler.step()
        beta = self.method.boost.beta if self.method.boost is not None else 1.0
        self.learned.shrink(before, beta)
        self.learned.project(first=0 if beta else self.older)
        self.step += 1
        return loss, norm

    def gradient(self) -> Tensor:
        """The outer loss of this step, a mean over fresh students; leaves its gradient in the tensors' ``.grad``."""
        student, step, draws = self.student, self.step, self.method.draws
        steps = self.start + self.method.differentiated
        return hypergradient(
            self.estimator.name,
            student,
            student.initial(derive(self.seed, "outer step"), range(step * draws, (step + 1) * draws)),
            self.learned.inner_batches(self.seed, step, steps),
            [self.real()],
            optimiser=self.learned.view().recipe.optimiser,
            window=self.method.window,
            snapshots=self.estimator.snapshots,
            dropping=lambda t: student.dropping(self.seed, step, t),
            loss=self.loss,
        )

    def real(self) -> dict[str, Tensor]:
        """The real rows of this step, of which ``hard_mining`` draws a part by how hard they are."""
        rows, mining = self.order.at(self.step), self.method.outer.hard_mining
        share = self.hardness.double().numpy()
        if mining is not None and share.any():
            count = min(round(mining.share * len(rows)), int(np.count_nonzero(share)))
            generator = numpy_generator(self.seed, "hard rows", self.step)
            hard = generator.choice(len(share), count, replace=False, p=share / share.sum())
            rows = np.concatenate([hard, rows[: len(rows) - count]])
        return batch_of(self.train, torch.from_numpy(rows), self.student)

    def improved(self, by: Best | None) -> None:
        """What a validation found: a better state, or none; moves a window that goes forward."""
        self.best = by or self.best
        self.stale = 0 if by is not None else self.stale + 1
        if self.stale == self.method.patience:
            self.position, self.stale = self.position + self.method.differentiated, 0

    def state(self) -> dict[str, Any]:
        """Everything that decides what comes next."""
        return {
            "step": self.step,
            "tensors": self.learned.state(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "best": vars(self.best),
            "selected": [vars(best) for best in self.selected],
            "average": self.average,
            "position": self.position,
            "stale": self.stale,
            "hardness": self.hardness,
            **self.conditions(),
        }

    def conditions(self) -> dict[str, Any]:
        """What changes the rounding and nothing else."""
        return {"threads": torch.get_num_threads(), "estimator": self.estimator.name}

    def restore(self, state: dict[str, Any]) -> None:
        """Puts a saved state back."""
        self.step, self.hardness = state["step"], state["hardness"]
        self.selected = [Best(**best) for best in state["selected"]]
        self._begin(state["tensors"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.best = Best(**state["best"])
        self.average, self.position, self.stale = state["average"], state["position"], state["stale"]

    def _begin(self, tensors: Mapping[str, Tensor]) -> None:
        """A stage with these leaves."""
        outer = self.method.outer
        leaves = {name: leaf.detach().to(self.student.device).requires_grad_() for name, leaf in tensors.items()}
        self.learned = LearnedVectors(self.method, self.classes, leaves)
        kind: Any = torch.optim.Adam if outer.optimizer == "adam" else torch.optim.SGD
        self.optimizer = kind(self.learned.groups(), lr=outer.lr)
        self.scheduler = get_scheduler(
            outer.scheduler, self.optimizer, int(outer.warmup_ratio * outer.steps), outer.steps
        )
        self.older = 0 if not self.stage else self.classes * self.method.stages[self.stage - 1]
        self.best = Best(self.step, math.inf, None, None, self.learned.state())
        self.average = None
        self.position, self.stale = self.method.min_start, 0

    def _grow(self) -> None:
        """The next stage, from what this one selected."""
        self.selected.append(self.best)
        shots = self.method.stages[self.stage]
        self._begin(initial_tensors(self.method, self.train, self.classes, shots, self.seed, self.selected[-1].tensors))

    def _limit(self) -> float:
        """How long a gradient may be, by the moving average of those before it."""
        clip = self.method.outer.clip
        return math.inf if clip is None or self.average is None else clip.factor * self.average

    @torch.no_grad()
    def _losses(self) -> Tensor:
        """[rows] cross-entropy of every training row after a fresh student was trained on the current set.

        Raises:
            FloatingPointError: it is not finite everywhere, so that nothing can be drawn by it.

        """
        theta = trained(self.learned, self.student, derive(self.seed, "mining", self.step), 1, self.method.steps)
        logits = score(self.student, theta, self.train.vectors.to(self.student.device))[0]
        losses = torch.nn.functional.cross_entropy(logits, self.train.labels, reduction="none")
        bad = int((~losses.isfinite()).sum())
        if bad:
            raise FloatingPointError(f"hard_mining: the losses of {bad} of {len(losses)} training rows are not finite")
        return losses


def trained(learned: LearnedVectors, student: VectorStudent, seed: int, members: int, steps: int) -> Parameters:
    """θ after ``steps`` inner steps of fresh students on the set as it is, without augmentation."""
    with torch.no_grad():
        batches = learned.inner_batches(seed, 0, steps, augmented=False)
    return descend(
        student,
        student.initial(seed, range(members)),
        batches,
        optimiser=learned.view().recipe.optimiser,
        dropping=lambda step: student.dropping(seed, 0, step),
    )


def batch_of(split: VectorSplit, rows: Tensor, student: VectorStudent) -> dict[str, Tensor]:
    """Rows of a split as students read them."""
    return {
        "vectors": split.vectors[rows].to(student.device, student.dtype),
        "labels": split.labels[rows].to(student.device),
    }
