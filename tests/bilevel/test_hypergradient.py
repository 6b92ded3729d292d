"""The hypergradient against a reference written here from the paper, and what must not change it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from pipeline.bilevel import Estimator, Snapshots, descend, hypergradient, inner_loss
from pipeline.students.encoder import Student
from tests.bilevel.problem import C, assert_close, batches, equal, gradients, leaves, real_batch, student

Folder = Callable[..., Path]
ESTIMATORS = ["unroll", "adjoint", "fused"]


def double_bert(folder: Path) -> PreTrainedModel:
    return AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=C, attn_implementation="eager", dtype=torch.float64
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("rows", [0, 1])
def test_whole_step_equals_an_independent_reference(encoder_folder: Folder, rows: int, estimator: Estimator) -> None:
    """Written from the paper's algorithm with transformers' own loss path; shares no code with the product."""
    model = double_bert(encoder_folder("bert")).eval()
    generator = torch.Generator().manual_seed(2)
    model.classifier.weight.data.normal_(0, 0.02, generator=generator)
    reference, ours, real = leaves(rows, steps=3), leaves(rows, steps=3), real_batch()

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
                loss = loss + 0.7 * kl.mean() / len(output.attentions)
        names = [name for name in current if "word_embeddings" not in name]
        found = torch.autograd.grad(loss, [current[name] for name in names], create_graph=True)
        current = current | {n: current[n] - reference["rates"][t] * g for n, g in zip(names, found, strict=True)}
    inputs = {name: tensor for name, tensor in real.items() if name != "labels"}
    F.cross_entropy(functional_call(model, current, (), inputs).logits, real["labels"]).backward()

    made = Student(model, [])
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    hypergradient(estimator, made, start, batches(ours, weight=0.7), [real])
    assert_close(gradients(ours), gradients(reference), 1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_weight_zero_equals_no_attention_labels(encoder_folder: Folder, estimator: Estimator) -> None:
    made, theta = student(encoder_folder)
    with_labels, without = leaves(1), leaves(0)
    hypergradient(estimator, made, theta, batches(with_labels, weight=0.0), [real_batch()])
    hypergradient(estimator, made, theta, batches(without), [real_batch()])
    for name, leaf in without.items():
        assert torch.equal(with_labels[name].grad, leaf.grad), name
    assert with_labels["attention"].grad is None or not with_labels["attention"].grad.any()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_are_added_and_scaled(encoder_folder: Folder, estimator: Estimator) -> None:
    made, theta = student(encoder_folder)
    once, twice = leaves(1), leaves(1)
    hypergradient(estimator, made, theta, batches(once), [real_batch()])
    for scale in (0.25, torch.tensor(0.5, dtype=torch.float64)):
        hypergradient(estimator, made, theta, batches(twice), [real_batch()], scale=scale)
    assert_close(gradients(twice), {name: 0.75 * gradient for name, gradient in gradients(once).items()}, 1e-12)


@pytest.mark.parametrize("where", ["device", "recompute"])
def test_the_adjoint_draws_the_dropout_of_the_unroll(encoder_folder: Folder, where: str) -> None:
    made, theta = student(encoder_folder, dropout=True)
    found = {}
    for estimator in ("unroll", "adjoint"):
        tensors = leaves(1)
        hypergradient(
            estimator,
            made,
            theta,
            batches(tensors),
            [real_batch()],
            snapshots=Snapshots(where),
            dropping=lambda step: made.dropping(3, step),
        )
        found[estimator] = gradients(tensors)
    assert_close(found["adjoint"], found["unroll"], 1e-9)
    other = leaves(1)
    hypergradient("adjoint", made, theta, batches(other), [real_batch()], dropping=lambda step: made.dropping(4, step))
    assert not equal(gradients(other), found["adjoint"])


def test_descend_changes_nothing_but_its_copy(encoder_folder: Folder) -> None:
    made, theta = student(encoder_folder)
    kept = {name: value.clone() for name, value in theta.items()}
    trained = descend(made, theta, batches(leaves(1)))
    assert not any(value.requires_grad for value in trained.values())
    assert equal(theta, kept)
    same = [name for name in theta if trained[name].data_ptr() == theta[name].data_ptr()]
    assert same == ["bert.embeddings.word_embeddings.weight"]  # input embeddings do not touch them


def test_one_step_is_theta_minus_eta_gradient(encoder_folder: Folder) -> None:
    made, theta = student(encoder_folder)
    batch = batches(leaves(1))[0]
    tracked = {name: value.clone().requires_grad_() for name, value in theta.items()}
    inner_loss(made, tracked, batch).backward()
    stepped = descend(made, theta, [batch])
    for name, value in tracked.items():
        expected = theta[name] if value.grad is None else theta[name] - batch.learning_rate.detach() * value.grad
        torch.testing.assert_close(stepped[name], expected, rtol=1e-10, atol=1e-12)


def test_no_step_is_theta_0(encoder_folder: Folder) -> None:
    made, theta = student(encoder_folder)
    assert equal(descend(made, theta, []), theta)
