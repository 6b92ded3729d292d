"""The matching loss and its gradient, against a computation with nothing in common but the formula."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.methods.dilm.matching import Matched, gradient, match, matched_names, weights
from pipeline.students.encoder import Student
from tests.conftest import encoder

FAMILIES = ["bert", "roberta", "distilbert"]


def batch(rows: int, seed: int, label: int) -> dict[str, Tensor]:
    """Real text of one class, some of it padded."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 40, (rows, 9), generator=random)
    lengths = torch.randint(3, 10, (rows, 1), generator=random)
    mask = (torch.arange(9) < lengths).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": torch.full((rows,), label)}


def student_of(family: str) -> tuple[Student, dict[str, Tensor]]:
    student = Student(encoder(family), [])
    return student, student.initial(0, 0)


def by_autograd(family: str, names: list[str], teacher: dict[str, Tensor], texts: dict[str, Tensor], losses: Tensor,
                temperature: float) -> tuple[float, Tensor]:  # fmt: skip
    """1 − cos with one backward pass per text, in float64, and its derivative with respect to the losses.

    The gradients of the texts are a constant matrix; autograd differentiates the formula with respect to ℓ.
    """
    model = copy.deepcopy(encoder(family)).double()
    named = dict(model.named_parameters())

    def flat(rows: dict[str, Tensor], weight: Tensor) -> Tensor:
        logits = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
        each = F.cross_entropy(logits, rows["labels"], reduction="none")
        found = torch.autograd.grad((weight * each).sum(), [named[name] for name in names], allow_unused=True)
        return torch.cat(
            [(torch.zeros_like(named[n]) if g is None else g).flatten() for n, g in zip(names, found, strict=True)]
        )

    count = len(teacher["labels"])
    real = flat(teacher, torch.full((count,), 1 / count, dtype=torch.float64))
    each = torch.stack([flat(texts, row) for row in torch.eye(len(texts["labels"]), dtype=torch.float64)])
    leaf = losses.detach().double().requires_grad_()
    shares = torch.exp(-leaf / temperature) / torch.exp(-leaf / temperature).sum()
    made = shares @ each
    loss = 1 - (made @ real) / (made.norm() * real.norm())
    (found,) = torch.autograd.grad(loss, leaf)
    return loss.item(), found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("matched", ["head", "last_layer", "all"])
def test_loss_and_gradient_equal_those_text_by_text(family: str, matched: Matched) -> None:
    student, theta = student_of(family)
    names = matched_names(theta, student.body, matched)
    teacher, texts = batch(7, 1, 1), batch(5, 2, 1)
    losses = torch.tensor([2.0, 3.5, 1.0, 2.5, 4.0], requires_grad=True)
    real, _ = gradient(student, theta, names, teacher)
    of_rows = weights(losses, 0.7)
    loss, slope = match(student, theta, names, real, texts, of_rows)
    of_rows.backward(slope)
    expected, derivative = by_autograd(family, names, teacher, texts, losses, 0.7)
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    assert losses.grad is not None
    assert losses.grad.tolist() == pytest.approx(derivative.tolist(), abs=2e-5 * float(derivative.abs().max()) + 1e-6)
    assert float(derivative.abs().max()) > 1e-4


def test_a_batch_that_is_its_own_teacher_costs_nothing() -> None:
    student, theta = student_of("bert")
    names, texts = matched_names(theta, student.body, "head"), batch(6, 3, 0)
    real, _ = gradient(student, theta, names, texts)
    loss, slope = match(student, theta, names, real, texts, torch.full((6,), 1 / 6))
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert (slope - slope.mean()).abs().max() < 1e-3


def test_a_gradient_of_length_zero_has_no_direction() -> None:
    student, theta = student_of("bert")
    names, texts = matched_names(theta, student.body, "head"), batch(4, 3, 0)
    nothing = {name: torch.zeros_like(theta[name]) for name in names}
    loss, slope = match(student, theta, names, nothing, texts, torch.full((4,), 0.25))
    assert loss.item() == 1.0
    assert not slope.any()


def test_weights_are_a_softmax_of_minus_the_losses() -> None:
    found = weights(torch.tensor([1.0, 2.0, 3.0]), 2.0)
    assert found.sum().item() == pytest.approx(1)
    assert (found[0] / found[1]).item() == pytest.approx(torch.tensor(0.5).exp().item())
    assert found.argmax() == 0


@pytest.mark.parametrize(
    ("family", "head", "layer"),
    [
        ("bert", {"classifier.weight", "classifier.bias"}, "bert.pooler.dense.weight"),
        ("roberta", {"classifier.dense.weight"}, "roberta.encoder.layer.1.output.dense.bias"),
        ("distilbert", {"pre_classifier.weight", "classifier.bias"}, "distilbert.transformer.layer.1.ffn.lin2.bias"),
    ],
)  # fmt: skip
def test_what_is_matched(family: str, head: set[str], layer: str) -> None:
    student, theta = student_of(family)
    only = matched_names(theta, student.body, "head")
    assert head <= set(only)
    assert all(not name.startswith(student.body) for name in only)
    more = matched_names(theta, student.body, "last_layer")
    assert set(only) < set(more)
    assert layer in more
    assert not any(".layer.0." in name or "embeddings" in name for name in more)
    assert matched_names(theta, student.body, "all") == list(theta)


def test_the_slope_is_that_of_finite_differences() -> None:
    student, theta = student_of("bert")
    texts = batch(4, 5, 0)
    direction = {name: torch.randn(theta[name].shape, generator=torch.Generator().manual_seed(1)) for name in theta}
    logits: Callable[[float], Tensor] = lambda step: student.logits(  # noqa: E731
        {name: theta[name] + step * direction[name] for name in theta}, texts
    )
    numeric = (logits(1e-3) - logits(-1e-3)) / 2e-3
    assert torch.allclose(student.slope(theta, direction, texts), numeric, rtol=2e-2, atol=2e-2)
