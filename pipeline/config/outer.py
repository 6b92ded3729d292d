"""Stage 2: the outer loop of the methods whose students read text, on real batches, and its precision."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.imbalance import CrossEntropy, RealLoss, Sampling, check_sampling
from pipeline.config.schema import Count, Frozen, Positive, Share

Precision = Literal["fp32", "tf32", "bf16", "fp16"]


def on_real_text(precision: Precision) -> str:
    """The autocast on real text that goes with a precision of the inner loop; TF32 is none."""
    return "fp32" if precision == "tf32" else precision


class Outer(Frozen):
    """The outer loop: how the distilled set itself is optimised on real batches.

    Attributes:
        epochs: passes over the training split; ``steps``, where given, replaces them by a number of outer steps.
        lr: step size of the input embeddings (the paper's α); the other learned tensors use it unless given their own.
        real_batches: real batches of ``batch_size`` per outer step, all in one outer loss.
        precision: of real text, in the outer loss and in validation: ``fp32`` or ``bf16`` autocast; ``null`` takes the
            method's ``precision``.
        max_grad_norm: one joint norm over all learned tensors; ``null`` does not clip.
        bucket_by_length: sort by length inside blocks of 50 batches (faster; other batches than the paper's).
        sampling: of the real batches: ``shuffled`` passes over the split (the paper), or ``balanced``: equally many
            rows of every class, small classes passed over more often; an epoch has as many batches either way.
        loss: of the real batches: ``cross_entropy`` (the paper), ``class_weights`` or ``logit_adjustment``, by name or
            as a mapping with its options. What a student learns from the set is then for classes of equal share, as
            with balanced sampling, and nothing is corrected at test: select by a balanced measure (``validation.by``).

    """

    epochs: Count = 30
    steps: Count | None = None
    batch_size: Count = 32
    real_batches: Count = 1
    bucket_by_length: bool = False
    sampling: Sampling = "shuffled"
    loss: RealLoss = CrossEntropy(name="cross_entropy")
    precision: Literal["fp32", "bf16"] | None = None
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: Positive = 1e-2
    lr_labels: Positive | None = None
    lr_attention: Positive | None = None
    lr_learning_rates: Positive | None = None
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    scheduler: Literal["linear", "constant"] = "linear"
    warmup_ratio: Share = 0.1
    max_grad_norm: Positive | None = 1.0

    @model_validator(mode="after")
    def _check(self) -> Outer:
        check_sampling(self.sampling, self.loss)
        return self

    def epoch_steps(self, rows: int) -> int:
        """Outer steps of one pass over so many training rows; 0 where their number is not known yet."""
        return max(1, max(1, rows // self.batch_size) // self.real_batches) if rows else 0

    def planned_steps(self, rows: int) -> int:
        """Outer steps in all."""
        return self.steps or self.epochs * self.epoch_steps(rows)
