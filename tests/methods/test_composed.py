"""What a composed set holds, compared with the sets that it is put together of."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.bilevel import descend
from pipeline.config import Composed, Distill
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet, Recipe, load, save
from pipeline.distilled.text import texts
from pipeline.errors import InputError
from pipeline.methods.composed import compose
from pipeline.store.atomic import write_json
from pipeline.students.encoder import Student
from tests.conftest import encoder

TASKS = [{"name": name, "source": {"kind": "files", "train": f"{name}.csv"}, "text": "text"} for name in ("a", "b")]
BOTH = {"name": "both", "source": {"kind": "joined", "tasks": TASKS}, "text": "text"}
PARTS = [{"name": "a", "classes": 2, "sizes": {}}, {"name": "b", "classes": 3, "sizes": {}}]
ABOUT = {"selection": {"split": "none"}}


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Two joined tasks, as far as composing looks at them."""
    write_json(tmp_path / "prepared" / "manifest.json", {"task": "both", "classes": list("uvxyz"), "parts": PARTS})
    return Prepared(tmp_path / "prepared")


def of(task: int, **rule: Any) -> dict[str, Any]:
    """A part of one of the tasks."""
    made = rule.pop("made", {"name": "ddal", "sequence_length": 4})
    return {"of": {"source": {"task": TASKS[task], "model": "m"}, "method": made}, **rule}


def method(*parts: dict[str, Any]) -> Composed:
    config = Distill.model_validate(
        {"source": {"task": BOTH, "model": "m"}, "method": {"name": "composed", "parts": parts}}
    )
    assert isinstance(config.method, Composed)
    return config.method


