"""What all methods that learn a set have: the optimiser of the inner loop, and the outer loop with its validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from pydantic import Field

from pipeline.config.imbalance import RealLoss, Sampling, Selection
from pipeline.config.making import SmallSet
from pipeline.config.schema import Count, Frozen, Positive, Share, by_key


class PlainSteps(Frozen):
    """θ − η g: what the paper trains students with."""

    name: Literal["gd"]


class MomentumSteps(Frozen):
    """Heavy-ball or Nesterov momentum, as ``torch.optim.SGD``."""

    name: Literal["momentum"]
    momentum: Annotated[float, Field(gt=0, lt=1)] = 0.9
    nesterov: bool = False


class AdamSteps(Frozen):
    """Adam without weight decay, as ``torch.optim.Adam``; the learned step sizes are its learning rates."""

    name: Literal["adam"]
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: Positive = 1e-8


InnerOptimizer = Annotated[
    Annotated[PlainSteps | MomentumSteps | AdamSteps, Field(discriminator="name")],
    by_key("name"),
]


class Validation(Frozen):
    """Checkpoint selection while distilling.

    Attributes:
        split: ``dev``, or ``test`` to reproduce the published protocol (every table then says so), or ``none`` to
            keep the last step.
        every: outer steps between two validations; by default one epoch.
        initialisations: fresh students per validation, each scored on all of ``examples``; the same ones every time,
            so that two checkpoints are compared on equal draws.
        examples: rows of the split that are scored, a fixed stratified draw; ``null`` scores all.
        by: what is compared, always of the plain logits: mean cross-entropy (``loss``, the paper) or ``accuracy``; for
            tasks with rare classes ``balanced_loss`` (the mean over classes of their mean cross-entropy),
            ``balanced_accuracy`` or ``mcc``.

    """

    split: Literal["dev", "test", "none"] = "dev"
    every: Count | None = None
    initialisations: Count = 20
    examples: Count | None = None
    by: Selection = "loss"

    @property
    def lower_is_better(self) -> bool:
        """Of what is compared."""
        return self.by in ("loss", "balanced_loss")


def check_window(window: int | None, steps: int) -> None:
    """Refuses a window of more inner steps than there are, which would be another address for all of them.

    Raises:
        ValueError: it is longer.

    """
    if window is not None and window > steps:
        raise ValueError(f"window: {window} is longer than steps: {steps}; give at most {steps}")


class OuterLoop(Protocol):
    """What the outer loops of all methods have."""

    @property
    def sampling(self) -> Sampling:
        """Of the real batches."""

    @property
    def loss(self) -> RealLoss:
        """Of the real batches."""


class Learned(SmallSet):
    """A set that an outer loop learns through the training of students; validation keeps the best of its states.

    Attributes:
        outer, validation, estimator: every such method has these keys.

    """

    if TYPE_CHECKING:  # fields with types and defaults of each method's own
        outer: OuterLoop
        validation: Validation
        estimator: Literal["auto", "unroll", "adjoint", "fused"]

    @property
    def checked_as(self) -> str | None:
        """The file, beside the prepared data, that notes that the hypergradient was checked.

        ``None`` where no check is written for the method; they are in ``pipeline/methods/gradient_check.py``.
        """
        return None
