"""Students trained on token ids or vectors, without second derivatives.

:func:`finetune` is AdamW (:func:`finetune_in_turn` on one set after another), as DiLM evaluates (Maekawa et al., NAACL
Findings 2024), :func:`plain_steps` what DDAL does.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import get_scheduler

from pipeline import stopping
from pipeline.bilevel.fused import FlatParameters, PostNorm
from pipeline.bilevel.fused.encoder import Encoder
from pipeline.bilevel.fused.real import RealPasses
from pipeline.config import Training
from pipeline.randomness import derive, seeded, torch_generator
from pipeline.students.encoder import Parameters, Student
from pipeline.students.first_order import optimizer_of

Examples = Callable[[Any], dict[str, Tensor]]
_ROWS = 4096  # rows whose token ids are looked at together


def finetune(
    student: Student,
    parameters: Parameters,
    size: int,
    examples: Examples,
    recipe: Training,
    seed: int,
    index: int = 0,
    watch: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    judge: Callable[[Parameters], float] | None = None,
) -> Parameters:
    """θ after :func:`learning`.

    Args:
        student, parameters, size, examples, recipe, seed, index: of the training.
        watch: called after every step with (step, steps, loss).
        judge: what is compared between epochs, such as a loss on dev; never NaN. The θ for which it was smallest is
            returned, the earliest of equals; by default the last one is.

    Raises:
        Stopped: a signal came; what was learned is lost, which may be minutes of work, and the grace is less.

    """
    per_epoch, steps = recipe.epoch_on(size), recipe.steps_on(size)
    best: tuple[float, Parameters | None] = (math.inf, None)
    found: Parameters = parameters
    for now in learning(student, parameters, size, examples, recipe, seed, index):
        watch(now.step, steps, now.loss)
        if now.step == steps:
            found = now.parameters()
        if judge is not None and now.step % per_epoch == 0:
            student.training(False)
            judged = now.parameters()
            merit = judge(judged)
            if best[1] is None or merit < best[0]:
                best = merit, {name: tensor.clone() for name, tensor in judged.items()}
            student.training(recipe.dropout)
    student.training(False)
    return best[1] or found


def finetune_in_turn(
    student: Student,
    parameters: Parameters,
    phases: Sequence[tuple[int, Examples]],
    recipe: Training,
    seed: int,
    index: int = 0,
    watch: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    judge: Callable[[Parameters], float] | None = None,
) -> Parameters:
    """θ after :func:`finetune` on one set of samples after another, each by the whole recipe.

    Args:
        student, parameters, recipe, seed, index, watch: as there.
        phases: of each its size and its samples.
        judge: of the last phase's epochs.

    """
    for number, (size, examples) in enumerate(phases):
        own = seed if number == 0 else derive(seed, "phase", number)
        judged = judge if number + 1 == len(phases) else None

        def shown(step: int, steps: int, loss: float) -> None:
            watch(step, steps * len(phases), loss)

        parameters = finetune(student, parameters, size, examples, recipe, own, index, shown, judged)
    return parameters


class Learned(NamedTuple):
    """A training after one of its steps; ``parameters`` gives θ, which later steps may change in place."""

    step: int
    loss: float
    parameters: Callable[[], Parameters]


def learning(
    student: Student,
    parameters: Parameters,
    size: int,
    examples: Examples,
    recipe: Training,
    seed: int,
    index: int = 0,
) -> Iterator[Learned]:
    """A training by AdamW, or the recipe's other optimiser, with warm-up on the samples, step by step.

    Args:
        student: the model as a function.
        parameters: θ_0; not changed.
        size: N, the number of samples.
        examples: rows -> batch with ``labels`` [rows, C].
        recipe: steps or epochs, batch size, step size, schedule.
        seed: with ``index``, decides the order of samples and the dropout masks.
        index: number of the initialisation.

    Raises:
        Stopped: a signal came.

    """
    batch_size = min(recipe.batch_size, size)
    steps = recipe.steps_on(size)
    # Samples that fit one batch are trained on as they are; more come in a new order every epoch.
    learner = _learner(student, parameters, size, examples, recipe)
    optimizer = optimizer_of(recipe, learner.tensors)
    scheduler = get_scheduler(recipe.scheduler, optimizer, int(recipe.warmup_ratio * steps), steps)
    decay = 1.0
    student.training(recipe.dropout)
    for step, rows in zip(range(steps), _batches(size, batch_size, seed, index), strict=False):
        stopping.check()
        batch = examples(rows)
        with seeded(seed, "dropout", index, step) if recipe.dropout else contextlib.nullcontext():
            loss = learner.backward(batch)
        torch.nn.utils.clip_grad_norm_(learner.tensors, recipe.max_grad_norm)
        if recipe.optimizer == "adamw":
            decay *= 1 - optimizer.param_groups[0]["lr"] * recipe.weight_decay
        optimizer.step()
        scheduler.step()
        yield Learned(step + 1, loss.item(), functools.partial(learner.parameters, decay))


def plain_steps(
    student: Student, parameters: Parameters, size: int, examples: Examples, step_sizes: Sequence[float]
) -> Parameters:
    """θ after one plain gradient step per step size, each on all samples (DDAL, equation 2).

    For real sentences: their padding is masked, and the word embeddings are trained with the rest. The inner loop,
    :func:`~pipeline.bilevel.descend`, attends to every position of input embeddings.

    Args:
        student: the model as a function.
        parameters: θ_0; not changed.
        size: N, the number of samples.
        examples: rows -> batch with ``labels`` [rows, C].
        step_sizes: η_t.

    """
    learner, batch = _learner(student, parameters, size, examples, Training()), examples(torch.arange(size))
    for step_size in step_sizes:
        learner.backward(batch)
        torch.optim.SGD(learner.tensors, lr=step_size).step()
    return learner.parameters(1.0)


def _batches(size: int, batch_size: int, seed: int, index: int) -> Iterator[Tensor]:
    epoch = 0
    while True:
        order = torch.randperm(size, generator=torch_generator(seed, "fine-tuning order", index, epoch))
        yield from (order[start : start + batch_size] for start in range(0, size - batch_size + 1, batch_size))
        epoch += 1


class _Learner(Protocol):
    """θ as the optimiser updates it."""

    tensors: list[Tensor]

    def backward(self, batch: dict[str, Tensor]) -> Tensor:
        """The mean cross-entropy; leaves its gradient in ``tensors``."""
        ...

    def parameters(self, decay: float) -> Parameters:
        """θ by name; ``decay`` is what weight decay alone has left of a parameter without gradient."""
        ...


def _learner(student: Student, parameters: Parameters, size: int, examples: Examples, recipe: Training) -> _Learner:
    passes = "dropout" if recipe.dropout else student.fused()
    half = torch.bfloat16 if recipe.precision == "bf16" else None
    if isinstance(passes, str) or "input_ids" not in examples(torch.arange(1)):
        return _ByAutograd(student, parameters, half)
    seen = [examples(rows)["input_ids"].unique() for rows in torch.arange(size).split(_ROWS)]
    return _ByPasses(student, passes.structure, parameters, torch.cat(seen).unique(), half)


class _ByAutograd:
    """Any student, with any batch; in autocast to ``half`` where that is given."""

    def __init__(self, student: Student, parameters: Parameters, half: torch.dtype | None) -> None:
        self._student, self._half = student, half
        self._trained = {name: parameter.detach().clone().requires_grad_() for name, parameter in parameters.items()}
        self.tensors = list(self._trained.values())

    def backward(self, batch: dict[str, Tensor]) -> Tensor:
        """See :class:`_Learner`."""
        for tensor in self.tensors:
            tensor.grad = None
        device = self._student.device.type
        with contextlib.nullcontext() if self._half is None else torch.autocast(device, self._half):
            logits = self._student.logits(self._trained, batch, learning=True)
        loss = F.cross_entropy(logits, batch["labels"])
        loss.backward()
        return loss.detach()

    def parameters(self, decay: float) -> Parameters:
        return {name: parameter.detach() for name, parameter in self._trained.items()}


class _ByPasses:
    """Token ids, by the hand-derived passes, without padding; the same steps up to rounding.

    θ is one flat vector and the word vectors of the tokens ``used`` in the samples: no gradient, norm or moment is
    computed for the rest of the table, which in small encoders is half of all parameters. AdamW does nothing to it but
    decay. Linear layers compute in ``half`` where that is given; θ, its gradient and the rest do not.
    """

    def __init__(
        self, student: Student, structure: PostNorm, parameters: Parameters, used: Tensor, half: torch.dtype | None
    ) -> None:
        self._student, self._start, self._used, self._half = student, parameters, used, half
        self._encoder, self._places = Encoder(structure), FlatParameters(structure)
        self._theta, self._words = self._places.pack(parameters), parameters[student.words][used].detach()
        self.tensors = [self._theta, self._words]
        for tensor in self.tensors:
            tensor.grad = torch.zeros_like(tensor)

    @torch.no_grad()
    def backward(self, batch: dict[str, Tensor]) -> Tensor:
        """See :class:`_Learner`."""
        theta_grad, words_grad = (tensor.grad for tensor in self.tensors)
        assert theta_grad is not None
        assert words_grad is not None
        words_grad.zero_()
        views, sums = self._places.views(self._theta), self._places.sums(theta_grad)
        passes = RealPasses(self._encoder, views if self._half is None else views.matrices_in(self._half))
        ids, labels = torch.searchsorted(self._used, batch["input_ids"]), batch["labels"]
        loss = self._theta.new_zeros(())
        for chunk in self._student.packed(batch | {"input_ids": ids}, {self._student.words: self._words}):
            chunk_loss, of_vectors = passes.cross_entropy(chunk, labels[chunk.order], 1 / len(labels), sums)
            loss += chunk_loss
            of_tokens = ids[chunk.order, : chunk.size[1]].flatten()
            of_tokens = of_tokens if chunk.places is None else of_tokens[chunk.places]
            words_grad.index_add_(0, of_tokens, of_vectors)
        return loss

    def parameters(self, decay: float) -> Parameters:
        table = self._start[self._student.words] * decay
        table[self._used] = self._words
        return {**self._start, **self._places.unpack(self._theta), self._student.words: table}
