"""Training on vectors: the steps of the inner loop, whoever else trains at the same time."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.bilevel import Adam, GradientDescent, InnerBatch, Momentum, descend
from pipeline.config import BestCheck, Mlp, OnVectors, PublishedMlp, PublishedTransformer, Transformer
from pipeline.randomness import seeded, torch_generator
from pipeline.students.vector_training import Samples, learn, score
from pipeline.students.vectors import VectorStudent

FEATURES, CLASSES = 8, 3
MLP = Mlp(name="mlp", width=6, dropout=0.2)
TRANSFORMER = Transformer(name="transformer", tokens=2, width=8, layers=1, heads=2, feed_forward=8, dropout=0.2)


def samples(size: int) -> Samples:
    with seeded(0, "samples of a test"):
        return Samples(torch.randn(size, FEATURES).double(), F.one_hot(torch.arange(size) % CLASSES, CLASSES).double())


def made(config: Mlp | Transformer) -> VectorStudent:
    return VectorStudent(config, FEATURES, CLASSES, "cpu", torch.float64)


@pytest.mark.parametrize("config", [MLP, TRANSFORMER], ids=["mlp", "transformer"])
@pytest.mark.parametrize(("name", "rule"), [("adam", Adam()), ("sgd", GradientDescent()), ("momentum", Momentum(0.9))])
def test_steps_are_those_of_the_inner_loop(config, name, rule) -> None:
    student, data = made(config), samples(7)
    recipe = OnVectors(name="vectors", optimizer=name, lr=0.01)
    ((last, found),) = learn(student, data, recipe, 3, [4, 1], (9,))
    assert last == 9
    batch = InnerBatch(data.vectors, data.labels, None, 0.0, torch.tensor(0.01, dtype=torch.float64))
    wanted = descend(
        student,
        student.initial(3, [4, 1]),
        [batch] * 9,
        optimiser=rule,
        dropping=lambda step: student.dropping(3, step, members=[4, 1]),
    )
    for part in wanted:
        torch.testing.assert_close(found[part], wanted[part], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("config", [MLP, TRANSFORMER], ids=["mlp", "transformer"])
@pytest.mark.parametrize("size", [5, 23])
def test_a_member_does_not_depend_on_who_trains_beside_it(config, size: int) -> None:
    recipe = OnVectors(name="vectors", batch_size=5)
    ((_, together),) = learn(made(config), samples(size), recipe, 3, [0, 1, 2], (12,))
    ((_, alone),) = learn(made(config), samples(size), recipe, 3, [1], (12,))
    for part in alone:
        torch.testing.assert_close(together[part][1], alone[part][0], rtol=1e-9, atol=1e-10)
    ((_, other),) = learn(made(config), samples(size), recipe, 4, [1], (12,))
    assert not torch.allclose(other["head.weight"], alone["head.weight"], atol=1e-3)


def test_batches_are_permutations_of_every_member_and_pass() -> None:
    """By hand: one member, plain steps, batches of 2 of 5 samples, the fifth of each pass left out."""
    config = Mlp(name="mlp", width=4)
    student, data = made(config), samples(5)
    recipe = OnVectors(name="vectors", optimizer="sgd", lr=0.1, batch_size=2)
    ((_, found),) = learn(student, data, recipe, 3, [7], (3,))
    orders = [torch.randperm(5, generator=torch_generator(3, "order of vectors", 7, epoch)) for epoch in (0, 1)]
    rows = [orders[0][:2], orders[0][2:4], orders[1][:2]]
    batches = [
        InnerBatch(data.vectors[r], data.labels[r], None, 0.0, torch.tensor(0.1, dtype=torch.float64)) for r in rows
    ]
    wanted = descend(student, student.initial(3, [7]), batches)
    for part in wanted:
        torch.testing.assert_close(found[part], wanted[part], rtol=1e-9, atol=1e-10)


def test_what_trains_longer_is_the_same_student_later() -> None:
    recipe = OnVectors(name="vectors", batch_size=4)
    at = {
        step: {name: part.clone() for name, part in theta.items()}
        for step, theta in learn(made(MLP), samples(10), recipe, 0, [0, 1], (3, 8))
    }
    assert list(at) == [3, 8]
    ((_, short),) = learn(made(MLP), samples(10), recipe, 0, [0, 1], (3,))
    assert all(torch.equal(short[name], at[3][name]) for name in short)
    assert not torch.equal(at[3]["head.weight"], at[8]["head.weight"])


def test_weight_decay_is_adamws_alone() -> None:
    of = {
        (name, decay): next(
            learn(made(MLP), samples(6), OnVectors(name="vectors", optimizer=name, weight_decay=decay), 0, [0], (4,))
        )[1]["head.weight"].clone()
        for name in ("adam", "adamw")
        for decay in (0.0, 0.5)
    }
    assert torch.equal(of["adam", 0.0], of["adam", 0.5])
    assert torch.allclose(of["adam", 0.0], of["adamw", 0.0])
    assert not torch.allclose(of["adamw", 0.0], of["adamw", 0.5], atol=1e-4)


def test_scores_are_the_logits_whatever_the_chunks() -> None:
    student, data = made(TRANSFORMER), samples(11)
    theta = student.initial(0, [0, 1])
    wanted = student.logits(theta, {"vectors": data.vectors})
    torch.testing.assert_close(score(student, theta, data.vectors, rows=4), wanted)


def test_how_long_and_when_it_is_looked_at() -> None:
    plain = OnVectors(name="vectors")
    assert (plain.steps_on(8), plain.batch_of(8), plain.batch_of(9000), plain.checks_on(8)) == (1000, 8, 256, ())
    epochs = OnVectors(name="vectors", epochs=3, batch_size=4, select=BestCheck())
    assert (epochs.steps_on(10), epochs.checks_on(10)) == (6, (2, 4, 6))
    assert epochs.steps_on(3) == 3
    every = OnVectors(name="vectors", steps=10, select=BestCheck(every=4))
    assert every.checks_on(100) == (4, 8, 10)
    assert len(OnVectors(name="vectors", select=BestCheck()).checks_on(100)) == 20


def test_published_recipes_are_the_projects() -> None:
    """methods.md, section 1.4: step 4 and step 5."""
    mlp, transformer = (
        PublishedMlp(name="published_mlp").recipe,
        PublishedTransformer(name="published_transformer").recipe,
    )
    assert mlp.student == Mlp(name="mlp", width=256, hidden_layers=1, dropout=0.0)
    assert (mlp.optimizer, mlp.lr, mlp.steps_on(200), mlp.batch_of(200)) == ("adam", 1e-3, 200, 200)
    assert transformer.student == Transformer(
        name="transformer", tokens=4, width=256, layers=2, heads=4, feed_forward=1024, dropout=0.1
    )
    assert (transformer.optimizer, transformer.lr, transformer.batch_of(200)) == ("adam", 1e-3, 32)
    assert transformer.steps_on(200) == 1000 * 6
    assert transformer.steps_on(4) == 1000
