"""Ordinary training: of students on a set (stage 3), and of those whose scores choose real sentences."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.config.schema import Count, Frozen, Positive, Share

OptimizerName = Literal["sgd", "momentum", "adam", "adamw"]


class Training(Frozen):
    """AdamW with warm-up; the defaults are those by which DiLM evaluates.

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
        number, noun = (self.steps, "step") if self.epochs is None else (self.epochs, "epoch")
        return f"{number} {noun}{'' if number == 1 else 's'}"


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


def selection_by_split(value: Any) -> Any:
    """``dev`` for ``{split: dev}``."""
    return {"split": value} if isinstance(value, str) else value
