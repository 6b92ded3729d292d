"""The variants of the protocol ``robust``: a set's own recipe, changed in one thing.

A variant of T steps is another distilled set over the same tensors (other batches, step sizes, recipe), so that all of
them are trained by the one inner loop; those of AdamW are other recipes for ``finetune``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.config import (
    AdamSteps,
    FineTune,
    InnerOptimizer,
    MomentumSteps,
    PlainSteps,
    Precision,
    Robust,
    RobustOnVectors,
)
from pipeline.distilled import DistilledSet
from pipeline.evaluation.results import OWN
from pipeline.randomness import torch_generator

_STEPS: dict[str, InnerOptimizer] = {
    "sgd": PlainSteps(name="gd"),
    "momentum": MomentumSteps(name="momentum"),
    "adam": AdamSteps(name="adam"),
}
_SGD = ("sgd", "momentum")


@dataclass(frozen=True)
class Variant:
    """One way to learn from a set.

    Attributes:
        name: ``own``, or ``factor=value`` such as ``learning_rate=x0.1``.
        made: number of the initialisation -> the set that it trains on.
        recipe: by which it trains; ``None``: by the set's own steps.
        dropout, precision: of the student.

    """

    name: str
    made: Callable[[int], DistilledSet]
    recipe: FineTune | None
    dropout: bool
    precision: Precision


def variants(protocol: Robust, distilled: DistilledSet, recipe: FineTune | None, seed: int) -> list[Variant]:
    """All that differ from the recipe, and the recipe itself as the last one.

    Args:
        protocol: what is varied.
        distilled: the set.
        recipe: the one that is varied; ``None`` for the set's own steps.
        seed: with the initialisation, of new orders.

    """
    found = _of_steps(protocol, distilled, seed) if recipe is None else _of_training(protocol, distilled, recipe)
    own = _by_steps(OWN, distilled) if recipe is None else _by_training(OWN, distilled, recipe)
    return [*found, own]


def other_lr(protocol: Robust | RobustOnVectors, own: str, name: str) -> float | None:
    """Step size of optimiser ``name`` in place of ``own``; ``None``: both are SGD, or both Adam, and it stays."""
    if (name in _SGD) == (own in _SGD):
        return None
    return protocol.sgd_lr if name in _SGD else protocol.adam_lr


def _by_steps(name: str, made: DistilledSet) -> Variant:
    return Variant(name, lambda _: made, None, made.recipe.dropout, made.recipe.precision)


def _by_training(name: str, distilled: DistilledSet, recipe: FineTune, precision: Precision = "fp32") -> Variant:
    return Variant(name, lambda _: distilled, recipe, recipe.dropout, precision)


def _of_steps(protocol: Robust, distilled: DistilledSet, seed: int) -> Iterator[Variant]:
    """Of T steps of the inner optimiser."""
    recipe, rates = distilled.recipe, distilled.learning_rates
    assert rates is not None
    yield from _orders(protocol, distilled, seed)
    yield from _batches(protocol, distilled)
    yield from _optimizers(protocol, distilled)
    for factor in protocol.learning_rates:
        if factor != 1:
            yield _by_steps(f"learning_rate=x{factor:g}", replace(distilled, learning_rates=rates * factor))
    for factor in protocol.steps:
        steps = max(1, round(factor * len(rates)))
        if steps != len(rates):
            yield _by_steps(f"steps=x{factor:g}", _repeated(distilled, torch.arange(steps) % len(rates)))
    if protocol.dropout and not recipe.dropout:
        yield _by_steps("dropout=on", replace(distilled, recipe=replace(recipe, dropout=True)))
    for precision in protocol.precisions:
        if precision != recipe.precision:
            changed = replace(distilled, recipe=replace(recipe, precision=precision))
            yield _by_steps(f"precision={precision}", changed)
    if protocol.attention_labels and distilled.attention_labels is not None and recipe.attention_weight:
        yield _by_steps("attention_labels=off", replace(distilled, attention_labels=None))


def _repeated(distilled: DistilledSet, steps: Tensor) -> DistilledSet:
    """The set with these of its steps, batches and step sizes alike."""
    assert distilled.batch_order is not None
    assert distilled.learning_rates is not None
    rates = distilled.learning_rates[steps.to(distilled.learning_rates.device)]
    return replace(distilled, batch_order=distilled.batch_order[steps], learning_rates=rates)


def _orders(protocol: Robust, distilled: DistilledSet, seed: int) -> Iterator[Variant]:
    """Step t keeps its step size; there is nothing to vary where every batch is the whole set."""
    order, recipe = distilled.batch_order, distilled.recipe
    assert order is not None
    if order.shape[1] == len(distilled):
        return
    fixed, drawn = replace(recipe, order="fixed"), replace(recipe, order="random")

    def shuffled(index: int) -> DistilledSet:
        return replace(distilled, recipe=fixed, batch_order=_shuffled(order, len(distilled), seed, index))

    for name in protocol.orders:
        if name == "reversed":
            yield _by_steps("order=reversed", replace(distilled, recipe=fixed, batch_order=order.flip(0)))
        elif name == "shuffled":
            yield replace(_by_steps("order=shuffled", distilled), made=shuffled)
        elif recipe.order != "random":
            yield _by_steps("order=random", replace(distilled, recipe=drawn))


def _shuffled(order: Tensor, size: int, seed: int, index: int) -> Tensor:
    """[T, batch] rows: a new permutation of all ``size`` samples for every pass, cut into batches."""
    passes = -(-order.numel() // size)
    draws = [
        torch.randperm(size, generator=torch_generator(seed, "shuffled order", index, each)) for each in range(passes)
    ]
    return torch.cat(draws)[: order.numel()].view_as(order)


def _batches(protocol: Robust, distilled: DistilledSet) -> Iterator[Variant]:
    """At least as many steps and at least as many passes as the recipe has; a step has the step size of its time."""
    order, rates = distilled.batch_order, distilled.learning_rates
    assert order is not None
    assert rates is not None
    for name, size in _sizes(protocol, order.shape[1], len(distilled)):
        steps = max(len(order), -(-order.numel() // size))
        rows = order.flatten()[torch.arange(steps * size) % order.numel()].view(steps, size)
        if size == len(distilled):
            rows = torch.arange(size).expand(steps, size)
        times = (torch.arange(steps) * len(order) // steps).to(rates.device)
        yield _by_steps(f"batch={name}", replace(distilled, batch_order=rows, learning_rates=rates[times]))


def _sizes(protocol: Robust, own: int, whole: int) -> Iterator[tuple[str, int]]:
    """Name and samples of every other batch, each number once."""
    seen = {own}
    for name in protocol.batches:
        size = {"one": 1, "half": max(1, own // 2), "all": whole}[name]
        if size not in seen:
            seen.add(size)
            yield name, size


def _optimizers(protocol: Robust, distilled: DistilledSet) -> Iterator[Variant]:
    given, rates = distilled.recipe.inner_optimizer, distilled.learning_rates
    assert rates is not None
    own = "sgd" if isinstance(given, PlainSteps) else given.name
    for name in protocol.optimizers:
        if name == "adamw":
            yield _by_training("optimizer=adamw", distilled, protocol.adamw)
            continue
        usual = other_lr(protocol, own, name)
        if name == own or (usual is None and len(rates) == 1):  # the first step of momentum is a plain one
            continue
        recipe = replace(distilled.recipe, inner_optimizer=_STEPS[name])
        changed = replace(
            distilled, recipe=recipe, learning_rates=rates if usual is None else torch.full_like(rates, usual)
        )
        yield _by_steps(f"optimizer={name}", changed)


def _of_training(protocol: Robust, distilled: DistilledSet, own: FineTune) -> Iterator[Variant]:
    """Of a ``finetune`` recipe, which draws its order anew in every pass and has no attention labels."""

    def variant(name: str, precision: Precision = "fp32", **changes: object) -> Variant:
        return _by_training(name, distilled, own.model_copy(update=changes), precision)

    size = min(own.batch_size, len(distilled))
    whole = own.steps_on(len(distilled))
    for name, samples in _sizes(protocol, size, len(distilled)):
        steps = max(whole, -(-whole * size // samples))
        yield variant(f"batch={name}", batch_size=samples, steps=steps, epochs=None)
    for name in protocol.optimizers:
        if name != own.optimizer:
            lr = other_lr(protocol, own.optimizer, name) or own.lr
            yield variant(f"optimizer={name}", optimizer=name, lr=lr)
    for factor in protocol.learning_rates:
        if factor != 1:
            yield variant(f"learning_rate=x{factor:g}", lr=own.lr * factor)
    for factor in protocol.steps:
        steps = max(1, round(factor * whole))
        if steps != whole:
            yield variant(f"steps=x{factor:g}", steps=steps, epochs=None)
    if protocol.dropout and not own.dropout:
        yield variant("dropout=on", dropout=True)
    for precision in protocol.precisions:
        if precision != "fp32":
            yield variant(f"precision={precision}", precision)
