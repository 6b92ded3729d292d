"""A distilled set in memory: its batches, and the three lines a user needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from pipeline import distilled
from pipeline.bilevel import Momentum
from pipeline.config import AdamSteps, BestEpoch, FineTune, InnerOptimizer, PlainSteps
from pipeline.config import load as load_experiment
from pipeline.distilled import DistilledSet, Recipe
from pipeline.errors import InputError
from pipeline.launch import pin, run_stage, stage_cells
from pipeline.store import Store


def plain(shots: int, rows: list[list[int]], **recipe: object) -> DistilledSet:
    return DistilledSet(
        labels=torch.eye(2).repeat(shots, 1),
        label_ids=torch.arange(2 * shots) % 2,
        recipe=Recipe("ddal", **recipe),  # type: ignore[arg-type]
        inputs_embeds=torch.arange(2 * shots).float().view(-1, 1, 1).expand(-1, 3, 4),
        attention_labels=torch.zeros(2 * shots, 1, 1, 1, 3),
        learning_rates=torch.arange(1.0, 1 + len(rows)),
        batch_order=torch.tensor(rows),
    )


def test_batches_follow_the_order() -> None:
    found = plain(2, [[0, 1], [2, 3], [0, 1]], attention_weight=0.5).inner_batches()
    assert [batch.inputs[:, 0, 0].tolist() for batch in found] == [[0, 1], [2, 3], [0, 1]]
    assert [batch.learning_rate.item() for batch in found] == [1, 2, 3]
    assert {batch.attention_weight for batch in found} == {0.5}
    assert found[0].attention is not None
    torch.testing.assert_close(found[0].attention, torch.full((2, 1, 1, 1, 3), 1 / 3))


def test_steps_on_the_same_rows_share_their_tensors() -> None:
    """Fifty steps on one block need the memory of one."""
    made = plain(2, [[0, 1], [2, 3], [0, 1]])
    first, second, third = made.inner_batches()
    assert first.inputs is third.inputs
    assert first.labels is third.labels
    assert first.attention is third.attention
    assert first.learning_rate is not third.learning_rate
    assert first.inputs is not second.inputs
    assert made.inner_batches()[0].inputs is not first.inputs, "every call has a graph of its own"


def test_gradients_of_shared_tensors_add_up() -> None:
    made = replace(plain(1, [[0, 1], [1, 0], [0, 1]]), inputs_embeds=torch.zeros(2, 3, 4).requires_grad_())
    assert made.inputs_embeds is not None
    total = sum(((n + 1) * batch.inputs[0]).sum() for n, batch in enumerate(made.inner_batches()))
    total.backward()
    assert made.inputs_embeds.grad is not None
    assert made.inputs_embeds.grad[:, 0, 0].tolist() == [1 + 3, 2]


def test_the_order_of_batches_stays_on_the_cpu() -> None:
    elsewhere = plain(1, [[0, 1]], order="random").to("meta")
    assert elsewhere.labels.device.type == "meta"
    assert elsewhere.batch_order is not None
    assert elsewhere.batch_order.device.type == "cpu"
    assert elsewhere.inner_batches(0, 0)[0].inputs.device.type == "meta"


def test_random_order_is_drawn_by_seed_and_index_without_replacement() -> None:
    made = plain(4, [[0, 1, 2, 3]] * 6, order="random")
    draws = made.random_order(0, 0)
    assert torch.equal(draws, made.random_order(0, 0))
    assert not torch.equal(draws, made.random_order(0, 1))
    assert all(len(set(step.tolist())) == 4 for step in draws)
    assert len({tuple(step.tolist()) for step in draws}) > 1


@pytest.fixture
def distilled_file(experiment: Callable[..., Path], tmp_path: Path) -> Path:
    config = load_experiment(experiment(method={"labels": "unrestricted", "attention_labels": "cls"}))
    store = Store(tmp_path / "checkpoints")
    for stage in ("prepare", "distill"):
        outcome = run_stage(stage_cells(pin(config, store), store, stage), stage, store)
        assert not outcome.failed
    return store.cell(config.cells[0].source).folder / "distilled.h5"


def test_three_lines(distilled_file: Path, encoder_folder: Callable[[str], Path]) -> None:
    found = distilled.load(distilled_file)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(encoder_folder("bert"), num_labels=2)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    attention = model.config._attn_implementation
    trained = found.fine_tune(model)
    assert trained is model
    assert model.config._attn_implementation == attention
    assert any(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    answers = found.predict(trained, ["good word1", "word2 dull word3", "strong"])
    assert len(answers) == 3
    assert set(answers) <= {"0", "1"}


@pytest.mark.parametrize("optimizer", [PlainSteps(name="gd"), AdamSteps(name="adam", eps=0.1)])
def test_fine_tune_is_the_evaluated_inner_loop(
    distilled_file: Path, encoder_folder: Callable[[str], Path], optimizer: InnerOptimizer
) -> None:
    """The loader's students are those of stage 3: the same parameters from the same classifier."""
    from pipeline.bilevel import descend
    from pipeline.students.encoder import Student

    found = distilled.load(distilled_file)
    found = replace(found, recipe=replace(found.recipe, inner_optimizer=optimizer))
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder_folder("bert"), num_labels=2, attn_implementation="eager"
    )
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    expected = descend(Student(model, []), start, found.inner_batches(), optimiser=found.recipe.optimiser)
    other = descend(Student(model, []), start, found.inner_batches(), optimiser=Momentum(0.123, nesterov=True))
    assert any(not torch.equal(expected[name], other[name]) for name in start)
    for name, parameter in found.fine_tune(model).named_parameters():
        assert torch.equal(parameter, expected[name]), name


