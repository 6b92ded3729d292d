"""What the outer loss does about classes of unequal size."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.schema import Frozen, Positive, Share, by_key


class CrossEntropy(Frozen):
    """Mean cross-entropy of the real batch, as the paper: rare classes count by their rows."""

    name: Literal["cross_entropy"]


class ClassWeights(Frozen):
    """Cross-entropy with a weight per class that is larger for rarer classes; its mean over training rows is 1.

    Attributes:
        beta: ``null`` weights by 1 / rows, so that all classes count the same; otherwise by (1 − β) / (1 − β^rows),
            the inverse effective number of samples (Cui et al., CVPR 2019), between equal weights (0) and that (1).

    """

    name: Literal["class_weights"]
    beta: Share | None = None


class LogitAdjustment(Frozen):
    """Cross-entropy of logits + τ · log(share of the class in train) (Menon et al., ICLR 2021, equation 10).

    The set then makes students whose own logits, to which nothing is added at test, are for classes of equal share
    (τ = 1): balanced accuracy gains and plain accuracy may lose. Who wants the students for the natural shares adds
    τ · log(share) to their logits.

    Attributes:
        tau: 1 is right for balanced accuracy where the student's probabilities are.

    """

    name: Literal["logit_adjustment"]
    tau: Positive = 1.0


RealLoss = Annotated[
    Annotated[CrossEntropy | ClassWeights | LogitAdjustment, Field(discriminator="name")],
    by_key("name"),
]
Selection = Literal["loss", "accuracy", "balanced_loss", "balanced_accuracy", "mcc"]
Sampling = Literal["shuffled", "balanced"]


def check_sampling(sampling: Sampling, loss: RealLoss) -> None:
    """Refuses two corrections for the classes' shares.

    Raises:
        ValueError: batches are balanced and the loss is corrected too.

    """
    if sampling == "balanced" and not isinstance(loss, CrossEntropy):
        raise ValueError(
            f"sampling: balanced and loss: {loss.name} both correct for the classes' shares, which would "
            f"count rare classes twice; keep one: sampling: shuffled, or loss: cross_entropy"
        )
