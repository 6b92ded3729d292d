"""One outer step of a set of text: the hypergradient as for ddal, and how tokens, which are discrete, follow it.

With students of several encoders the outer loss is the mean over encoders, and so is its gradient with respect to the
labels and the samples' weights, which no tokenizer has a part in. That of the embeddings is the first encoder's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.bilevel import descend, hypergradient
from pipeline.config import Swaps, Text
from pipeline.data.tokenised import Batch, Split
from pipeline.distilled import DistilledSet
from pipeline.methods.outer import Estimation, OuterState
from pipeline.methods.text.ensemble import Companion
from pipeline.methods.text.fluency import Fluency
from pipeline.methods.text.set import LearnedText
from pipeline.randomness import numpy_generator
from pipeline.students.encoder import Student
from pipeline.students.masked import Masked
from pipeline.students.scoring import score


class TextState(OuterState):
    """The tokens with their optimiser, schedule and best state so far.

    Args:
        method: of the cell.
        learned: at its first start.
        starts: [N, S] of each start; the best of them is taken at the first step.
        pools: of every class the real sentences [rows, S] that ``swaps`` may put in.
        student: what is trained.
        train: the training split.
        seed: of the cell.
        estimator: of the hypergradient.
        fluency: of ``swaps`` that ask a language model.
        others: students of other encoders.

    Attributes:
        start: the learned set's state before the first step.
        most: tokens that the largest proposal of ``swaps`` exchanges.

    """

    learned: LearnedText
    method: Text

    def __init__(
        self,
        method: Text,
        learned: LearnedText,
        starts: Sequence[Tensor],
        pools: Sequence[Tensor],
        student: Student,
        train: Split,
        seed: int,
        estimator: Estimation,
        fluency: Fluency | None = None,
        others: Sequence[Companion] = (),
    ) -> None:
        super().__init__(method, learned, student, train, seed, estimator)
        self._starts, self._pools, self._fluency, self.others = starts, pools, fluency, tuple(others)
        self.start = learned.state()
        self.most = method.relaxation.positions if isinstance(method.relaxation, Swaps) else 0

    @property
    def learning_rate(self) -> float:
        """Step size of the inner loop, for the log."""
        return self.method.learning_rate

    def advance(self) -> tuple[float, float]:
        """One outer step: the outer loss before it, and the gradient norm before clipping.

        Raises:
            FloatingPointError: one of them is not finite; nothing was changed.

        """
        if self.step == 0 and len(self._starts) > 1:
            real, _ = self.real()
            self.learned.put(min(self._starts, key=lambda ids: self.loss_of(ids, real)))
            self.start = self.learned.state()
        found = super().advance()
        self.learned.follow(self.step)
        return found

    def gradient(self) -> Tensor:
        """As of ddal, and the penalty's; where tokens are swapped, they are, before the optimiser moves the labels."""
        self.learned.weights.grad = None
        self.learned.begin(self.step, self.steps, self.seed)
        loss = super().gradient()
        self.learned.restrain(self.scaler.get_scale())
        if isinstance(self.method.relaxation, Swaps) and loss.isfinite() and self.learned.is_finite():
            self._swap(self.method.relaxation, loss.item())
        return loss

    def _hypergradient(self, draw: int, real: Sequence[Batch], scale: Tensor) -> Tensor:
        """Of the mean over encoders, each with a classifier of its own and these rows in its own tokens."""
        if not self.others:
            return super()._hypergradient(draw, real, scale)
        learned, scale = self.learned, scale / (1 + len(self.others))
        losses = [super()._hypergradient(draw, real, scale)]
        for one in self.others:
            learner, view = one.inner(learned, learned.token_ids, learned.labels * learned.weights)
            losses.append(
                hypergradient(
                    one.estimator(learner),
                    learner,
                    self.initial(draw, one.student),
                    view.inner_batches(self.seed, self.step),
                    one.real(self.rows()[0]),
                    optimiser=view.recipe.optimiser,
                    window=self.method.window,
                    snapshots=one.estimation.snapshots,
                    scale=scale,
                    dropping=self.dropping(draw, one.student),
                    loss=self.loss,
                ).to(losses[0])
            )
        return torch.stack(losses).mean()

    def _swap(self, relaxation: Swaps, loss: float) -> None:
        """Makes the proposal that lowers the outer loss most, if one does."""
        real, _ = self.real()
        tokens = list(self._token_proposals(relaxation))
        proposals = [*tokens, *self._sentence_proposals(relaxation)]
        losses = [self.loss_of(ids, real) + self._unlikely(ids, relaxation.fluency) for ids in proposals]
        best = min(range(len(losses)), key=losses.__getitem__)
        better = losses[best] < loss + self._unlikely(self.learned.token_ids, relaxation.fluency)
        if better:
            self.learned.put(proposals[best])
        if tokens and not better:
            self.most = max(1, self.most // 2)
        elif tokens and best == 0:
            self.most = min(2 * self.most, relaxation.positions)

    def _unlikely(self, token_ids: Tensor, weight: float) -> float:
        """The weighted loss of the language model, where one is asked."""
        return 0.0 if self._fluency is None else weight * self._fluency.loss(token_ids)

    def _token_proposals(self, relaxation: Swaps) -> Iterator[Tensor]:
        """The most promising exchanges at once, by the first-order change of the outer loss; then half of them, …"""
        learned, points = self.learned, self.learned.tensors["inputs_embeds"]
        gradient, matrix = points.grad, learned.vocabulary.matrix
        assert gradient is not None
        change = gradient @ matrix.T - (gradient * points.detach()).sum(dim=-1, keepdim=True)
        change[..., learned.vocabulary.barred] = torch.inf
        best, tokens = (found.cpu() for found in change.min(dim=-1))
        order = torch.where(learned.free, best, torch.inf).flatten().argsort(stable=True)
        size, seen = self.most, set()
        for _ in range(relaxation.tokens):
            if size in seen:
                return
            seen.add(size)
            ids = learned.token_ids.clone()
            ids.view(-1)[order[:size]] = tokens.view(-1)[order[:size]]
            yield ids
            size = max(1, size // 2)

    def _sentence_proposals(self, relaxation: Swaps) -> Iterator[Tensor]:
        """A real sentence in place of the sample whose larger weight would raise the outer loss most; of the next, …"""
        harm = self.learned.weights.grad
        assert harm is not None
        order = harm.flatten().argsort(descending=True, stable=True).tolist()
        generator = numpy_generator(self.seed, "sentences put in", self.step)
        for number in range(relaxation.sentences):
            sample = order[number % len(order)]
            pool = self._pools[sample % self.learned.classes][: relaxation.among]
            ids = self.learned.token_ids.clone()
            ids[sample] = pool[int(generator.integers(len(pool)))]
            yield ids

    @torch.no_grad()
    def loss_of(self, token_ids: Tensor, real: Sequence[Batch]) -> float:
        """The outer loss of this step's classifiers, trained on these tokens [N, S] with the labels of now.

        ``real`` are the step's rows in the first encoder's tokens.
        """
        learned = self.learned
        distilled = learned.of(learned.embedded(token_ids), learned.labels, token_ids)
        losses = [self._loss(self.student, self.student, distilled, real)]
        for one in self.others:
            losses.append(
                self._loss(one.student, *one.inner(learned, token_ids, learned.labels), one.real(self.rows()[0]))
            )
        return sum(losses) / len(losses)

    def _loss(
        self, student: Student, learner: Student | Masked, distilled: DistilledSet, real: Sequence[Batch]
    ) -> float:
        """Of one encoder: what learns from the set, and the student that it then is."""
        labels, distilled = torch.cat([batch["labels"] for batch in real]).cpu(), distilled.detached()
        total = 0.0
        for draw in range(self.method.draws):
            theta = descend(
                learner,
                self.initial(draw, student),
                distilled.inner_batches(self.seed, self.step),
                optimiser=distilled.recipe.optimiser,
                dropping=self.dropping(draw, student),
            )
            rows = torch.arange(len(labels)).split([len(batch["labels"]) for batch in real])
            logits = score(student, theta, zip(rows, real, strict=True))
            value = self.loss.mean(logits, labels).item() / self.method.draws
            total += value if math.isfinite(value) else math.inf
        return total

    def conditions(self) -> dict[str, Any]:
        """What changes the rounding and nothing else."""
        names = [self.estimator.name, *(one.estimation.name for one in self.others)]
        return super().conditions() | {"estimator": ", ".join(names)}

    def state(self) -> dict[str, Any]:
        """Everything that decides what comes next."""
        return super().state() | {"most": self.most, "start": self.start}

    def restore(self, state: dict[str, Any]) -> None:
        """Puts a saved state back."""
        super().restore(state)
        self.most, self.start = state["most"], state["start"]
