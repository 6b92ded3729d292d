"""Samples of several lengths: what a student makes of padding."""

from __future__ import annotations

import pytest
import torch

from pipeline.students.encoder import Student
from pipeline.students.masked import Masked, with_mask
from tests.conftest import encoder

FIRST = ["bert", "roberta", "electra", "albert", "mpnet", "distilbert"]  # classify by their first token


@pytest.mark.parametrize("family", FIRST)
def test_it_is_what_the_library_makes_of_padded_text(family: str) -> None:
    """Token by token the same positions, whatever stands in the padding; and as of each sample alone."""
    model = encoder(family)
    student = Student(model, ["classifier.weight"] if family == "bert" else [])
    # RoBERTa's own padding id is 0 here, from which it numbers positions
    ids = torch.tensor([[2, 7, 8, 9, 10, 3], [2, 11, 12, 3, 0, 0]])
    mask = (ids > 0).long()
    with torch.no_grad():  # fresh classifiers are small, and so would be what padding does to logits
        for name, parameter in model.named_parameters():
            if name.startswith("classifier"):
                parameter *= 50
    theta = dict(model.named_parameters())
    held = student.embedding_matrix[ids]
    noisy = torch.where(mask.bool().unsqueeze(-1), held, torch.randn_like(held))
    logits, rows = Masked(student)(theta, with_mask(noisy, mask))
    assert rows is None
    with torch.no_grad():
        wanted = model(input_ids=ids, attention_mask=mask).logits
        alone = model(input_ids=ids[1:, :4]).logits
    torch.testing.assert_close(logits.detach(), wanted)
    torch.testing.assert_close(logits[1:].detach(), alone)
    assert not torch.allclose(student(theta, noisy)[0][1], wanted[1], atol=1e-4)  # which attends to all


def test_it_has_second_derivatives_and_no_passes() -> None:
    student = Student(encoder("bert").double(), ["classifier.weight", "classifier.bias"])
    learner, theta = Masked(student), student.initial(0, 0)
    assert not hasattr(learner, "fused")
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    inputs = student.embedding_matrix[torch.tensor([[2, 7, 3, 0], [2, 8, 9, 3]])]
    bias = theta["classifier.bias"]

    def slope(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        logits, _ = learner(theta | {"classifier.bias": b}, with_mask(x, mask))
        (found,) = torch.autograd.grad(logits.log_softmax(dim=-1)[:, 0].sum(), b, create_graph=True)
        return found

    def of_first_column(part: torch.Tensor) -> torch.Tensor:
        return slope(torch.cat([part, inputs[..., 1:]], dim=-1), bias.clone().requires_grad_())

    small = inputs[:, :, :1].clone().requires_grad_()
    assert torch.autograd.gradcheck(of_first_column, (small,))
    (found,) = torch.autograd.grad(of_first_column(small)[0], small)
    assert found[0, 3].item() == 0.0
    assert found[1, 3].item() != 0.0
