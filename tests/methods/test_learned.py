"""What DDAL learns: initial values, label modes, step sizes, order, warm start."""

from __future__ import annotations

import pytest
import torch

from pipeline.config import DDAL
from pipeline.methods.learned import LearnedSet, batch_order


def learned(classes: int = 2, **options: object) -> LearnedSet:
    method = DDAL(name="ddal", sequence_length=3, **options)  # type: ignore[arg-type]
    N = classes * method.shots
    steps = method.steps if method.learning_rate_per_step else 1
    tensors = {"inputs_embeds": torch.zeros(N, 3, 4), "learning_rates": torch.zeros(steps)}
    if method.labels != "hard":
        tensors["labels"] = torch.eye(classes).repeat(method.shots, 1)
    if method.attention_labels != "none":
        tensors["attention_labels"] = torch.zeros(N, 1, 1, 1, 3)
    return LearnedSet(method, classes, {name: tensor.requires_grad_() for name, tensor in tensors.items()})


def test_hard_labels_are_fixed_one_hot_of_class_i_mod_c() -> None:
    made = learned(classes=3, shots=2, batch_shots=2)
    assert "labels" not in made.tensors
    assert made.view().label_ids.tolist() == [0, 1, 2, 0, 1, 2]
    assert torch.equal(made.view().labels, torch.eye(3).repeat(2, 1))
    assert not made.view().labels.requires_grad


def test_soft_labels_start_at_the_softmax_of_one_hot() -> None:
    view = learned(labels="soft").view()
    e = torch.e
    torch.testing.assert_close(view.labels, torch.tensor([[e, 1.0], [1.0, e]]) / (e + 1))
    assert view.labels.requires_grad


def test_unrestricted_labels_start_at_one_hot_and_are_used_as_they_are() -> None:
    made = learned(labels="unrestricted")
    assert torch.equal(made.view().labels, torch.eye(2))
    with torch.no_grad():
        made.tensors["labels"][0, 0] = -7
    assert made.view().labels[0, 0] == -7


def test_step_sizes_are_positive_whatever_is_learned() -> None:
    made = learned(steps=2)
    with torch.no_grad():
        made.tensors["learning_rates"][:] = torch.tensor([-50.0, 3.0])
    rates = made.view().learning_rates
    assert rates is not None
    assert (rates > 0).all()
    assert rates[1].item() == pytest.approx(3.0486, abs=1e-4)  # ln(1 + e^3)


def test_one_step_size_for_all_steps_with_and_without_decay() -> None:
    ln2 = 0.693147
    same = learned(steps=4, learning_rate_per_step=False).view().learning_rates
    decayed = learned(steps=4, learning_rate_per_step=False, learning_rate_decay=True).view().learning_rates
    assert same is not None
    assert decayed is not None
    torch.testing.assert_close(same, torch.full((4,), ln2), rtol=1e-5, atol=0)
    torch.testing.assert_close(decayed, torch.tensor([1.0, 0.75, 0.5, 0.25]) * ln2, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"steps": 3}, [[0, 1]] * 3),
        ({"shots": 3, "batch_shots": 3}, [[0, 1, 2, 3, 4, 5]]),
        ({"shots": 2, "steps": 3}, [[0, 1], [2, 3], [0, 1]]),
        ({"shots": 4, "batch_shots": 2, "steps": 2}, [[0, 1, 2, 3], [4, 5, 6, 7]]),
    ],
)
def test_fixed_order_cycles_through_blocks(options: dict[str, int], expected: list[list[int]]) -> None:
    assert batch_order(DDAL(name="ddal", **options), 2).tolist() == expected  # type: ignore[arg-type]


def test_every_learned_tensor_has_its_own_step_size() -> None:
    made = learned(
        labels="unrestricted",
        attention_labels="cls",
        outer={"lr": 0.5, "lr_labels": 0.1, "lr_attention": 0.2},
    )
    rates = {id(group["params"][0]): group["lr"] for group in made.groups(made.method.outer)}
    assert {name: rates[id(tensor)] for name, tensor in made.tensors.items()} == {
        "inputs_embeds": 0.5,
        "labels": 0.1,
        "attention_labels": 0.2,
        "learning_rates": 0.5,
    }


def test_gradients_reach_every_learned_tensor() -> None:
    made = learned(labels="soft", attention_labels="cls", shots=2, steps=2)
    total = sum(
        batch.inputs.sum() + batch.labels[:, 0].sum() + batch.attention[..., 0].sum() + batch.learning_rate
        for batch in made.view().inner_batches()
    )
    total.backward()
    for name, tensor in made.tensors.items():
        assert tensor.grad is not None, name
        assert tensor.grad.abs().sum() > 0, name
