"""ADMM between embeddings and tokens: one round by hand, and the token that a loss of embeddings is lowest at."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.config import Text
from pipeline.methods.text.admm import LearnedADMM
from pipeline.methods.text.set import Vocabulary

# 0 and 5 are special, 4 is no word
MATRIX = torch.tensor([[-9.0], [0.0], [1.0], [3.0], [1.4], [9.0]])


def learned(ids: list[int], **relaxation: Any) -> LearnedADMM:
    method = Text.model_validate({"name": "text", "sequence_length": 4, "relaxation": {"name": "admm", **relaxation}})
    return LearnedADMM(method, 2, torch.tensor([[0, *ids, 5]] * 2), Vocabulary(MATRIX.double(), [0, 4, 5], [0, 5]))


def test_a_round_by_hand() -> None:
    """x: 1 -> 1.9 -> 2.2 with ρ = 0.5; then z = 3, u = 2.2 - 3; then the next gradient has ρ (x − z + u)."""
    made = learned([2], rho=0.5, every=2)
    points = made.tensors["inputs_embeds"]

    def gradient(value: float) -> list[float]:
        points.grad = torch.full_like(points, value)
        made.restrain(1.0)
        found: list[float] = points.grad[0, :, 0].tolist()
        return found

    assert gradient(2.0) == [0.0, 2.0, 0.0]
    with torch.no_grad():
        points[:, 1] = 1.9
    made.follow(1)
    assert made.token_ids.tolist() == [[0, 2, 5]] * 2
    assert gradient(2.0) == pytest.approx([0.0, 2.0 + 0.5 * 0.9, 0.0])
    with torch.no_grad():
        points[:, 1] = 2.2
    made.follow(2)
    assert made.token_ids.tolist() == [[0, 3, 5]] * 2
    assert made.multipliers[0, :, 0].tolist() == pytest.approx([0.0, -0.8, 0.0])
    assert gradient(2.0) == pytest.approx([0.0, 2.0 + 0.5 * (2.2 - 3 - 0.8), 0.0])
    made.follow(4)  # x + u = 1.4, where 4 would be nearest and is no word
    assert made.token_ids.tolist() == [[0, 2, 5]] * 2
    assert made.multipliers[0, 1, 0].item() == pytest.approx(0.4)


def test_in_a_scaled_gradient_the_penalty_is_scaled_too() -> None:
    """fp16: the whole gradient is divided again, before the step."""
    found = []
    for scale in (1.0, 65536.0):
        made = learned([2], rho=0.5, every=2)
        points = made.tensors["inputs_embeds"]
        with torch.no_grad():
            points[:, 1] = 1.9
        points.grad = torch.full_like(points, 2.0 * scale)
        made.restrain(scale)
        assert points.grad is not None
        found.append(points.grad / scale)
    assert torch.allclose(*found)
    assert found[0][0, 1].item() == pytest.approx(2.0 + 0.5 * 0.9)


def test_it_finds_the_tokens_that_a_loss_is_lowest_at() -> None:
    """(a + b − 3.9)² + (b − 0.4)² / 4 over two positions: lowest at (3, 1) of nine, far from where it begins."""
    made = learned([1, 3], rho=0.3, every=20)
    points = made.tensors["inputs_embeds"]

    def loss(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return (first + second - 3.9) ** 2 + (second - 0.4) ** 2 / 4

    words = [1, 2, 3]
    found = min((loss(MATRIX[a], MATRIX[b]).item(), [0, a, b, 5]) for a in words for b in words)
    optimizer = torch.optim.SGD([points], lr=0.1)
    for step in range(1, 201):
        optimizer.zero_grad()
        loss(points[:, 1], points[:, 2]).sum().backward()
        made.restrain(1.0)
        optimizer.step()
        made.follow(step)
    assert made.token_ids.tolist() == [found[1]] * 2
    assert found[1] != [0, 1, 3, 5]


def test_a_saved_state_is_put_back_whole() -> None:
    made = learned([2], every=1)
    with torch.no_grad():
        made.tensors["inputs_embeds"][:, 1] = 2.2
    made.follow(1)
    other = learned([2], every=1)
    other.restore(made.state())
    assert torch.equal(other.multipliers, made.multipliers)
    assert torch.equal(other.token_ids, made.token_ids)
    assert torch.equal(other.tensors["inputs_embeds"], made.tensors["inputs_embeds"])
    assert made.multipliers.abs().max() > 0
    made.put(torch.tensor([[0, 1, 5]] * 2))
    assert made.multipliers.abs().max() == 0