def learned(classes: int, rates: list[float], order: list[list[int]], seed: int) -> DistilledSet:
    """A set of input embeddings with attention labels."""
    draw = torch.Generator().manual_seed(seed)
    N = classes * (1 + max(max(rows) for rows in order) // classes)
    return DistilledSet(
        labels=torch.randn(N, classes, generator=draw),
        label_ids=torch.arange(N) % classes,
        recipe=Recipe("ddal"),
        inputs_embeds=torch.randn(N, 4, 32, generator=draw),
        attention_labels=torch.randn(N, 2, 4, 1, 4, generator=draw),
        learning_rates=torch.tensor(rates),
        batch_order=torch.tensor(order),
        about=ABOUT,
    )


def text(classes: int, shots: int, length: int, first: int) -> DistilledSet:
    N = classes * shots
    ids = first + torch.arange(N * length).view(N, length)
    return DistilledSet(
        labels=torch.eye(classes).repeat(shots, 1),
        label_ids=torch.arange(N) % classes,
        recipe=Recipe("finetune"),
        token_ids=ids,
        about=ABOUT | {"chosen": {"rows": list(range(N)), "candidates": N}},
    )


@pytest.fixture
def composed(prepared: Prepared, tmp_path: Path) -> Callable[..., DistilledSet]:
    """Composes sets, each written and read as cells do."""

    def make(rules: list[dict[str, Any]], *sets: DistilledSet) -> DistilledSet:
        folders = [tmp_path / f"set{number}" for number in range(len(sets))]
        for folder, one in zip(folders, sets, strict=True):
            folder.mkdir(exist_ok=True)
            save(one, folder / "distilled.h5")
        found = compose(method(*rules), prepared, folders)
        save(found, tmp_path / "composed.h5")
        return load(tmp_path / "composed.h5")

    return make


def test_labels_stand_side_by_side(composed: Callable[..., DistilledSet]) -> None:
    a, b = learned(2, [0.1], [[0, 1]], 1), learned(3, [0.3], [[0, 1, 2]], 2)
    found = composed([of(0), of(1)], a, b)
    assert found.label_ids.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(found.labels[:2, :2], a.labels)
    assert torch.equal(found.labels[2:, 2:], b.labels)
    assert found.labels[:2, 2:].abs().sum() == found.labels[2:, :2].abs().sum() == 0
    assert torch.equal(found.inputs_embeds, torch.cat([a.inputs_embeds, b.inputs_embeds]))  # type: ignore[arg-type, list-item]
    assert [facts["samples"] for facts in found.about["composed"]] == [2, 3]


def test_a_part_that_was_selected_on_test_is_told_of_the_whole(composed: Callable[..., DistilledSet]) -> None:
    a, b = text(2, 1, 4, 10), text(3, 1, 8, 100)
    real = {"name": "random"}
    assert composed([of(0, made=real), of(1, made=real)], a, b).about["selection"] == {"split": "none"}
    inner = replace(b, about=b.about | {"composed": [{"selection": {"split": "test"}}]})
    found = composed([of(0, made=real), of(1, made=real)], a, inner).about
    assert found["selection"] == {"split": "test"}
    assert found["composed"][1]["composed"] == inner.about["composed"]


def test_a_step_of_two_sets_by_hand(composed: Callable[..., DistilledSet]) -> None:
    """η_a / m_a = 0.1 / 2 = 0.05 for two samples, η_b / m_b = 0.3 / 3 = 0.1 for three; their sum is the step size."""
    found = composed([of(0), of(1)], learned(2, [0.1], [[0, 1]], 1), learned(3, [0.3], [[0, 1, 2]], 2))
    assert found.batch_order is not None
    assert found.batch_weights is not None
    assert found.learning_rates is not None
    torch.testing.assert_close(found.learning_rates, torch.tensor([0.4]))
    assert found.batch_order.tolist() == [[0, 1, 2, 3, 4]]
    weights = torch.tensor([[0.625, 0.625, 1.25, 1.25, 1.25]])  # 5 · 0.05 / 0.4 and 5 · 0.1 / 0.4
    torch.testing.assert_close(found.batch_weights, weights)


def moved(student: Student, theta: dict[str, Tensor], found: DistilledSet) -> dict[str, Tensor]:
    """What the steps of a set do to each parameter."""
    trained = descend(student, theta, found.inner_batches(), optimiser=found.recipe.optimiser)
    return {name: trained[name] - theta[name] for name in theta}


def wide(found: DistilledSet, first: int) -> DistilledSet:
    """The set with its labels among the five classes."""
    labels = torch.zeros(len(found), 5)
    labels[:, first : first + found.labels.shape[1]] = found.labels
    return replace(found, labels=labels)


def test_a_common_step_is_the_sum_of_the_steps_of_each_set(composed: Callable[..., DistilledSet]) -> None:
    """At the same student, with attention labels; of different phases they are taken one after the other."""
    model = encoder("bert")
    model.classifier = torch.nn.Linear(32, 5)
    model.config.num_labels = model.num_labels = 5
    student = Student(model.double(), [])
    theta = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    a, b = learned(2, [0.1], [[0, 1]], 1), learned(3, [0.3], [[0, 1, 2]], 2)
    doubled = {"inputs_embeds": torch.float64, "labels": torch.float64, "attention_labels": torch.float64}

    def exact(found: DistilledSet) -> DistilledSet:
        return replace(found, **{name: getattr(found, name).to(kind) for name, kind in doubled.items()})

    alone = [moved(student, theta, exact(wide(one, first))) for one, first in ((a, 0), (b, 2))]
    together = moved(student, theta, exact(composed([of(0), of(1)], a, b)))
    for name in theta:
        torch.testing.assert_close(together[name], alone[0][name] + alone[1][name], rtol=1e-5, atol=1e-8)
    in_turn = moved(student, theta, exact(composed([of(0), of(1, phase=2)], a, b)))
    middle = {name: theta[name] + alone[0][name] for name in theta}
    after = moved(student, middle, exact(wide(b, 2)))
    for name in theta:
        torch.testing.assert_close(in_turn[name], alone[0][name] + after[name], rtol=1e-5, atol=1e-8)
    assert not torch.allclose(together["classifier.weight"], in_turn["classifier.weight"], rtol=1e-3, atol=1e-6)


def test_steps_of_different_numbers_and_sizes(composed: Callable[..., DistilledSet]) -> None:
    a, b = learned(2, [0.1, 0.2], [[0, 1], [2, 3]], 1), learned(3, [0.3], [[0, 1, 2]], 2)
    found = composed([of(0), of(1)], a, b)
    assert found.batch_order is not None
    assert found.batch_order.tolist() == [[0, 1, 4, 5, 6], [2, 3, -1, -1, -1]]
    assert [len(batch.labels) for batch in found.inner_batches()] == [5, 2]
    torch.testing.assert_close(found.inner_batches()[1].labels, found.labels[2:4])  # alone, a step is what it was
    later = composed([of(0, phase=2), of(1)], a, b)
    assert later.batch_order is not None
    assert later.batch_order.tolist() == [[4, 5, 6], [0, 1, -1], [2, 3, -1]]
    assert later.phases is not None
    assert later.phases.tolist() == [2, 2, 2, 2, 1, 1, 1]


def test_a_replaced_class_moves_students_as_in_its_own_set(composed: Callable[..., DistilledSet]) -> None:
    """Two of three samples of a set, and the third of another: the step of three, if both step sizes are equal."""
    b, other = learned(3, [0.3], [[0, 1, 2]], 2), learned(3, [0.3], [[0, 1, 2]], 5)
    found = composed([of(1, classes=[0, 1]), of(1, classes=[2])], b, other)
    assert found.label_ids.tolist() == [2, 3, 4]
    assert found.learning_rates is not None
    assert found.batch_weights is not None
    torch.testing.assert_close(found.learning_rates, torch.tensor([0.3]))
    torch.testing.assert_close(found.batch_weights, torch.ones(1, 3))
    assert torch.equal(found.labels[2, 2:], other.labels[2])


def test_text_is_padded_repeated_and_cut(composed: Callable[..., DistilledSet]) -> None:
    a, b = text(2, 3, 4, 10), text(3, 1, 8, 100)
    real = {"name": "random", "shots": 3}
    found = composed([of(0, made=real, shots=2, repeat=2), of(1, made=real, phase=2, classes=[1, 2])], a, b)
    assert found.token_ids is not None
    assert a.token_ids is not None
    assert b.token_ids is not None
    assert found.token_ids.shape == (10, 8)
    assert torch.equal(found.token_ids[:4, :4], a.token_ids[:4])
    assert torch.equal(found.token_ids[4:8], found.token_ids[:4])
    assert (found.token_ids[:8, 4:] == -1).all()
    assert torch.equal(found.token_ids[8:], b.token_ids[1:])
    assert found.label_ids.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 3, 4]
    assert "chosen" not in found.about  # rows of several tasks are no rows of one
    assert [size for size, _ in found.turns()] == [8, 2]
    _, second = found.turns()[1]
    assert second(torch.tensor([1]))["input_ids"].tolist() == b.token_ids[2:].tolist()


