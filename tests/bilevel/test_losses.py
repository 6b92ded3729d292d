"""The two terms of the inner loss against values worked out by hand."""

import math

import pytest
import torch

from pipeline.bilevel import attention_loss, soft_cross_entropy


def test_hard_labels_are_ordinary_cross_entropy() -> None:
    logits = torch.tensor([[1.0, 3.0], [2.0, 0.0]])
    labels = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    by_hand = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2
    assert soft_cross_entropy(logits, labels).item() == pytest.approx(by_hand)


def test_unrestricted_labels_need_not_sum_to_one() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]])  # probabilities 1/4, 3/4
    labels = torch.tensor([[-0.5, 2.0]])
    by_hand = 0.5 * math.log(1 / 4) - 2.0 * math.log(3 / 4)
    assert soft_cross_entropy(logits, labels).item() == pytest.approx(by_hand)


def test_attention_loss_by_hand() -> None:
    attention = torch.tensor([0.5, 0.25, 0.25]).view(1, 1, 1, 1, 3)
    labels = torch.tensor([0.25, 0.25, 0.5]).view(1, 1, 1, 1, 3)
    by_hand = 0.25 * math.log(0.25 / 0.5) + 0.5 * math.log(0.5 / 0.25)
    assert attention_loss(attention, labels).item() == pytest.approx(by_hand)


def test_attention_loss_sums_keys_and_means_everything_else() -> None:
    generator = torch.Generator().manual_seed(0)
    attention = torch.rand(2, 3, 4, 5, 6, generator=generator, dtype=torch.float64).softmax(dim=-1)
    labels = torch.rand(2, 3, 4, 5, 6, generator=generator, dtype=torch.float64).softmax(dim=-1)
    total = 0.0
    for m in range(2):
        for layer in range(3):
            for head in range(4):
                for query in range(5):
                    p, a = attention[m, layer, head, query], labels[m, layer, head, query]
                    total += sum(float(a[k] * (a[k].log() - p[k].log())) for k in range(6))
    assert attention_loss(attention, labels).item() == pytest.approx(total / (2 * 3 * 4 * 5), rel=1e-9)


def test_attention_loss_is_zero_at_its_label_with_zero_gradient_in_the_logits() -> None:
    logits = torch.randn(1, 1, 1, 1, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    student = logits.clone().requires_grad_()
    loss = attention_loss(student.softmax(-1), logits.softmax(-1))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-10)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-10
