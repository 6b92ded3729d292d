"""Ensembles: K students at once are K students one by one."""

from __future__ import annotations

import pytest
import torch

from pipeline.bilevel import CROSS_ENTROPY, Estimator, OuterLoss, descend, hypergradient, soft_cross_entropy
from pipeline.bilevel.check import agreements
from tests.bilevel.members import Members, batches, drawn, leaves, of, real_batch, start
from tests.bilevel.problem import assert_close, gradients
from tests.bilevel.test_estimators import OPTIMISERS

ESTIMATORS: list[Estimator] = ["unroll", "adjoint"]
WEIGHTED = OuterLoss(weights=torch.tensor([2.0, 0.5, 0.7]), offsets=torch.tensor([0.3, -0.2, 0.1]))


def test_the_inner_loss_adds_members_up_and_the_outer_loss_is_their_mean() -> None:
    logits, labels = drawn(0, 3, 5, 4), drawn(1, 5, 4)
    alone = [soft_cross_entropy(member, labels).item() for member in logits]
    assert soft_cross_entropy(logits, labels).item() == pytest.approx(sum(alone), rel=1e-12)
    own = drawn(2, 3, 5, 4)
    alone = [soft_cross_entropy(member, each).item() for member, each in zip(logits, own, strict=True)]
    assert soft_cross_entropy(logits, own).item() == pytest.approx(sum(alone), rel=1e-12)
    classes = torch.tensor([0, 1, 2, 1, 0])
    for loss in (CROSS_ENTROPY, WEIGHTED):
        means = [loss.mean(member[:, :3], classes).item() for member in logits]
        assert loss.mean(logits[..., :3], classes).item() == pytest.approx(sum(means) / 3, rel=1e-12)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_hypergradient_is_the_mean_over_members(estimator: Estimator, optimiser: str) -> None:
    alone = []
    rule = OPTIMISERS[optimiser]
    for member in (0, 4, 7):
        tensors = leaves()
        hypergradient(estimator, Members(), start([member]), batches(tensors, 5), [real_batch()], optimiser=rule)
        alone.append(gradients(tensors))
    mean = {name: torch.stack([each[name] for each in alone]).mean(dim=0) for name in alone[0]}
    together = leaves()
    hypergradient(estimator, Members(), start([0, 4, 7]), batches(together, 5), [real_batch()], optimiser=rule)
    assert_close(gradients(together), mean, 1e-12)
    assert (alone[0]["vectors"] - alone[1]["vectors"]).norm() > 0.1 * alone[0]["vectors"].norm()


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("window", [None, 2])
def test_it_agrees_with_differences(estimator: Estimator, optimiser: str, window: int | None) -> None:
    plain = {name: leaf.detach() for name, leaf in leaves().items()}
    found = agreements(
        estimator,
        Members(),
        start([0, 1]),
        plain,
        of(4),
        [real_batch()],
        step=1e-5,
        optimiser=OPTIMISERS[optimiser],
        window=window,
        loss=WEIGHTED,
    )
    assert len(found) == 6
    for row in found:
        assert row.relative_error < (1e-9 if row.against == "unroll" else 1e-5), row


def test_members_trained_together_are_those_trained_alone() -> None:
    together = descend(Members(), start([3, 5]), batches(leaves(), 6), optimiser=OPTIMISERS["adam"])
    for place, member in enumerate((3, 5)):
        alone = descend(Members(), start([member]), batches(leaves(), 6), optimiser=OPTIMISERS["adam"])
        for name, tensor in alone.items():
            torch.testing.assert_close(together[name][place], tensor[0], rtol=1e-12, atol=1e-12)
