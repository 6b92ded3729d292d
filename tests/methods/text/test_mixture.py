"""Text learned as mixtures of tokens: shares and embeddings by hand, derivatives beside differences, annealing."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.bilevel import Estimator, InnerBatch
from pipeline.bilevel.check import agreements
from pipeline.config import Outer, Text
from pipeline.methods.text.mixture import LearnedMixture
from pipeline.methods.text.set import Vocabulary
from pipeline.students.encoder import Student
from tests.conftest import VOCABULARY

# on a line, so that distances are differences; 0 and 6 are special, 5 is no word
MATRIX = torch.tensor([[9.0, 0.0], [0.0, 1.0], [1.0, 1.0], [3.0, 1.0], [7.0, 1.0], [0.5, 1.0], [-9.0, 0.0]])
IDS = torch.tensor([[0, 2, 6], [0, 4, 6]])


def learned(ids: Tensor = IDS, matrix: Tensor = MATRIX, labels: str = "hard", **relaxation: Any) -> LearnedMixture:
    method = Text.model_validate(
        {"name": "text", "sequence_length": 4, "labels": labels, "relaxation": {"name": "mixture"} | relaxation}
    )
    return LearnedMixture(method, 2, ids, Vocabulary(matrix.double(), [0, 5, 6], [0, 6]))


def inputs(made: LearnedMixture) -> Tensor:
    found = made.view().inputs_embeds
    assert found is not None
    return found


@pytest.mark.parametrize(("candidates", "expected"), [(3, [[2, 1, 3], [4, 3, 2]]), (99, [[2, 1, 3, 4], [4, 3, 2, 1]])])
def test_candidates_are_the_nearest_words(candidates: int, expected: list[list[int]]) -> None:
    """The first is where a position begins, which may itself be no word; special tokens and non-words never follow."""
    assert learned(candidates=candidates).candidates[:, 1].tolist() == expected
    odd = learned(torch.tensor([[0, 5, 6], [0, 1, 6]]), candidates=3).candidates
    assert odd[:, 1].tolist() == [[5, 1, 2], [1, 2, 3]]


def test_what_students_see_at_first_by_hand() -> None:
    """0.6 of the token and 0.2 of either neighbour; special tokens as they are, and special ones for ever."""
    made = learned(candidates=3, share=0.6, temperature=2.0)
    expected = MATRIX.double()[IDS]
    expected[0, 1, 0] = 0.6 * 1 + 0.2 * 0 + 0.2 * 3
    expected[1, 1, 0] = 0.6 * 7 + 0.2 * 3 + 0.2 * 1
    torch.testing.assert_close(inputs(made), expected, rtol=0, atol=1e-6)
    inputs(made).square().sum().backward()
    gradient = made.tensors["logits"].grad
    assert gradient is not None
    assert gradient[:, [0, 2]].abs().max() == 0
    assert gradient[:, 1].abs().min() > 0


def test_the_temperature_falls_geometrically_and_sharpens() -> None:
    made = learned(candidates=3, temperature=1.0, last_temperature=0.01)
    for step, temperature in enumerate([1.0, 0.1, 0.01]):
        made.begin(step, 3, 7)
        assert made.temperature == pytest.approx(temperature)
    torch.testing.assert_close(inputs(made), MATRIX.double()[IDS])


@pytest.mark.parametrize("straight_through", [False, True])
@pytest.mark.parametrize("gumbel", [False, True])
def test_the_derivative_of_what_students_see(straight_through: bool, gumbel: bool) -> None:
    """Beside central differences of the mixture, in float64; straight through the same derivative at a token."""
    made = learned(candidates=4, straight_through=straight_through, gumbel=gumbel)
    made.begin(1, 3, 7)
    logits = made.tensors["logits"]
    towards = torch.randn(inputs(made).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (inputs(made) * towards).sum().backward()
    soft = learned(candidates=4, gumbel=gumbel)
    soft.begin(1, 3, 7)
    other, step = soft.tensors["logits"].detach(), 1e-6
    for place in [(0, 1, 0), (0, 1, 3), (1, 1, 2)]:
        ends = []
        for sign in (1, -1):
            other[place] += sign * step
            ends.append((inputs(soft) * towards).sum().item())
            other[place] -= sign * step
        assert logits.grad is not None
        assert logits.grad[place].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)
    if straight_through:
        distances = torch.cdist(inputs(made).detach().flatten(end_dim=1), MATRIX.double())
        assert distances.min(dim=1).values.max() < 1e-9
    else:
        assert not torch.allclose(inputs(made)[:, 1], MATRIX.double()[IDS[:, 1]], atol=1e-3)


@pytest.mark.parametrize("estimator", ["unroll", "adjoint", "fused"])
def test_the_hypergradient_of_the_logits(encoder_folder: Callable[..., Path], estimator: Estimator) -> None:
    """Through two steps of a student, in float64: beside the unroll, and beside differences of the outer loss."""
    fresh = ["classifier.weight", "classifier.bias"]
    student = Student.load(encoder_folder("bert"), fresh, "cpu", dtype=torch.float64)
    cls, sep = VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")
    options = {
        "name": "text",
        "sequence_length": 5,
        "labels": "soft",
        "relaxation": {"name": "mixture", "gumbel": True},
    }
    method = Text.model_validate(options | {"steps": 2, "learning_rate": 0.5, "inner_optimizer": "gd"})
    vocabulary = Vocabulary(student.embedding_matrix, list(range(5)), list(range(5)))
    made = LearnedMixture(method, 2, torch.tensor([[cls, 6, 8, 9, sep], [cls, 7, 5, 10, sep]]), vocabulary)
    made.begin(1, 3, 7)
    rows = torch.randint(5, len(VOCABULARY), (6, 7), generator=torch.Generator().manual_seed(2))
    real = {"input_ids": rows, "attention_mask": torch.ones_like(rows), "labels": torch.arange(6) % 2}

    def build(tensors: dict[str, Tensor]) -> list[InnerBatch]:
        made.tensors = dict(tensors)
        return made.view().inner_batches()

    leaves = {name: leaf.detach().clone() for name, leaf in made.tensors.items()}
    found = agreements(estimator, student, student.initial(3, 0), leaves, build, [real], step=1e-5)
    assert {row.tensor for row in found} == {"logits", "labels"}
    for row in found:
        assert row.relative_error < (1e-9 if row.against == "unroll" else 1e-6), row


def test_noise_is_gumbels_and_a_function_of_the_step() -> None:
    """Mean γ and variance π²/6; which token is largest has the probability of its share (Gumbel's trick)."""
    ids = torch.full((4000, 1), 2)
    made = learned(ids, candidates=4, gumbel=True, share=0.4)
    made.begin(3, 9, 7)
    noise = made._noise
    assert isinstance(noise, Tensor)
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.03)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.08)
    share = ((made.tensors["logits"].detach() + noise).argmax(dim=-1) == 0).double().mean().item()
    assert share == pytest.approx(0.4, abs=0.03)
    again = learned(ids, candidates=4, gumbel=True)
    again.begin(2, 9, 7)
    assert not torch.equal(noise, torch.as_tensor(again._noise))
    again.begin(3, 9, 7)
    assert torch.equal(noise, torch.as_tensor(again._noise))


