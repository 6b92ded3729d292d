"""Students on vectors trained to convergence, K at once: the losses of the inner loop, torch's own optimisers.

:func:`~pipeline.bilevel.descend` makes the same steps (tests compare them), differentiably; here torch's fused kernels,
which have no derivatives, make them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline import stopping
from pipeline.bilevel import InnerBatch, Parameters, inner_loss
from pipeline.config import OnVectors
from pipeline.randomness import torch_generator
from pipeline.students.first_order import optimizer_of
from pipeline.students.vectors import VectorStudent


@dataclass(frozen=True)
class Samples:
    """What students learn from: vectors [N, D] and labels [N, C], as the loss uses them."""

    vectors: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Samples:
        """The samples on ``device``."""
        return Samples(self.vectors.to(device), self.labels.to(device))


def learn(
    student: VectorStudent,
    samples: Samples,
    recipe: OnVectors,
    seed: int,
    members: Sequence[int],
    moments: Collection[int],
    watch: Callable[[int], None] = lambda step: None,
) -> Iterator[tuple[int, Parameters]]:
    """θ [K, …] of students that start anew, after each of the ``moments``; they are changed by the steps that follow.

    Member k depends on (seed, members[k]) alone, up to rounding: its weights, the order of its samples (a new
    permutation per pass, an incomplete last batch left out; all samples at once where they fit one batch), its dropout.

    Args:
        student: the network.
        samples: what is learned from.
        recipe: optimiser, step size, batch size; how long it is follows from ``moments``.
        seed: of all draws.
        members: the numbers of the K initialisations.
        moments: numbers of steps, at least 1.
        watch: called after every step with its number.

    Raises:
        Stopped: a signal came; what was learned is lost.

    """
    parameters = student.initial(seed, members)
    names, tensors = list(parameters), [part.requires_grad_() for part in parameters.values()]
    optimizer = optimizer_of(recipe, tensors)
    batches = _batches(samples, recipe.batch_of(len(samples)), seed, members)
    rate = torch.tensor(recipe.lr)
    for step, (vectors, labels) in zip(range(max(moments)), batches, strict=False):
        stopping.check()
        with torch.enable_grad(), student.dropping(seed, step, members=members):
            loss = inner_loss(student, parameters, InnerBatch(vectors, labels, None, 0.0, rate))
        for tensor, gradient in zip(tensors, torch.autograd.grad(loss, tensors), strict=True):
            tensor.grad = gradient.contiguous()  # the fused kernels read it in the order of its memory
        optimizer.step()
        watch(step + 1)
        if step + 1 in moments:
            yield step + 1, {name: tensor.detach() for name, tensor in zip(names, tensors, strict=True)}


def _batches(samples: Samples, size: int, seed: int, members: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Vectors and labels of every step: [N, …] for all members, or [K, size, …]."""
    epoch = 0
    while size == len(samples):
        yield samples.vectors, samples.labels
    while True:
        generators = (torch_generator(seed, "order of vectors", member, epoch) for member in members)
        orders = torch.stack([torch.randperm(len(samples), generator=each) for each in generators])
        for start in range(0, len(samples) - size + 1, size):
            rows = orders[:, start : start + size].to(samples.labels.device)
            yield samples.vectors[rows], samples.labels[rows]
        epoch += 1


@torch.no_grad()
def score(student: VectorStudent, parameters: Parameters, vectors: Tensor, rows: int = 1024) -> Tensor:
    """[K, rows, C] logits on the CPU, so many rows at a time."""
    found = [student.logits(parameters, {"vectors": part}).cpu() for part in vectors.split(rows)]
    return torch.cat(found, dim=1)
