"""How a student is meant to learn from a set; a part of its file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict

from pipeline.bilevel import Adam, GradientDescent, Momentum, Optimiser
from pipeline.config import AdamSteps, InnerOptimizer, MomentumSteps, PlainSteps, Precision

_PLAIN = PlainSteps(name="gd")


@dataclass(frozen=True)
class Recipe:
    """How a student is meant to learn from the set.

    Attributes:
        name: ``ddal`` (T steps of the inner optimiser), ``finetune`` (AdamW), ``vectors`` (a small student, to
            convergence), ``majority`` (nothing is trained), ``prompting`` (nothing is, a language model is asked).
        attention_weight: λ.
        order: ``fixed`` follows ``batch_order``; ``random`` draws a batch per step.
        dropout: the encoder's dropout is on.
        precision: autocast of the forward passes.
        inner_optimizer: what makes the T steps.

    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: Literal["ddal", "finetune", "vectors", "majority", "prompting"]
    attention_weight: float = 1.0
    order: Literal["fixed", "random"] = "fixed"
    dropout: bool = False
    precision: Precision = "fp32"
    inner_optimizer: InnerOptimizer = _PLAIN

    @property
    def optimiser(self) -> Optimiser:
        """The inner optimiser as an update rule."""
        given = self.inner_optimizer
        if isinstance(given, MomentumSteps):
            return Momentum(given.momentum, given.nesterov)
        if isinstance(given, AdamSteps):
            return Adam(given.betas, given.eps)
        return GradientDescent()