def test_the_likeliest_candidate_is_the_text() -> None:
    """Of the logits without noise; a special token stays, whatever its logits; a set that is put begins anew."""
    made = learned(candidates=3, gumbel=True)
    with torch.no_grad():
        made.tensors["logits"][:, :, 2] = 9.0
    made.begin(0, 3, 7)
    made.follow(1)
    assert made.token_ids.tolist() == [[0, 3, 6], [0, 2, 6]]
    saved, other = made.state(), learned(candidates=3)
    other.restore(saved)
    assert torch.equal(other.token_ids, made.token_ids)
    assert torch.equal(other.candidates, made.candidates)
    assert torch.equal(other.tensors["logits"], made.tensors["logits"])
    made.put(torch.tensor([[0, 1, 6], [0, 3, 6]]))
    assert made.candidates[:, 1].tolist() == [[1, 2, 3], [3, 2, 1]]
    made.follow(1)
    assert made.token_ids.tolist() == [[0, 1, 6], [0, 3, 6]]


def test_labels_have_their_own_step_size() -> None:
    made = learned(labels="soft")
    groups = {id(group["params"][0]): group["lr"] for group in made.groups(Outer(lr=0.5, lr_labels=0.1))}
    assert groups == {id(made.tensors["logits"]): 0.5, id(made.tensors["labels"]): 0.1}


def test_it_may_not_blur() -> None:
    with pytest.raises(ValueError, match=r"last_temperature: 2.0 is above temperature: 1.0"):
        learned(last_temperature=2.0)
