"""Ordinary training: of students on a set (stage 3), and of those whose scores choose real sentences."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.schema import Count, Frozen, Positive, Share

OptimizerName = Literal["sgd", "momentum", "adam", "adamw"]


def amount(steps: int, epochs: int | None) -> str:
    """How long a training of these options is: ``200 steps`` or ``1 epoch``."""
    number, noun = (steps, "step") if epochs is None else (epochs, "epoch")
    return f"{number} {noun}{'' if number == 1 else 's'}"


class Training(Frozen):
    """AdamW with warm-up; the defaults are those by which DiLM evaluates, but for its dropout and its bf16.

    (And but for weight decay, of which the published code exempts biases and layer norms, and this nothing.)

    ``epochs``, where given, replaces ``steps`` by passes over the samples. Another ``optimizer`` (``momentum`` is SGD
    with 0.9) has no weight decay. ``precision`` is of the training and, in stage 3, of scoring: ``fp32``, or autocast
    to ``bf16``.
    """

    steps: Count = 200
    epochs: Count | None = None
    batch_size: Count = 64
    lr: Positive = 1e-4
    scheduler: Literal["cosine", "linear"] = "cosine"
    warmup_ratio: Share = 0.5
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: Positive = 1.0
    dropout: bool = False
    optimizer: OptimizerName = "adamw"
    precision: Literal["fp32", "bf16"] = "fp32"

    @property
    def amount(self) -> str:
        """How long it is, such as ``200 steps`` or ``1 epoch``."""
        return amount(self.steps, self.epochs)

    def epoch_on(self, samples: int) -> int:
        """Steps of a pass over so many samples; an incomplete last batch is left out."""
        return max(1, samples // min(self.batch_size, samples))

    def steps_on(self, samples: int) -> int:
        """Steps on so many samples."""
        return self.steps if self.epochs is None else self.epochs * self.epoch_on(samples)


class BestEpoch(Frozen):
    """Which epoch of a training is kept.

    Attributes:
        split: that is scored after every epoch; never the one that is reported.
        by: mean cross-entropy or accuracy; the earliest of equals.
        examples: rows of the split that are scored, a fixed stratified draw; ``null`` scores all.

    """

    split: Literal["dev"] = "dev"
    by: Literal["loss", "accuracy"] = "loss"
    examples: Count | None = None
