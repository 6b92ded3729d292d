"""Unequal classes in DDAL: its batches, its loss, what validation compares, how its samples are divided."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.bilevel import OuterLoss
from pipeline.config import DDAL, ClassWeights, CrossEntropy, Distill, LogitAdjustment, RealLoss, load
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet
from pipeline.errors import InputError
from pipeline.launch import run_stage, stage_cells
from pipeline.methods import ddal, outer
from pipeline.methods.gradient_check import CANARY, check_gradient
from pipeline.methods.imbalance import check_classes, measured, outer_loss
from pipeline.methods.learned import LearnedSet, initial_tensors, sample_classes
from pipeline.store import Store
from tests.conftest import corpus, table

Write = Callable[..., Path]
Make = Callable[..., tuple[Distill, Prepared]]
COUNTS = np.array([10, 30, 60])


@pytest.fixture
def prepared(experiment: Write, tmp_path: Path, encoder_folder: Callable[..., Path]) -> Make:
    """Method options -> stage 2's config and stage 1's output: 30 training rows of class 0, 90 of class 1."""
    rows = [row for number, row in enumerate(corpus(240, seed=3)) if row["label"] == 1 or number % 6 == 0]
    file = tmp_path / "unequal.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(pretrained: bool = False, **options: object) -> tuple[Distill, Prepared]:
        model = str(encoder_folder("bert", pretrained=pretrained))
        task = {"name": "unequal", "source": {"kind": "files", "train": str(file)}, "text": ["text"]}
        config = load(experiment(prepare={"task": task, "model": model, "dev": 20, "test": 20}, method=options))
        store = Store(tmp_path / "ck")
        run_stage(stage_cells(config, store, "prepare"), "prepare", store)
        cell: Distill = config.cells[0].source
        return cell, Prepared(store.cell(cell.source).folder)

    return make


def distilled(made: tuple[Distill, Prepared], folder: Path) -> DistilledSet:
    folder.mkdir(exist_ok=True)
    return ddal.distill(*made, folder)


# --- the loss ------------------------------------------------------------------------------------------------------


def test_nothing_is_corrected_unless_asked() -> None:
    loss = outer_loss(DDAL(name="ddal").outer.loss, COUNTS)
    assert loss.weights is None
    assert loss.offsets is None


def test_class_weights_are_inverse_shares_with_mean_one_over_rows() -> None:
    weights = outer_loss(ClassWeights(name="class_weights"), COUNTS).weights
    assert weights is not None
    assert weights.tolist() == pytest.approx([100 / 30, 100 / 90, 100 / 180])
    assert (weights * torch.tensor(COUNTS)).sum().item() == pytest.approx(100)


def test_effective_numbers_by_hand() -> None:
    """β = 0.5: (1 − β^n) / (1 − β) is 1.5 for two rows, 1.75 for three."""
    weights = outer_loss(ClassWeights(name="class_weights", beta=0.5), np.array([2, 3])).weights
    assert weights is not None
    raw = [1 / 1.5, 1 / 1.75]
    assert weights.tolist() == pytest.approx([5 * each / (2 * raw[0] + 3 * raw[1]) for each in raw])


@pytest.mark.parametrize(("beta", "expected"), [(0.0, [1, 1, 1]), (1 - 1e-9, [100 / 30, 100 / 90, 100 / 180])])
def test_effective_numbers_lie_between_equal_weights_and_inverse_shares(beta: float, expected: list[float]) -> None:
    weights = outer_loss(ClassWeights(name="class_weights", beta=beta), COUNTS).weights
    assert weights is not None
    assert weights.tolist() == pytest.approx(expected, rel=1e-6)


def test_logit_adjustment_adds_the_logarithm_of_shares() -> None:
    offsets = outer_loss(LogitAdjustment(name="logit_adjustment", tau=2), COUNTS).offsets
    assert offsets is not None
    assert offsets.tolist() == pytest.approx([2 * math.log(share) for share in (0.1, 0.3, 0.6)])


@pytest.mark.parametrize(
    "given",
    [
        ClassWeights(name="class_weights"),
        LogitAdjustment(name="logit_adjustment"),
        CrossEntropy(name="cross_entropy"),
    ],
)
def test_the_outer_step_uses_it(
    prepared: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: RealLoss
) -> None:
    """With the counts of the training split: 30 and 90 rows."""
    seen: list[Any] = []
    true = outer.hypergradient

    def noted(*args: Any, **kwargs: Any) -> Tensor:
        seen.append(kwargs["loss"])
        return true(*args, **kwargs)

    monkeypatch.setattr(outer, "hypergradient", noted)
    options = {"outer": {"steps": 1, "batch_size": 8, "loss": given.model_dump()}, "validation": {"split": "none"}}
    distilled(prepared(**options), tmp_path / "a")
    (loss,) = seen
    weights, offsets = (None if each is None else each.tolist() for each in (loss.weights, loss.offsets))
    assert weights == (pytest.approx([2, 2 / 3]) if isinstance(given, ClassWeights) else None)
    assert offsets == (
        pytest.approx([math.log(0.25), math.log(0.75)]) if isinstance(given, LogitAdjustment) else None
    )  # fmt: skip


def test_the_gradient_check_is_of_this_loss(prepared: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hand-derived passes that forgot the weights would be caught."""
    made = prepared(outer={"batch_size": 8, "loss": "class_weights"}, attention_labels="cls", estimator="fused")
    assert check_gradient(*made, CANARY).holds
    monkeypatch.setattr(OuterLoss, "targets", lambda _, labels, classes: F.one_hot(labels, classes))
    assert not check_gradient(*made, CANARY).holds


