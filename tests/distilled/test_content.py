"""What a distilled set holds in memory: its batches, and where they are."""

from __future__ import annotations

from dataclasses import replace

import torch

from pipeline.distilled import DistilledSet, Recipe


def plain(shots: int, rows: list[list[int]], **recipe: object) -> DistilledSet:
    return DistilledSet(
        labels=torch.eye(2).repeat(shots, 1),
        label_ids=torch.arange(2 * shots) % 2,
        recipe=Recipe("ddal", **recipe),  # type: ignore[arg-type]
        inputs_embeds=torch.arange(2 * shots).float().view(-1, 1, 1).expand(-1, 3, 4),
        attention_labels=torch.zeros(2 * shots, 1, 1, 1, 3),
        learning_rates=torch.arange(1.0, 1 + len(rows)),
        batch_order=torch.tensor(rows),
    )


def test_batches_follow_the_order() -> None:
    found = plain(2, [[0, 1], [2, 3], [0, 1]], attention_weight=0.5).inner_batches()
    assert [batch.inputs[:, 0, 0].tolist() for batch in found] == [[0, 1], [2, 3], [0, 1]]
    assert [batch.learning_rate.item() for batch in found] == [1, 2, 3]
    assert {batch.attention_weight for batch in found} == {0.5}
    assert found[0].attention is not None
    torch.testing.assert_close(found[0].attention, torch.full((2, 1, 1, 1, 3), 1 / 3))


def test_steps_on_the_same_rows_share_their_tensors() -> None:
    """Fifty steps on one block need the memory of one."""
    made = plain(2, [[0, 1], [2, 3], [0, 1]])
    first, second, third = made.inner_batches()
    assert first.inputs is third.inputs
    assert first.labels is third.labels
    assert first.attention is third.attention
    assert first.learning_rate is not third.learning_rate
    assert first.inputs is not second.inputs
    assert made.inner_batches()[0].inputs is not first.inputs, "every call has a graph of its own"


def test_gradients_of_shared_tensors_add_up() -> None:
    made = replace(plain(1, [[0, 1], [1, 0], [0, 1]]), inputs_embeds=torch.zeros(2, 3, 4).requires_grad_())
    assert made.inputs_embeds is not None
    total = sum(((n + 1) * batch.inputs[0]).sum() for n, batch in enumerate(made.inner_batches()))
    total.backward()
    assert made.inputs_embeds.grad is not None
    assert made.inputs_embeds.grad[:, 0, 0].tolist() == [1 + 3, 2]


def test_the_order_of_batches_stays_on_the_cpu() -> None:
    elsewhere = plain(1, [[0, 1]], order="random").to("meta")
    assert elsewhere.labels.device.type == "meta"
    assert elsewhere.batch_order is not None
    assert elsewhere.batch_order.device.type == "cpu"
    assert elsewhere.inner_batches(0, 0)[0].inputs.device.type == "meta"


def test_random_order_is_drawn_by_seed_and_index_without_replacement() -> None:
    made = plain(4, [[0, 1, 2, 3]] * 6, order="random")
    draws = made.random_order(0, 0)
    assert torch.equal(draws, made.random_order(0, 0))
    assert not torch.equal(draws, made.random_order(0, 1))
    assert all(len(set(step.tolist())) == 4 for step in draws)
    assert len({tuple(step.tolist()) for step in draws}) > 1
