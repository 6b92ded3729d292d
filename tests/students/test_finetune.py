"""Students trained on token ids: which epoch is kept, and plain steps against steps worked out here."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F

from pipeline.bilevel import InnerBatch, descend
from pipeline.bilevel.fused import Fused
from pipeline.config import FineTune, Model, Training
from pipeline.data.tokenised import Split, tokenise
from pipeline.students.encoder import Parameters, Student
from pipeline.students.finetune import finetune, plain_steps
from pipeline.students.snapshot import load_encoder
from tests.conftest import build_tokenizer, corpus

Make = Callable[..., Student]


@pytest.fixture(scope="module")
def make(encoder_folder: Callable[[str], Path]) -> Make:
    def make(passes: bool = True) -> Student:
        model, _, fresh = load_encoder(Model(name=str(encoder_folder("bert"))), 2, seed=1)
        student = Student(model.double(), fresh)
        assert isinstance(student.fused(), Fused)
        student._passes = student._passes if passes else "switched off"
        return student

    return make


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    tokenizer = build_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return Split(tokenise(Dataset.from_list(corpus(48, seed=1)), ("text",), tokenizer, 40), tokenizer)


def examples_of(split: Split) -> Callable[[Tensor], dict[str, Tensor]]:
    def examples(rows: Tensor) -> dict[str, Tensor]:
        batch = split.batch(rows.tolist())
        return batch | {"labels": F.one_hot(batch["labels"], 2).double()}

    return examples


def same(one: Parameters, other: Parameters) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("passes", [True, False])
@pytest.mark.parametrize(
    ("merits", "kept"),
    [([3.0, 1.0, 2.0, 1.0], 2), ([4.0, 3.0, 2.0, 1.0], 4), ([0.0, 3.0, 2.0, 1.0], 1), ([math.inf] * 4, 1)],
)
def test_the_best_epoch_is_kept(make: Make, split: Split, passes: bool, merits: list[float], kept: int) -> None:
    """θ of the epoch itself, not what later steps made of it; the earliest of equals."""
    student, seen = make(passes), []
    recipe = Training(epochs=4, batch_size=20, lr=1e-3, warmup_ratio=0.1)

    def judge(theta: Parameters) -> float:
        seen.append({name: tensor.clone() for name, tensor in theta.items()})
        return merits[len(seen) - 1]

    start = student.initial(1, 0)
    found = finetune(student, start, 48, examples_of(split), recipe, 1, judge=judge)
    assert len(seen) == 4
    assert same(found, seen[kept - 1])
    assert not same(seen[0], seen[1])
    last = finetune(student, start, 48, examples_of(split), recipe, 1)
    assert same(last, seen[-1]), "judging changes nothing of the training"


def test_dropout_is_off_while_an_epoch_is_judged_and_on_again_after(make: Make, split: Split) -> None:
    student, modes = make(), []
    recipe = Training(epochs=2, batch_size=24, dropout=True)
    steps: list[bool] = []

    def judge(theta: Parameters) -> float:
        modes.append(student._scorer.training)
        return 1.0

    def watch(step: int, of: int, loss: float) -> None:
        steps.append(student._scorer.training)

    finetune(student, student.initial(1, 0), 48, examples_of(split), recipe, 1, 0, watch, judge)
    assert modes == [False, False]
    assert steps == [True] * 4


@pytest.mark.parametrize("passes", [True, False])
def test_plain_steps_worked_out_here(make: Make, split: Split, passes: bool) -> None:
    """Padded sentences of different lengths; every parameter, the word embeddings too."""
    student, rows, sizes = make(passes), 5, (0.1, 0.02, 0.3)
    assert len(set(split.lengths[:rows])) > 2
    start = student.initial(1, 0)
    untouched = {name: tensor.clone() for name, tensor in start.items()}
    found = plain_steps(student, start, rows, examples_of(split), sizes)
    assert same(start, untouched)
    theta, subject = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}, make(False)
    for size in sizes:
        losses = []
        for row in range(rows):  # one at a time: no padding
            batch = split.batch([row])
            length = int(batch["attention_mask"].sum())
            alone = {name: tensor[:, :length] for name, tensor in batch.items() if name != "labels"}
            losses.append(F.cross_entropy(subject.logits(theta, alone), batch["labels"]))
        gradients = torch.autograd.grad(torch.stack(losses).mean(), list(theta.values()), allow_unused=True)
        theta = {
            name: (tensor if gradient is None else tensor - size * gradient).detach().requires_grad_()
            for (name, tensor), gradient in zip(theta.items(), gradients, strict=True)
        }
    for name in theta:
        torch.testing.assert_close(found[name], theta[name].detach(), rtol=1e-8, atol=1e-10, msg=name)
    assert (found[student.words] - start[student.words]).abs().max() > 1e-6


def test_plain_steps_are_the_inner_loops_where_nothing_is_padded(make: Make, split: Split) -> None:
    """One step on the word vectors of a sentence changes all else as one step on its tokens."""
    student = make()
    length = int(split.lengths[0])
    ids = torch.tensor([split.rows[0]["input_ids"]])
    start = student.initial(1, 0)
    batch = InnerBatch(
        student.embedding_matrix[ids], torch.eye(2).double()[:1], None, 1.0, torch.tensor(0.2, dtype=torch.float64)
    )
    wanted = descend(student, start, [batch])

    def examples(rows: Tensor) -> dict[str, Any]:
        return {"input_ids": ids, "attention_mask": torch.ones(1, length).long(), "labels": torch.eye(2).double()[:1]}

    found = plain_steps(student, start, 1, examples, [0.2])
    for name in set(found) - {student.words}:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-9, atol=1e-12, msg=name)


def test_finetune_recipes_are_trainings() -> None:
    """Their fields and defaults are in one place."""
    given, plain = FineTune(name="finetune").model_dump(), Training().model_dump()
    assert plain.items() <= given.items()
    assert set(given) - set(plain) == {"name", "revision", "select"}


@pytest.mark.parametrize("passes", [True, False])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_other_optimisers_take_the_steps_that_are_worked_out_here(
    make: Make, split: Split, passes: bool, optimizer: Any
) -> None:
    """Two steps on all samples, the gradients by autograd: also what no token of the samples touches stays."""
    student, examples = make(passes), examples_of(split)
    start = student.initial(0, 0)
    whole = {"batch_size": 48, "warmup_ratio": 0.0, "scheduler": "linear", "max_grad_norm": 1e9, "weight_decay": 0.5}
    recipe = Training(steps=2, lr=0.02, optimizer=optimizer, **whole)
    found = finetune(student, start, len(split), examples, recipe, seed=0)
    theta, batch = dict(start), examples(torch.arange(48))
    state: dict[str, tuple[Tensor, Tensor]] = {}
    for t, rate in enumerate((0.02, 0.01)):  # linear, to 0 after the last step
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in theta.items()}
        loss = F.cross_entropy(student.logits(leaves, batch), batch["labels"])
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        for name, g in zip(leaves, gradients, strict=True):
            if g is None:
                continue
            m, v = state.get(name, (torch.zeros_like(g), torch.zeros_like(g)))
            if optimizer == "sgd":
                update = g
            elif optimizer == "momentum":
                m = update = 0.9 * m + g
            else:
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                update = m / (1 - 0.9 ** (t + 1)) / ((v / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8)
            state[name] = m, v
            theta[name] = theta[name] - rate * update
    moved = 0
    for name, tensor in theta.items():
        # Adam divides by gradients that are rounding errors where they are nothing else
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-3 if optimizer == "adam" else 1e-9)
        moved += not torch.equal(tensor, start[name])
    assert moved > 20


def test_half_precision_is_that_of_autocast(encoder_folder: Callable[[str], Path], split: Split) -> None:
    """By passes and by autograd the same up to its rounding, which fp32 does not have; parameters stay float32."""
    model, _, fresh = load_encoder(Model(name=str(encoder_folder("bert"))), 2, seed=1)
    student, thetas = Student(model, fresh), {}
    theta_0 = student.initial(3, 0)
    for passes in (student.passes(), "switched off"):
        student._passes = passes
        for precision in ("fp32", "bf16"):
            recipe = Training(steps=5, batch_size=8, lr=1e-3, optimizer="sgd", precision=precision)
            theta = finetune(student, theta_0, 8, examples_of_floats(split), recipe, seed=3)
            assert {tensor.dtype for tensor in theta.values()} == {torch.float32}
            thetas[precision, isinstance(passes, str)] = torch.cat(
                [(theta[name] - theta_0[name]).flatten() for name in theta]
            )
    exact, by_hand, autocast = (thetas[key] for key in (("fp32", False), ("bf16", False), ("bf16", True)))
    torch.testing.assert_close(exact, thetas["fp32", True], rtol=1e-4, atol=1e-7)
    for half in (by_hand, autocast):
        away = ((half - exact).norm() / exact.norm()).item()
        assert 1e-4 < away < 3e-2, "as far as seven bits go"


def examples_of_floats(split: Split) -> Callable[[Tensor], dict[str, Tensor]]:
    return lambda rows: {name: t.float() if name == "labels" else t for name, t in examples_of(split)(rows).items()}
