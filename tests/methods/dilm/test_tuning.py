"""The gradient that an update leaves in the generator, against autograd through one text after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import Distill, language_source
from pipeline.methods.dilm.generator import Generator
from pipeline.methods.dilm.tuning import Tuning
from pipeline.store import Store
from pipeline.students.encoder import Student
from tests.methods.dilm.conftest import prepared
from tests.methods.dilm.test_dilm_cells import made

Chain = Callable[..., Distill]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lm_weight": 0.3, "lm_batch_size": 4, "temperature": 0.5, "normalise": "padded", "gradients": "last_layer"},
        {"temperature": 0.5, "gradients": "all", "shots": 4},
    ],
    ids=["as published", "all options", "all gradients"],
)
@pytest.mark.parametrize("pairs", [False, True], ids=["texts", "pairs"])
@pytest.mark.parametrize("begin", [None, ["word1 word2 bad", "good"]], ids=["begin tokens", "prompts"])
def test_an_update_by_hand(
    chain: Chain, store: Store, options: dict[str, Any], pairs: bool, begin: list[str] | None
) -> None:
    run = third_update(chain({"begin": begin}, {"dropout": False} | options, pairs=pairs), store)
    model = run.generator.model
    theta = {name: tensor.clone() for name, tensor in run.trajectory.at(run.step).items()}
    model.zero_grad()
    loss = run.backward(theta)
    found = {name: tensor.grad.clone() for name, tensor in model.named_parameters() if tensor.grad is not None}
    model.zero_grad()
    expected = by_hand(run, theta)
    expected.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    longest = max(tensor.grad.abs().max().item() for tensor in model.parameters() if tensor.grad is not None)
    assert longest > 0
    for name, tensor in model.named_parameters():
        if tensor.grad is not None:
            assert torch.allclose(found[name], tensor.grad, atol=5e-3 * longest), name


def third_update(config: Distill, store: Store) -> Tuning:
    """What two updates have led to, before the third one."""
    tuned = config.parent
    assert tuned is not None
    assert tuned.parent is not None
    folder = made(tuned.parent, store)
    own, written = prepared(tuned.source, store), prepared(language_source(tuned), store)
    generator = Generator.load(folder / "generator", 2, "cpu")
    student = Student.load(own.model_folder, own.manifest["fresh_parameters"], "cpu")
    run = Tuning(tuned, own, student, generator, generator.sequences(written.split("train")), 8)
    run.advance()
    run.advance()
    return run


def by_hand(run: Tuning, theta: dict[str, Tensor]) -> Tensor:
    """(1 − λ) · the mean over classes of 1 − cos(Σ w_i g_i, g) + λ · the mean over tokens of −log p."""
    method, pool = run.method, run.pool
    assert pool is not None
    total: Tensor = torch.zeros((), dtype=torch.float64)
    for label in range(2):
        teachers = run.teachers.at(run.step, label)
        assert (run.train.labels[torch.as_tensor(teachers)] == label).all()
        real = run.train.batch(teachers)
        rows = pool.batch(label, method.shots, method.clusters, run.step % run.epoch_steps)
        assert (pool.sequences.labels[torch.as_tensor(rows)] == label).all()
        texts = [pool.sequences.row(int(row)) for row in rows]
        longest = -(-max(map(len, texts)) // 8) * 8
        divisors = [(longest if method.normalise == "padded" else len(text)) - 1 for text in texts]
        losses = [surprise(run.generator, label, text) / by for text, by in zip(texts, divisors, strict=True)]
        likely = (-torch.stack(losses) / method.temperature).softmax(0).double()
        each = torch.stack([slope(run, theta, pool.split.batch([int(row)])) for row in rows])
        of_real = slope(run, theta, real)
        total = total + (1 - method.lm_weight) / 2 * (1 - F.cosine_similarity(likely @ each, of_real, dim=0))
    if method.lm_weight:
        order = [int(row) for row in run.order.at(run.step)]
        texts, labels = [run.real.row(row) for row in order], [int(run.real.labels[row]) for row in order]
        sums = [surprise(run.generator, label, text) for text, label in zip(texts, labels, strict=True)]
        total = total + method.lm_weight * torch.stack(sums).sum() / sum(len(text) - 1 for text in texts)
    return total


def surprise(generator: Generator, label: int, text: list[int]) -> Tensor:
    """−log p of a text given its class."""
    prompt = generator.prompts[label]
    logits = generator.model(input_ids=torch.tensor([[*prompt, *text]])).logits[0, len(prompt) : -1]
    return F.cross_entropy(logits, torch.tensor(text[1:]), reduction="sum")


def slope(run: Tuning, theta: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
    """The gradient of a batch's mean cross-entropy, of what is matched, as one vector."""
    leaves = {name: theta[name].detach().clone().requires_grad_() for name in run.names}
    loss = F.cross_entropy(run.student.logits(theta | leaves, batch), batch["labels"])
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    parts = [torch.zeros_like(leaf) if one is None else one for leaf, one in zip(leaves.values(), found, strict=True)]
    return torch.cat([part.flatten() for part in parts]).double()
