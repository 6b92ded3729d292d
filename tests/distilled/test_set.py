"""The three lines a user needs, and what they refuse."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline import distilled
from pipeline.bilevel import Momentum
from pipeline.config import AdamSteps, BestEpoch, FineTune, InnerOptimizer, PlainSteps
from pipeline.config import load as load_experiment
from pipeline.distilled import DistilledSet, Recipe
from pipeline.distilled import set as distilled_set
from pipeline.errors import InputError
from pipeline.launch import pin, run_stage, stage_cells
from pipeline.store import Store


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


def test_outputs_are_named_by_the_classes_unless_the_user_named_them(encoder_folder: Callable[[str], Path]) -> None:
    made, recipe = replace(real_text(), about={"classes": ["bad", "good"]}), FineTune(name="finetune", steps=1)
    load = AutoModelForSequenceClassification.from_pretrained
    model = made.fine_tune(load(encoder_folder("bert"), num_labels=2), recipe=recipe)
    assert (model.config.id2label, model.config.label2id) == ({0: "bad", 1: "good"}, {"bad": 0, "good": 1})
    own = {0: "no", 1: "yes"}
    assert made.fine_tune(load(encoder_folder("bert"), id2label=own), recipe=recipe).config.id2label == own


def test_the_encoder_is_where_the_set_says(distilled_file: Path, encoder_folder: Callable[[str], Path]) -> None:
    found = distilled.load(distilled_file)
    assert Path(found.encoder) == encoder_folder("bert")
    for name, said in [("package:no_such_encoder/model", "pip install no-such-encoder"), (None, "does not say")]:
        with pytest.raises(InputError, match=said):
            assert replace(found, about=found.about | {"model": {"name": name}}).encoder
    assert replace(found, about=found.about | {"model": {"name": "owner/encoder"}}).encoder == "owner/encoder"
    assert (
        repr(found) == f"2 samples of 2 classes (keywords): input embeddings of {encoder_folder('bert')}, recipe ddal"
    )


def test_a_saved_student_answers_as_before_and_never_without_its_tokenizer(
    distilled_file: Path, tmp_path: Path
) -> None:
    """transformers makes up an empty tokenizer for a folder without one, to which all words are the same."""
    found, texts = distilled.load(distilled_file), ["good word1", "word2 dull word3", "strong", "weak bad dull"]
    model = found.fine_tune(AutoModelForSequenceClassification.from_pretrained(found.encoder, num_labels=2))
    expected = found.predict(model, texts)
    model.save_pretrained(tmp_path / "kept")
    kept = AutoModelForSequenceClassification.from_pretrained(tmp_path / "kept")
    with pytest.raises(InputError, match=r"kept: no tokenizer is saved there; predict\(…, tokenizer="):
        found.predict(kept, texts)
    tokenizer = AutoTokenizer.from_pretrained(found.encoder)
    assert found.predict(kept, texts, tokenizer=tokenizer) == expected
    tokenizer.save_pretrained(tmp_path / "kept")
    assert found.predict(kept, texts) == expected
    for used in (model, kept):
        with pytest.raises(InputError, match=r"trained on a distilled set already.*load it anew"):
            found.fine_tune(used)
    found.fine_tune(model, recipe=FineTune(name="finetune", steps=1))


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


@pytest.mark.parametrize("end", [KeyboardInterrupt, None])
def test_what_it_is_given_and_the_process_are_put_back(
    distilled_file: Path,
    encoder_folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    end: type[BaseException] | None,
) -> None:
    """Also where a training is interrupted: the parameters, the attention, eval mode; and products of float32."""
    found = distilled.load(distilled_file)
    found = replace(found, recipe=replace(found.recipe, dropout=True, precision="tf32"))
    model = AutoModelForSequenceClassification.from_pretrained(encoder_folder("bert"), num_labels=2)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    attention, seen = model.config._attn_implementation, []

    def descend(student: Any, start: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((model.config._attn_implementation, torch.backends.cuda.matmul.allow_tf32))
        if end is not None:
            raise end
        return start

    monkeypatch.setattr(distilled_set, "descend", descend)
    assert attention != "eager"
    torch.backends.cuda.matmul.allow_tf32 = False
    with contextlib.nullcontext() if end is None else pytest.raises(end):
        found.fine_tune(model)
    assert seen == [("eager", True)]
    assert model.config._attn_implementation == attention
    assert not model.training
    assert not torch.backends.cuda.matmul.allow_tf32
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


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


def test_predict_refuses_what_is_no_text(encoder_folder: Callable[[str], Path]) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(encoder_folder("bert"), num_labels=2)
    for texts, words in ((["good", math.nan], "number 1 is nan"), ([("good", None)], r"number 0 is \('good', None\)")):
        with pytest.raises(InputError, match=words):
            real_text().predict(model, texts)  # type: ignore[arg-type]


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