def test_of_one_task_other_encoders_get_the_same_rows(tmp_path: Path) -> None:
    """A part that is taken twice, or cut, or of which one class is taken, takes its rows with it."""
    write_json(tmp_path / "one" / "manifest.json", {"task": "a", "classes": ["u", "v"]})
    real, folders = {"name": "random", "shots": 3}, [tmp_path / "first", tmp_path / "second"]
    rows = [list(range(6)), list(range(20, 26))]
    for folder, its in zip(folders, rows, strict=True):
        folder.mkdir()
        made = text(2, 3, 4, 10)
        save(replace(made, about=made.about | {"chosen": {"rows": its, "candidates": 40}}), folder / "distilled.h5")
    parts = method(of(0, made=real, shots=1, repeat=2), of(0, made=real, classes=[1]))
    found = compose(parts, Prepared(tmp_path / "one"), folders)
    assert found.about["chosen"]["rows"] == [0, 1, 0, 1, 21, 23, 25]


def test_texts_stay_as_they_were_written(tmp_path: Path, encoder_folder: Callable[[str], Path]) -> None:
    """Beside sets that have none, which are decoded."""
    write_json(tmp_path / "one" / "manifest.json", {"task": "a", "classes": ["u", "v"]})
    prepared = Prepared(tmp_path / "one")
    shutil.copytree(encoder_folder("bert"), prepared.model_folder)
    folders, written = [tmp_path / "first", tmp_path / "second"], text(2, 1, 4, 10)
    for folder, about in zip(folders, ({"texts": [["Good, truly"], ["So-so"]]}, {}), strict=True):
        folder.mkdir()
        save(replace(written, about=ABOUT | about), folder / "distilled.h5")
    parts = method(*[of(0, made={"name": "random", "shots": 1})] * 2)
    found = compose(parts, prepared, folders).about
    assert found["texts"][:2] == [["Good, truly"], ["So-so"]]
    assert found["texts"][2:] == [[each] for (each,) in texts(replace(written, about=ABOUT), prepared.tokenizer)]
    assert "chosen" not in found


@pytest.mark.parametrize(
    ("rules", "change", "sentence"),
    [
        ([of(0), of(1, classes=[3])], {}, "parts.1.classes: 3, and its set has 3 classes; allowed: 0 to 2"),
        ([of(0), of(0)], {}, "parts.1: has 3 classes, its task 2"),
        ([of(0), of(1)], {"inputs_embeds": torch.randn(3, 5, 32)}, "its inputs_embeds are [5, 32] each"),
        ([of(0), of(1)], {"recipe": Recipe("ddal", attention_weight=2.0)}, "take sets with one recipe"),
        ([of(0), of(1)], {"batch_weights": torch.ones(1, 3)}, "is composed in phases or of steps itself"),
    ],
)
def test_what_does_not_go_together(
    composed: Callable[..., DistilledSet], rules: list[dict[str, Any]], change: dict[str, Any], sentence: str
) -> None:
    b = replace(learned(3, [0.3], [[0, 1, 2]], 2), **change)
    with pytest.raises(InputError, match=r"parts\.1") as raised:
        composed(rules, learned(2, [0.1], [[0, 1]], 1), b)
    assert sentence in str(raised.value)
