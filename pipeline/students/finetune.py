"""The recipe ``finetune``: AdamW on a set of samples, as DiLM evaluates (Maekawa et al., NAACL Findings 2024)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import get_scheduler

from pipeline.config import FineTune
from pipeline.randomness import seeded, torch_generator
from pipeline.students.encoder import Parameters, Student


def finetune(
    student: Student,
    parameters: Parameters,
    size: int,
    examples: Callable[[Any], dict[str, Tensor]],
    recipe: FineTune,
    seed: int,
    index: int = 0,
    watch: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> Parameters:
    """θ after AdamW with warm-up on the samples.

    Args:
        student: the model as a function.
        parameters: θ_0; not changed.
        size: N, the number of samples.
        examples: rows -> batch with ``labels`` [rows, C].
        recipe: steps or epochs, batch size, step size, schedule.
        seed: with ``index``, decides the order of samples and the dropout masks.
        index: number of the initialisation.
        watch: called after every step with (step, steps, loss).

    """
    batch_size = min(recipe.batch_size, size)
    per_epoch = max(1, size // batch_size)
    steps = recipe.steps if recipe.epochs is None else recipe.epochs * per_epoch
    # Samples that fit one batch are trained on as they are; more come in a new order every epoch.
    trained = {name: parameter.detach().clone().requires_grad_() for name, parameter in parameters.items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    scheduler = get_scheduler(recipe.scheduler, optimizer, int(recipe.warmup_ratio * steps), steps)
    student.training(recipe.dropout)
    for step, rows in zip(range(steps), _batches(size, batch_size, seed, index), strict=False):
        batch = examples(rows)
        with seeded(seed, "dropout", index, step) if recipe.dropout else contextlib.nullcontext():
            loss = F.cross_entropy(student.logits(trained, batch), batch["labels"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), recipe.max_grad_norm)
        optimizer.step()
        scheduler.step()
        watch(step + 1, steps, loss.item())
    student.training(False)
    return {name: parameter.detach() for name, parameter in trained.items()}


def _batches(size: int, batch_size: int, seed: int, index: int) -> Iterator[Tensor]:
    epoch = 0
    while True:
        order = torch.randperm(size, generator=torch_generator(seed, "fine-tuning order", index, epoch))
        yield from (order[start : start + batch_size] for start in range(0, size - batch_size + 1, batch_size))
        epoch += 1
