"""What is learned of a set of vectors, and what its inner steps see."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config import BPTT
from pipeline.data.vectors import VectorSplit
from pipeline.methods.vectors.set import LearnedVectors, initial_tensors
from pipeline.randomness import numpy_generator

C, D = 3, 4


def method(**changes: Any) -> BPTT:
    return BPTT.model_validate({"name": "bptt", "shots": 2, "steps": 5} | changes)


def split() -> VectorSplit:
    rows = 30
    return VectorSplit(torch.randn(rows, D, generator=torch.Generator().manual_seed(1)), torch.arange(rows) % C)


def learned(**changes: Any) -> LearnedVectors:
    given = method(**changes)
    return LearnedVectors(given, C, initial_tensors(given, split(), C, given.shots, 3))


def test_samples_start_from_rows_of_their_class_and_stages_go_on_where_they_ended() -> None:
    train = split()
    two, five = (initial_tensors(method(shots=5), train, C, shots, 3)["vectors"] for shots in (2, 5))
    assert torch.equal(two, five[:6])
    known = {tuple(row.tolist()): int(label) for row, label in zip(train.vectors, train.labels, strict=True)}
    assert [known[tuple(row.tolist())] for row in five] == [0, 1, 2] * 5
    assert len({tuple(row.tolist()) for row in five}) == 15
    older = {"vectors": torch.full((6, D), 7.0)}
    grown = initial_tensors(method(shots=5), train, C, 5, 3, older)["vectors"]
    assert torch.equal(grown[:6], older["vectors"])
    assert torch.equal(grown[6:], five[6:])
    means = initial_tensors(method(initialise="centres"), train, C, 1, 3)["vectors"]
    torch.testing.assert_close(means, torch.stack([train.vectors[train.labels == label].mean(0) for label in range(C)]))
    centres = initial_tensors(method(initialise="centres"), train, C, 2, 3)["vectors"]
    for label in range(C):
        rows, both = train.vectors[train.labels == label], centres[label::C]
        nearest = torch.cdist(rows, both).argmin(dim=1)
        for place in range(2):
            torch.testing.assert_close(both[place], rows[nearest == place].mean(dim=0))
    noise = initial_tensors(method(initialise="noise", unit_norm="start"), train, C, 2, 3)["vectors"]
    assert noise.norm(dim=1).tolist() == pytest.approx([1.0] * 6)


def test_labels_and_step_size() -> None:
    eye = torch.eye(C)[[0, 1, 2, 0, 1, 2]]
    assert torch.equal(learned().labels, eye)
    assert set(learned().tensors) == {"vectors"}
    assert torch.equal(learned(labels="unrestricted").labels, eye)
    torch.testing.assert_close(learned(labels="soft", soft_start=1).labels, eye.softmax(dim=-1))
    likely = learned(labels="soft", soft_start=math.log(8)).labels[0]
    assert likely.tolist() == pytest.approx([0.8, 0.1, 0.1])
    assert learned().learning_rate.item() == pytest.approx(1e-3)
    own = learned(learn_learning_rate=True, learning_rate=0.02)
    assert own.learning_rate.item() == pytest.approx(0.02, rel=1e-5)
    assert own.view().learning_rates.tolist() == pytest.approx([0.02] * 5, rel=1e-5)  # type: ignore[union-attr]


def test_all_samples_in_every_step_share_their_tensors() -> None:
    batches = learned(labels="soft").inner_batches(0, 0, 4)
    assert len(batches) == 4
    assert len({id(batch.inputs) for batch in batches}) == len({id(batch.labels) for batch in batches}) == 1


def test_small_batches_are_drawn_per_class_and_step() -> None:
    set_ = learned(shots=4, batch_shots=2, classes_per_batch=2)
    known = {tuple(row.tolist()): number for number, row in enumerate(set_.tensors["vectors"].detach())}

    def drawn(seed: int, step: int, steps: int) -> list[list[int]]:
        found = []
        for batch in set_.inner_batches(seed, step, steps):
            numbers = [known[tuple(row.tolist())] for row in batch.inputs.detach()]
            assert torch.equal(batch.labels, set_.labels[numbers])
            found.append(numbers)
        return found

    found = drawn(1, 5, 40)
    for numbers in found:
        classes = [number % C for number in numbers]
        assert len(set(numbers)) == 4
        assert sorted(np.bincount(classes, minlength=C).tolist()) == [0, 2, 2]
    assert {number for numbers in found for number in numbers} == set(range(12))
    assert drawn(1, 5, 40) == found
    assert drawn(1, 6, 40) != found
    assert drawn(2, 5, 40) != found


def test_an_early_stage_has_fewer_samples_than_a_small_batch() -> None:
    given = method(shots=4, batch_shots=2, boost={"stages": [1, 4], "beta": 0})
    first, last = (LearnedVectors(given, C, initial_tensors(given, split(), C, shots, 3)) for shots in (1, 4))
    assert {len(batch.inputs) for batch in first.inner_batches(0, 0, 5)} == {C}
    assert len({id(batch.inputs) for batch in first.inner_batches(0, 0, 5)}) == 1, "all of them in every step"
    assert {len(batch.inputs) for batch in last.inner_batches(0, 0, 5)} == {2 * C}


def test_noise_and_mixup_by_hand() -> None:
    plain = learned()
    vectors, labels = plain.tensors["vectors"].detach(), plain.labels
    noisy = learned(augment={"noise": 0.5}).inner_batches(0, 0, 300)
    noise = torch.stack([batch.inputs.detach() for batch in noisy]) - vectors
    assert noise.std().item() == pytest.approx(0.5, rel=0.03)
    assert torch.equal(noisy[0].labels, labels)
    for t, batch in enumerate(learned(augment={"mixup": 0.4}).inner_batches(0, 9, 3)):
        share = numpy_generator(0, "mixup", 9, t).beta(0.4, 0.4)
        for row, label, input_ in zip(vectors, labels, batch.inputs.detach(), strict=True):
            others = [(share * row + (1 - share) * other - input_).norm().item() for other in vectors]
            place = int(np.argmin(others))
            assert others[place] < 1e-5
            at = (batch.inputs.detach() - input_).norm(dim=1).argmin()
            torch.testing.assert_close(batch.labels[at], share * label + (1 - share) * labels[place])
    clean = learned(augment={"noise": 0.5}).inner_batches(0, 0, 2, augmented=False)
    assert torch.equal(clean[0].inputs, vectors)


def test_projection_and_stale_rate() -> None:
    set_ = learned(labels="unrestricted", nonnegative_labels=True, unit_norm="every_step")
    before = set_.first(3)
    with torch.no_grad():
        for tensor in set_.tensors.values():
            tensor.add_(torch.full_like(tensor, -0.4))
    stepped = set_.state()
    set_.shrink(before, 0.25)
    for name, old in before.items():
        torch.testing.assert_close(set_.tensors[name][:3], old + 0.25 * (stepped[name][:3] - old))
        assert torch.equal(set_.tensors[name][3:], stepped[name][3:])
    set_.project()
    assert set_.tensors["vectors"].norm(dim=1).tolist() == pytest.approx([1.0] * 6)
    assert set_.tensors["labels"].min() == 0
    set_.restore(stepped)
    set_.shrink(before, 0.0)
    set_.project(first=3)
    assert all(torch.equal(set_.tensors[name][:3], old) for name, old in before.items())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"window": 6}, "window: 6 is longer than steps: 5; give at most 5"),
        ({"window": 3, "min_start": 3}, "min_start: 3 leaves no room .* give at most 2"),
        ({"batch_shots": 3}, "batch_shots: 3 samples per class are not there"),
        ({"boost": {"stages": [1, 3], "beta": 0.3}}, "boost.stages end at 3 and shots is 2"),
        ({"boost": {"stages": [2, 1], "beta": 0.3}}, "do not grow"),
        ({"nonnegative_labels": True}, "nonnegative_labels is for labels: unrestricted"),
    ],
)
def test_configs_that_mean_nothing_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        method(**changes)