def test_another_embedding_matrix_is_refused(distilled_file: Path, encoder_folder: Callable[[str], Path]) -> None:
    other = AutoModelForSequenceClassification.from_pretrained(encoder_folder("roberta"), num_labels=2)
    with pytest.raises(InputError, match=r"another embedding matrix.* load .*bert instead"):
        distilled.load(distilled_file).fine_tune(other)


def test_another_number_of_classes_is_refused(distilled_file: Path, encoder_folder: Callable[[str], Path]) -> None:
    other = AutoModelForSequenceClassification.from_pretrained(encoder_folder("bert"), num_labels=3)
    with pytest.raises(InputError, match="3 outputs, the set 2 classes; load it with num_labels=2"):
        distilled.load(distilled_file).fine_tune(other)


def real_text(**recipe: object) -> DistilledSet:
    return DistilledSet(
        labels=torch.eye(2),
        label_ids=torch.arange(2),
        recipe=Recipe("finetune") if not recipe else Recipe(**recipe),  # type: ignore[arg-type]
        token_ids=torch.tensor([[2, 36, 3, -1], [2, 39, 5, 3]]),
        about={"model": {"name": "tiny", "pad_token_id": 0}, "classes": ["no", "yes"]},
    )


def test_sets_of_real_text_are_fine_tuned(encoder_folder: Callable[[str], Path]) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(encoder_folder("bert"), num_labels=2)
    trained = real_text().fine_tune(model, recipe=FineTune(name="finetune", steps=60, lr=3e-3))
    assert real_text().predict(trained, ["dull", "good word0"]) == ["no", "yes"]


def test_an_epoch_cannot_be_selected_without_dev(encoder_folder: Callable[[str], Path]) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(encoder_folder("bert"), num_labels=2)
    with pytest.raises(InputError, match="no dev rows to select an epoch with; remove select"):
        real_text().fine_tune(model, recipe=FineTune(name="finetune", epochs=2, select=BestEpoch()))


def test_token_ids_beyond_the_vocabulary_are_refused(encoder_folder: Callable[[str], Path]) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(encoder_folder("bert"), num_labels=2)
    made = replace(real_text(), token_ids=torch.tensor([[2, 36], [2, 4000]]))
    with pytest.raises(InputError, match="token ids up to 4000; the given model knows 41 tokens: load tiny instead"):
        made.fine_tune(model)


def test_a_majority_set_is_not_trained_on(encoder_folder: Callable[[str], Path]) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(encoder_folder("bert"), num_labels=2)
    with pytest.raises(InputError, match="majority set is not trained on"):
        real_text(name="majority").fine_tune(model)


@pytest.mark.parametrize("texts", ["a good film", ["one", ("a", "pair")]])
def test_predict_takes_a_list_of_one_kind(encoder_folder: Callable[[str], Path], texts: list[str]) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(encoder_folder("bert"), num_labels=2)
    with pytest.raises(InputError, match="list of texts, or a list of"):
        real_text().predict(model, texts)


def test_predict_asks_for_what_the_task_has(distilled_file: Path, encoder_folder: Callable[[str], Path]) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(encoder_folder("bert"), num_labels=2)
    found = distilled.load(distilled_file)
    with pytest.raises(InputError, match=r"this set is of single texts \(text\): give predict a list of single texts"):
        found.predict(model, [("good", "dull")])
    found.about["config"]["source"]["task"]["text"] = ["question", "sentence"]
    with pytest.raises(InputError, match=r"of pairs \(question, sentence\): give predict a list of pairs"):
        found.predict(model, ["good"])
    assert len(found.predict(model, [("good", "dull"), ("dull", "good word1")], batch_size=1)) == 2


def test_a_path_is_no_model() -> None:
    with pytest.raises(InputError, match=r"takes a loaded model, not 'some/bert'.*from_pretrained\(…, num_labels=2\)"):
        real_text().fine_tune("some/bert")  # type: ignore[arg-type]
