"""One outer step of DDAL, and the state that outer steps change (DDAL, algorithm 1).

On several processes the hypergradient, which is linear in v = ∂L/∂θ_T, is divided with the outer loss: each rank goes
through the whole inner loop for its classifiers and its rows of the real batches, and the learned tensors' gradients
are summed. v itself could be summed instead, one θ (44 to 440 MB) per classifier, where the learned tensors have 0.1 to
4 MB (more with all rows of attention labels), and every rank would still have to walk the steps back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import get_scheduler

from pipeline.bilevel import Dropping, Estimator, Snapshots, choose, hypergradient
from pipeline.config import BPTT, DDAL, Outer, Runtime, Text
from pipeline.data.tokenised import Batch, Split
from pipeline.errors import InputError
from pipeline.methods.imbalance import counts_of, outer_loss, real_order
from pipeline.methods.learned import LearnedSet
from pipeline.methods.loop import Best
from pipeline.methods.text.set import LearnedText
from pipeline.parallel import Ranks
from pipeline.randomness import derive
from pipeline.students.encoder import Parameters, Student
from pipeline.students.vectors import VectorStudent

_OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}


@dataclass(frozen=True)
class Estimation:
    """How the hypergradient is computed.

    Attributes:
        name: the estimator, ``auto`` resolved.
        why: one line for the log.
        snapshots: where the θ_t wait.

    """

    name: Estimator
    why: str
    snapshots: Snapshots

    @classmethod
    def of(cls, method: DDAL | BPTT | Text, runtime: Runtime, student: Student | VectorStudent) -> Estimation:
        """What this student has and this memory allows.

        Raises:
            InputError: ``fused`` was asked for and the encoder is not covered.

        """
        differentiated = min(method.steps, method.window or method.steps)
        try:
            name, why = choose(method.estimator, student, differentiated)
        except ValueError as error:
            raise InputError(str(error)) from error
        if runtime.memory_mb is None:
            return cls(name, why, Snapshots(runtime.snapshots))
        budget = runtime.memory_mb * 2**20
        drawn = student.initial(0, range(method.draws)) if isinstance(student, VectorStudent) else student.initial(0, 0)
        theta = sum(parameter.nbytes for parameter in drawn.values())
        return cls(name, why, Snapshots(runtime.snapshots, budget, max(0, budget - (differentiated - 1) * theta)))


@dataclass(frozen=True)
class Portion:
    """What one rank computes of an outer step: some of the classifiers, on some rows of every real batch.

    Classifiers are divided first, because that divides all of the work and not the outer loss alone: with D draws and
    R ranks there are gcd(D, R) teams, each with D / gcd(D, R) classifiers, whose members divide the rows.

    Attributes:
        draws: numbers of the classifiers.
        rows: of each real batch.

    """

    draws: range
    rows: slice

    @classmethod
    def of(cls, draws: int, ranks: Ranks) -> Portion:
        """The portion of this rank; those of all ranks together are each row for each classifier, once."""
        teams = math.gcd(draws, ranks.size)
        member, team = divmod(ranks.rank, teams)
        return cls(range(team, draws, teams), slice(member, None, ranks.size // teams))


class OuterState:
    """The learned set with its optimiser, schedule and best state so far: all that a resumed run needs."""

    def __init__(
        self,
        method: DDAL | Text,
        learned: LearnedSet | LearnedText,
        student: Student,
        train: Split,
        seed: int,
        estimator: Estimation,
        ranks: Ranks | None = None,
    ) -> None:
        outer = method.outer
        self.method, self.learned, self.student, self.train, self.seed = method, learned, student, train, seed
        self.estimator = estimator
        self.ranks = ranks or Ranks()
        self.portion = Portion.of(method.draws, self.ranks)
        labels = train.labels
        self.order = real_order(labels, train.lengths, learned.classes, outer, seed)
        self.loss = outer_loss(outer.loss, counts_of(labels, learned.classes))
        self.epoch_steps = outer.epoch_steps(len(train))
        self.steps = outer.planned_steps(len(train))
        self.optimizer = _optimizer(learned, outer)
        self.scheduler = get_scheduler(
            outer.scheduler, self.optimizer, int(outer.warmup_ratio * self.steps), self.steps
        )
        self.scaler = torch.amp.GradScaler(student.device.type, enabled=method.precision == "fp16")
        self.step = 0
        self.best = Best(0, math.inf, None, None, learned.state())

    @property
    def validates(self) -> bool:
        """Whether the set is scored after the step that was just taken."""
        every = self.method.validation.every or self.epoch_steps
        return self.step % every == 0 or self.step == self.steps

    @property
    def learning_rate(self) -> float:
        """Mean step size of the inner loop, for the log."""
        rates = self.learned.view().learning_rates
        assert rates is not None
        return rates.mean().item()

    def advance(self) -> tuple[float, float]:
        """One outer step (DDAL, algorithm 1); returns the outer loss and the gradient norm before clipping.

        Raises:
            FloatingPointError: one of them is not finite; nothing was changed.

        """
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.gradient().item()
        self.scaler.unscale_(self.optimizer)
        limit = self.method.outer.max_grad_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.learned.tensors.values(), limit).item()
        if not math.isfinite(loss) or not (math.isfinite(norm) or self.scaler.is_enabled()):
            raise FloatingPointError(f"outer loss {loss}, gradient norm {norm}")
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.get_scale() >= scale:  # lower: fp16 overflowed and the optimiser was not stepped
            self.scheduler.step()
        self.step += 1
        return loss, norm

    def gradient(self) -> Tensor:
        """The outer loss of this step; leaves its (scaled) gradient in the learned tensors' ``.grad``.

        Each rank's part is weighted by its share of the rows, so that the sum over ranks is the mean over all rows.
        """
        real, share = self.real()
        weight = share / self.method.draws
        scale = self.scaler.scale(torch.ones((), device=self.student.device)) * weight
        losses = [self._hypergradient(draw, real, scale) for draw in self.portion.draws] if real else []
        nothing = torch.zeros((), device=self.student.device, dtype=next(iter(self.learned.tensors.values())).dtype)
        loss = torch.stack(losses or [nothing]).sum() * weight
        if self.ranks.size > 1:
            self._sum_over_ranks(loss)
        return loss

    def _sum_over_ranks(self, loss: Tensor) -> None:
        """Sums the loss and the gradients, in place; what no rank has a gradient of stays without."""
        leaves = list(self.learned.tensors.values())
        used = loss.new_tensor([leaf.grad is not None for leaf in leaves])
        gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
        self.ranks.sum_([loss, used, *gradients])
        for leaf, count, gradient in zip(leaves, used.tolist(), gradients, strict=True):
            leaf.grad = gradient if count else None

    def real(self) -> tuple[list[Batch], float]:
        """This rank's rows of this step's real batches, and their share of all rows."""
        own, share = self.rows()
        return [self.train.batch(part, self.student.device) for part in own], share

    def rows(self) -> tuple[list[np.ndarray[Any, np.dtype[np.int64]]], float]:
        """Their positions in the training split, batch by batch, and their share of all rows."""
        count = self.method.outer.real_batches
        rows = [self.order.at(number) for number in range(self.step * count, (self.step + 1) * count)]
        own = [part for part in (batch[self.portion.rows] for batch in rows) if len(part)]
        return own, sum(map(len, own)) / sum(map(len, rows))

    def _hypergradient(self, draw: int, real: Sequence[Batch], scale: Tensor) -> Tensor:
        """The loss of one fresh classifier on ``real``; adds ``scale`` · its gradient to the learned tensors'."""
        student, view = self.student, self.learned.view()
        return hypergradient(
            self.estimator.name,
            student,
            self.initial(draw),
            view.inner_batches(self.seed, self.step),
            real,
            optimiser=view.recipe.optimiser,
            window=self.method.window,
            snapshots=self.estimator.snapshots,
            scale=scale,
            dropping=self.dropping(draw),
            loss=self.loss,
        )

    def initial(self, draw: int, student: Student | None = None) -> Parameters:
        """θ_0 of this outer step's classifier number ``draw``, of this student or another one."""
        return (student or self.student).initial(derive(self.seed, "outer step", *_number(draw)), self.step)

    def dropping(self, draw: int, student: Student | None = None) -> Dropping:
        """The dropout masks of that classifier's inner loop."""
        step, own = self.step, student or self.student
        return lambda t: own.dropping(self.seed, step, t, *_number(draw))

    def state(self) -> dict[str, Any]:
        """Everything that decides what comes next."""
        return {
            "step": self.step,
            "tensors": self.learned.state(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": vars(self.best),
            **self.conditions(),
        }

    def conditions(self) -> dict[str, Any]:
        """What changes the rounding and nothing else."""
        return {"threads": torch.get_num_threads(), "estimator": self.estimator.name, "ranks": self.ranks.size}

    def restore(self, state: dict[str, Any]) -> None:
        """Puts a saved state back."""
        self.step = state["step"]
        self.learned.restore(state["tensors"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.best = Best(**state["best"])


def _number(draw: int) -> list[int]:
    """The only draw, or the first of several, is the same."""
    return [draw] if draw else []


def _optimizer(learned: LearnedSet | LearnedText, outer: Outer) -> torch.optim.Optimizer:
    kind: Any = _OPTIMIZERS[outer.optimizer]
    optimizer: torch.optim.Optimizer = kind(learned.groups(outer), lr=outer.lr, weight_decay=outer.weight_decay)
    return optimizer
