"""The unrolled hypergradient against finite differences, and against a reference written here from the paper."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from pipeline.bilevel import InnerBatch, descend, hypergradient, inner_loss
from pipeline.bilevel.hypergradient import Estimator
from pipeline.students.encoder import Student

FRESH = ["classifier.weight", "classifier.bias"]
M, S, C, T = 4, 6, 2, 3


def double_bert(folder: Path) -> PreTrainedModel:
    return AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=C, attn_implementation="eager", dtype=torch.float64
    )


def leaves(rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    made = {
        "inputs": torch.randn(M, S, 32, generator=generator, dtype=torch.float64),
        "labels": torch.eye(C, dtype=torch.float64).repeat(M // C, 1),
        "rates": torch.tensor([0.3, 0.2, 0.4], dtype=torch.float64),
    }
    if rows:
        made["attention"] = torch.randn(M, 2, 4, rows, S, generator=generator, dtype=torch.float64)
    return {name: value.requires_grad_() for name, value in made.items()}


def batches(tensors: dict[str, Tensor], soft: bool, weight: float = 1.0) -> list[InnerBatch]:
    labels = tensors["labels"].softmax(-1) if soft else tensors["labels"]
    attention = tensors["attention"].softmax(-1) if "attention" in tensors else None
    # step t sees two of the four samples: both halves are used, the first one twice
    rows = [[0, 1], [2, 3], [0, 1]]
    return [
        InnerBatch(
            tensors["inputs"][r], labels[r], None if attention is None else attention[r], weight, tensors["rates"][t]
        )
        for t, r in enumerate(rows)
    ]


@pytest.fixture(scope="module")
def real() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(9)
    mask = torch.ones(5, 9, dtype=torch.long)
    mask[3, 6:] = 0
    return {
        "input_ids": torch.randint(5, 40, (5, 9), generator=generator),
        "attention_mask": mask,
        "labels": torch.randint(0, C, (5,), generator=generator),
    }


@pytest.mark.parametrize("estimator", ["unroll", "adjoint"])
@pytest.mark.parametrize("rows", [0, 1, S])
@pytest.mark.parametrize("soft", [False, True])
def test_equals_finite_differences(
    encoder_folder: Callable[[str], Path], real: dict[str, Tensor], rows: int, soft: bool, estimator: Estimator
) -> None:
    student = Student(double_bert(encoder_folder("bert")), FRESH)
    theta = student.initial(0, 0)
    tensors = leaves(rows)

    def outer(parameters: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(student.logits(parameters, real), real["labels"])

    def value(changed: dict[str, Tensor]) -> float:
        return outer(descend(student, theta, batches(changed, soft))).item()

    loss = hypergradient(estimator, student, theta, batches(tensors, soft), outer)
    assert loss.item() == pytest.approx(value(tensors), rel=1e-12)
    generator = torch.Generator().manual_seed(1)
    for name, leaf in tensors.items():
        for _ in range(3):
            direction = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
            direction /= direction.norm()
            eps = 1e-4
            ends = [value(tensors | {name: leaf.detach() + sign * eps * direction}) for sign in (1, -1)]
            numeric = (ends[0] - ends[1]) / (2 * eps)
            assert leaf.grad is not None
            assert (leaf.grad * direction).sum().item() == pytest.approx(numeric, rel=1e-5, abs=1e-10), name


@pytest.mark.parametrize("estimator", ["unroll", "adjoint"])
@pytest.mark.parametrize("rows", [0, 1])
def test_whole_step_equals_an_independent_reference(
    encoder_folder: Callable[[str], Path], real: dict[str, Tensor], rows: int, estimator: Estimator
) -> None:
    """Written from the paper's algorithm with transformers' own loss path; shares no code with the product."""
    model = double_bert(encoder_folder("bert")).eval()
    generator = torch.Generator().manual_seed(2)
    model.classifier.weight.data.normal_(0, 0.02, generator=generator)
    reference, ours = leaves(rows), leaves(rows)

    current = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
    attended = reference["attention"].softmax(-1) if rows else None
    for t, r in enumerate([[0, 1], [2, 3], [0, 1]]):
        output = functional_call(
            model, current, (), {"inputs_embeds": reference["inputs"][r], "output_attentions": True}
        )
        loss = -(reference["labels"][r] * output.logits.log_softmax(-1)).sum(-1).mean()
        if attended is not None:
            for layer, maps in enumerate(output.attentions):
                kl = F.kl_div((maps[:, :, :1] + 1e-12).log(), attended[r][:, layer], reduction="none").sum(-1)
                loss = loss + kl.mean() / len(output.attentions)
        names = [name for name in current if "word_embeddings" not in name]
        gradients = torch.autograd.grad(loss, [current[name] for name in names], create_graph=True)
        current = current | {n: current[n] - reference["rates"][t] * g for n, g in zip(names, gradients, strict=True)}
    inputs = {name: tensor for name, tensor in real.items() if name != "labels"}
    F.cross_entropy(functional_call(model, current, (), inputs).logits, real["labels"]).backward()

    student = Student(model, [])
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    hypergradient(
        estimator, student, start, batches(ours, soft=False),
        lambda parameters: F.cross_entropy(student.logits(parameters, real), real["labels"]),
    )  # fmt: skip
    for name, leaf in reference.items():
        assert leaf.grad is not None
        assert leaf.grad.norm() > 0
        torch.testing.assert_close(ours[name].grad, leaf.grad, rtol=1e-9, atol=1e-14)


def test_weight_zero_equals_no_attention_labels(encoder_folder: Callable[[str], Path], real: dict[str, Tensor]) -> None:
    student = Student(double_bert(encoder_folder("bert")), FRESH)
    theta = student.initial(0, 0)
    with_labels, without = leaves(1), leaves(0)

    def outer(parameters: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(student.logits(parameters, real), real["labels"])

    hypergradient("unroll", student, theta, batches(with_labels, soft=False, weight=0.0), outer)
    hypergradient("unroll", student, theta, batches(without, soft=False), outer)
    for name, leaf in without.items():
        assert torch.equal(with_labels[name].grad, leaf.grad), name
    assert with_labels["attention"].grad is None or not with_labels["attention"].grad.any()


def test_descend_is_the_same_with_and_without_graph(encoder_folder: Callable[[str], Path]) -> None:
    student = Student(double_bert(encoder_folder("bert")), FRESH)
    theta = student.initial(0, 0)
    kept = {name: value.clone() for name, value in theta.items()}
    made = batches(leaves(1), soft=False)
    plain, graph = descend(student, theta, made), descend(student, theta, made, differentiable=True)
    changed = 0
    for name in theta:
        assert torch.equal(plain[name], graph[name].detach()), name
        assert torch.equal(theta[name], kept[name]), f"{name} was changed in place"
        changed += not torch.equal(plain[name], theta[name])
    assert changed == len(theta) - 1  # all but the word embeddings, which input embeddings do not touch


def test_one_step_is_theta_minus_eta_gradient(encoder_folder: Callable[[str], Path]) -> None:
    student = Student(double_bert(encoder_folder("bert")), FRESH)
    theta = {name: value.requires_grad_() for name, value in student.initial(0, 0).items()}
    batch = batches(leaves(0), soft=False)[0]
    inner_loss(student, theta, batch).backward()
    stepped = descend(student, {name: value.detach() for name, value in theta.items()}, [batch])
    expected = theta["classifier.weight"] - 0.3 * theta["classifier.weight"].grad
    torch.testing.assert_close(stepped["classifier.weight"], expected.detach())


def test_the_adjoint_keeps_one_step_alive(encoder_folder: Callable[[str], Path]) -> None:
    """Graph nodes alive while the outer loss is taken: none of the inner steps', whatever T is."""
    student = Student(double_bert(encoder_folder("bert")), FRESH)
    theta = student.initial(0, 0)
    seen: dict[str, bool] = {}
    for estimator in ("unroll", "adjoint"):

        def outer(parameters: dict[str, Tensor], estimator: str = estimator) -> Tensor:
            seen[estimator] = parameters["classifier.weight"].grad_fn is not None
            return parameters["classifier.weight"].square().sum()

        hypergradient(estimator, student, theta, batches(leaves(0), soft=False), outer)
    assert seen == {"unroll": True, "adjoint": False}


def test_adjoint_passes_dropout_and_loss_scaling_like_unroll(
    encoder_folder: Callable[[str], Path], real: dict[str, Tensor]
) -> None:
    student = Student(double_bert(encoder_folder("bert")), FRESH, dropout=True)
    theta = student.initial(0, 0)
    found = {}
    for estimator in ("unroll", "adjoint"):
        tensors = leaves(1)
        hypergradient(
            estimator,
            student,
            theta,
            batches(tensors, soft=False),
            lambda parameters: F.cross_entropy(student.logits(parameters, real), real["labels"]),
            scale=lambda loss: 1024 * loss,
            dropping=lambda step: student.dropping(3, step),
        )
        found[estimator] = tensors
    for name, leaf in found["unroll"].items():
        torch.testing.assert_close(found["adjoint"][name].grad, leaf.grad, rtol=1e-9, atol=1e-12)