# --- the batches ---------------------------------------------------------------------------------------------------


def test_balanced_batches_reach_the_outer_loss(prepared: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[float]] = {"balanced": [], "shuffled": []}
    true = outer.hypergradient

    def noted(*args: Any, **kwargs: Any) -> Tensor:
        seen[sampling] += [batch["labels"].float().mean().item() for batch in args[4]]
        return true(*args, **kwargs)

    monkeypatch.setattr(outer, "hypergradient", noted)
    for sampling in seen:
        options = {"steps": 5, "batch_size": 8, "real_batches": 2, "sampling": sampling, "bucket_by_length": True}
        distilled(prepared(outer=options, validation={"split": "none"}), tmp_path / sampling)
    assert seen["balanced"] == [0.5] * 10
    assert sum(seen["shuffled"]) / 10 > 0.6


def test_stopped_and_started_again_balanced_batches_go_on(
    prepared: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepared(
        outer={"steps": 8, "batch_size": 8, "sampling": "balanced", "bucket_by_length": True},
        validation={"every": 3, "initialisations": 2, "by": "balanced_accuracy"},
    )
    whole = distilled(made, tmp_path / "whole")
    true, calls = outer.hypergradient, []

    def stopped(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return true(*args, **kwargs) * (float("nan") if len(calls) == 5 else 1)

    monkeypatch.setattr(outer, "hypergradient", stopped)
    with pytest.raises(Exception, match="step 5"):
        distilled(made, tmp_path / "twice")
    again = distilled(made, tmp_path / "twice")
    assert again.inputs_embeds is not None
    assert whole.inputs_embeds is not None
    assert torch.equal(again.inputs_embeds, whole.inputs_embeds)
    assert again.about == whole.about


# --- what is refused -----------------------------------------------------------------------------------------------


def manifest(*counts: int) -> dict[str, Any]:
    return {"classes": [f"c{label}" for label in range(len(counts))], "class_counts": {"train": list(counts)}}


@pytest.mark.parametrize(
    ("options", "counts", "said"),
    [
        ({"outer": {"sampling": "balanced"}}, (9, 0), "'c1' has no training rows, so outer.sampling: balanced"),
        ({"outer": {"loss": "logit_adjustment"}}, (0, 9), "'c0' has no training rows, so outer.loss: logit_adjustment"),
        ({"shots": 2, "batch_shots": 2, "budget": "sqrt"}, (0, 9), "so budget: sqrt means nothing; remove it"),
        ({"outer": {"sampling": "balanced"}}, (9, 9, 9), "batch_size: 32 is no multiple of 3; give 30 or 33"),
        ({"outer": {"sampling": "balanced", "batch_size": 2}}, (9, 9, 9), "is no multiple of 3; give 3$"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], counts: tuple[int, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_classes(DDAL(name="ddal", **options), manifest(*counts))


def test_what_asks_for_nothing_is_not() -> None:
    check_classes(DDAL(name="ddal", outer={"batch_size": 5}), manifest(9, 0))  # type: ignore[arg-type]
    check_classes(DDAL(name="ddal", outer={"sampling": "balanced"}), manifest(1, 9))  # type: ignore[arg-type]


# --- what validation compares --------------------------------------------------------------------------------------


def test_measures_by_hand() -> None:
    """Classes 0, 0, 1, 1, 1, 1; answered 0, 1, 1, 1, 1, 0."""
    logits = torch.tensor([[2.0, 0], [0, 1], [0, 1], [0, 1], [0, 1], [1, 0]])
    labels = torch.tensor([0, 0, 1, 1, 1, 1])
    right, wrong, sure = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1)), math.log(1 + math.exp(-2))
    assert measured("loss", logits, labels) == pytest.approx((sure + 2 * wrong + 3 * right) / 6)
    assert measured("balanced_loss", logits, labels) == pytest.approx(
        ((sure + wrong) / 2 + (3 * right + wrong) / 4) / 2
    )
    assert measured("accuracy", logits, labels) == pytest.approx(4 / 6)
    assert measured("balanced_accuracy", logits, labels) == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert measured("mcc", logits, labels) == pytest.approx((3 * 1 - 1 * 1) / math.sqrt(4 * 4 * 2 * 2))


def test_a_constant_answer_has_the_accuracy_of_its_class_and_nothing_else() -> None:
    labels = torch.tensor([0, 1, 1, 1])
    constant = torch.tensor([[0.0, 1.0]]).expand(4, 2)
    found = [measured(by, constant, labels) for by in ("accuracy", "balanced_accuracy", "mcc")]
    assert found == pytest.approx([0.75, 0.5, 0])


@pytest.mark.parametrize(("by", "sign"), [("balanced_loss", 1), ("balanced_accuracy", -1), ("mcc", -1)])
def test_the_best_state_by_it_is_kept(prepared: Make, tmp_path: Path, by: str, sign: int) -> None:
    made = prepared(
        pretrained=True,
        labels="unrestricted",
        attention_labels="cls",
        initialise="real",
        learning_rate=0.02,
        outer={"steps": 24, "batch_size": 16, "lr": 0.05, "sampling": "balanced"},
        validation={"every": 3, "initialisations": 2, "by": by},
    )
    found = distilled(made, tmp_path / "a").about["selection"]
    log = table(tmp_path / "a" / "log.csv")
    scores = [float(row["validation_score"]) for row in log if row["validation_score"]]
    best = min(range(8), key=lambda number: sign * scores[number])
    assert len(set(scores)) > 1
    assert (found["by"], found["step"]) == (by, 3 * best + 3)
    assert found[by] == pytest.approx(scores[best], abs=1e-12)
    assert {"loss", "accuracy"} <= set(found)


# --- how samples are divided ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"shots": 2, "steps": 2}, [0, 1, 0, 1]),
        ({"shots": 2, "batch_shots": 2, "budget": "prior"}, [0, 1, 1, 1]),  # of 4: 0.8 and 3.2
        ({"shots": 3, "batch_shots": 3, "budget": "sqrt"}, [0, 1, 0, 1, 1, 1]),  # of 6: 2 and 4
        ({"shots": 1, "budget": "prior"}, [0, 1]),
    ],
)
def test_classes_take_turns_while_they_have_samples(options: dict[str, Any], expected: list[int]) -> None:
    assert sample_classes(DDAL(name="ddal", **options), manifest(20, 80)).tolist() == expected


@pytest.mark.parametrize("labels", ["hard", "soft", "unrestricted"])
def test_a_set_by_prior_starts_from_rows_and_labels_of_its_classes(prepared: Make, labels: str) -> None:
    config, facts = prepared(shots=2, batch_shots=2, budget="prior", initialise="real", labels=labels)
    method = config.method
    assert isinstance(method, DDAL)
    student = ddal.load_student(method, facts, torch.device("cpu"))
    of_samples = sample_classes(method, facts.manifest)
    assert of_samples.tolist() == [0, 1, 1, 1]  # of 30 and 90 rows
    tensors = initial_tensors(method, facts, student, config.seed)
    view = LearnedSet(method, 2, tensors, of_samples).view()
    assert view.labels.argmax(dim=1).tolist() == view.label_ids.tolist() == [0, 1, 1, 1]
    matrix, words = student.embedding_matrix, facts.tokenizer
    for sample, label in zip(tensors["inputs_embeds"].detach(), of_samples.tolist(), strict=True):
        ids = torch.cdist(sample, matrix).argmin(dim=1).tolist()
        found = set(words.convert_ids_to_tokens(ids))
        rows = [row for row in facts.split("train").rows if row["label"] == label]
        assert any(row["input_ids"][: len(ids)] == ids[: len(row["input_ids"])] for row in rows), found
    (batch,) = view.inner_batches()
    assert len(batch.inputs) == 4


def test_a_set_by_prior_is_made_and_said_in_its_file(prepared: Make, tmp_path: Path) -> None:
    options = {"shots": 2, "batch_shots": 2, "steps": 2, "budget": "prior", "outer": {"steps": 2, "batch_size": 8}}
    made = distilled(prepared(**options), tmp_path / "a")
    assert made.label_ids.tolist() == [0, 1, 1, 1]
    assert made.labels.tolist() == [[1, 0], [0, 1], [0, 1], [0, 1]]
    assert made.batch_order is not None
    assert made.batch_order.tolist() == [[0, 1, 2, 3]] * 2
