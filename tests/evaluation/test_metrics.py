"""Metrics against values worked out by hand."""

import math

import pytest
import torch

from pipeline.evaluation.metrics import calibration_error, decisions, measure, predicted_majority


def test_two_classes_by_hand() -> None:
    labels = torch.tensor([1, 1, 1, 1, 0, 0])
    predicted = torch.tensor([1, 1, 1, 0, 1, 0])  # tp 3, fn 1, fp 1, tn 1
    found = decisions(predicted, labels, 2)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert found["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert found["macro_f1"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert found["mcc"] == pytest.approx((3 * 1 - 1 * 1) / math.sqrt(4 * 4 * 2 * 2))
    assert found["accuracy_f1"] == pytest.approx((4 / 6 + 3 / 4) / 2)


def test_majority_on_mrpc_is_the_papers_number() -> None:
    """The paper reports 74.8 = mean of accuracy 68.4 and F1 81.2 for always answering 1 on MRPC's 279 of 408."""
    labels = torch.tensor([1] * 279 + [0] * 129)
    found = decisions(predicted_majority(torch.tensor([[0.0, 1.0]]), 408), labels, 2)
    assert round(100 * found["accuracy_f1"], 1) == 74.8
    assert found["mcc"] == 0
    assert found["balanced_accuracy"] == 0.5


def test_f1_is_for_two_classes_only() -> None:
    found = decisions(torch.tensor([0, 1, 2]), torch.tensor([0, 2, 1]), 3)
    assert "f1" not in found
    assert "accuracy_f1" not in found
    assert found["macro_f1"] == pytest.approx(1 / 3)


def test_calibration_error_by_hand() -> None:
    confidence = torch.tensor([0.95, 0.95, 0.65, 0.65], dtype=torch.float64)
    probabilities = torch.stack([confidence, 1 - confidence], dim=1)
    labels = torch.tensor([0, 1, 0, 0])  # half right at 0.95, all right at 0.65
    assert calibration_error(probabilities, labels) == pytest.approx(0.5 * 0.45 + 0.5 * 0.35)


def test_measure_has_the_loss_in_nats() -> None:
    found = measure(torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]]), torch.tensor([0, 1]))
    assert found["loss"] == pytest.approx((math.log(4) + math.log(4 / 3)) / 2)
    assert found["accuracy"] == 0.5
    assert found["ece"] == pytest.approx(0.25)
