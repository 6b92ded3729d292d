"""The outer loss with class weights and logit offsets: by hand, what it is least at, and by every estimator."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.bilevel import CROSS_ENTROPY, Estimator, OuterLoss, hypergradient
from pipeline.bilevel.check import agreements
from pipeline.bilevel.inner import outer_loss
from tests.bilevel.problem import assert_close, batches, gradients, leaves, real_batch, student

Folder = Callable[..., Path]
WEIGHTS, OFFSETS = torch.tensor([2.5, 0.4], dtype=torch.float64), torch.tensor([-1.3, -0.2], dtype=torch.float64)
LOSSES = {
    "weights": OuterLoss(weights=WEIGHTS),
    "offsets": OuterLoss(offsets=OFFSETS),
    "both": OuterLoss(WEIGHTS, OFFSETS),
}
ESTIMATORS: list[Estimator] = ["unroll", "adjoint", "fused"]


def test_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0], [0.0, math.log(3.0)]])  # 1/4, 3/4; 1/2, 1/2
    labels = torch.tensor([0, 1, 1])
    plain = (math.log(4) + math.log(2) + math.log(4 / 3)) / 3
    weighted = (
        5 * math.log(4) + 0.5 * math.log(2) + 0.5 * math.log(4 / 3)
    ) / 3  # divided by rows, not by 5 + 0.5 + 0.5
    assert CROSS_ENTROPY.mean(logits, labels).item() == pytest.approx(plain)
    assert OuterLoss(weights=torch.tensor([5.0, 0.5])).mean(logits, labels).item() == pytest.approx(weighted)
    # + ln 3 for class 0: odds 3 : 3, 3 : 1, 3 : 3
    shifted = (math.log(2) + math.log(4) + math.log(2)) / 3
    assert OuterLoss(offsets=torch.tensor([math.log(3.0), 0.0])).mean(logits, labels).item() == pytest.approx(shifted)


@pytest.mark.parametrize("name", LOSSES)
def test_targets_say_the_same(name: str) -> None:
    loss, generator = LOSSES[name], torch.Generator().manual_seed(2)
    logits = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 0, 1, 1])
    total = -(loss.targets(labels, 2) * loss.shifted(logits).log_softmax(-1)).sum()
    assert total.item() / 6 == pytest.approx(loss.mean(logits, labels).item(), rel=1e-12)


@pytest.mark.parametrize("correction", ["class weights", "logit adjustment"])
def test_the_best_logits_are_for_classes_of_equal_share(correction: str) -> None:
    """On a whole population: log p(x | y) up to a constant per x, where plain cross-entropy learns log p(x, y)."""
    joint = torch.tensor([[0.02, 0.5], [0.05, 0.3], [0.03, 0.1]], dtype=torch.float64)  # [x, y]
    prior = joint.sum(0)
    loss = OuterLoss(1 / (2 * prior)) if correction == "class weights" else OuterLoss(offsets=prior.log())

    def population(loss: OuterLoss, logits: Tensor) -> Tensor:
        of_pairs = [
            joint[x, y] * loss.mean(logits[x : x + 1], torch.tensor([y])) for x in range(3) for y in range(2)
        ]  # fmt: skip
        return torch.stack(of_pairs).sum()

    for best, of in (((joint / prior).log(), loss), (joint.log(), CROSS_ENTROPY)):
        logits = best.clone().requires_grad_()
        population(of, logits).backward()
        assert logits.grad is not None
        assert logits.grad.abs().max() < 1e-15
    assert (joint / prior).argmax(1).tolist() == [1, 0, 0]
    assert joint.argmax(1).tolist() == [1, 1, 1], "who counts rows always answers the large class"


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_has_its_hypergradient(encoder_folder: Folder, estimator: Estimator, name: str) -> None:
    made, theta = student(encoder_folder)
    whole = real_batch(rows=7)
    found = agreements(
        estimator,
        made,
        theta,
        {tensor: leaf.detach() for tensor, leaf in leaves(1).items()},
        batches,
        [{key: tensor[rows] for key, tensor in whole.items()} for rows in (slice(0, 5), slice(5, 7))],
        step=1e-5,
        loss=LOSSES[name],
    )
    assert set(whole["labels"].tolist()) == {0, 1}
    for row in found:
        assert row.relative_error < (1e-9 if row.against == "unroll" else 1e-5), row


@pytest.mark.parametrize("name", LOSSES)
def test_every_estimator_has_its_value(encoder_folder: Folder, name: str) -> None:
    """Against the formula on the library's own logits; and other losses have other gradients."""
    made, theta = student(encoder_folder)
    loss, real = LOSSES[name], [real_batch(rows=6)]
    found, plain = {}, leaves(1)
    hypergradient("fused", made, theta, batches(plain), real)
    for estimator in ESTIMATORS:
        tensors = leaves(1)
        value = hypergradient(estimator, made, theta, batches(tensors), real, loss=loss, scale=3.0)
        found[estimator] = gradients(tensors)
        if estimator == "unroll":
            expected = value
        assert value.item() == pytest.approx(expected.item(), rel=1e-11)
    for estimator in ESTIMATORS[1:]:
        assert_close(found[estimator], found["unroll"], 1e-9)
    difference = (found["fused"]["inputs"] / 3 - gradients(plain)["inputs"]).norm()
    assert difference > 0.05 * gradients(plain)["inputs"].norm()
    logits, labels = made.logits(theta, real[0]), real[0]["labels"]
    shifted = logits + (OFFSETS if loss.offsets is not None else 0)
    of_rows = F.cross_entropy(shifted, labels, reduction="none") * (WEIGHTS[labels] if loss.weights is not None else 1)
    assert outer_loss(made, theta, real, loss).item() == pytest.approx(of_rows.mean().item(), rel=1e-12)
