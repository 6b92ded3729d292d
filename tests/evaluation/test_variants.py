"""What the variants of a recipe are, on sets small enough to write down."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pipeline.config import AdamSteps, FineTune, MomentumSteps, Robust
from pipeline.distilled import DistilledSet, Recipe
from pipeline.evaluation.variants import Variant, variants

ROBUST = Robust(name="robust")


def plain(rows: list[list[int]], samples: int = 6, **recipe: Any) -> DistilledSet:
    return DistilledSet(
        labels=torch.eye(2).repeat(samples // 2, 1),
        label_ids=torch.arange(samples) % 2,
        recipe=Recipe("ddal", **recipe),
        inputs_embeds=torch.arange(samples).float().view(-1, 1, 1).expand(-1, 3, 4),
        attention_labels=torch.zeros(samples, 1, 1, 1, 3),
        learning_rates=torch.tensor([0.1, 0.2, 0.3, 0.4][: len(rows)]),
        batch_order=torch.tensor(rows),
    )


DIFFERENT = plain([[0, 1], [2, 3], [4, 5]])


def plan(made: DistilledSet, protocol: Robust = ROBUST, recipe: FineTune | None = None) -> dict[str, Variant]:
    found = variants(protocol, made, recipe, seed=0)
    assert found[-1].name == "own"
    assert len({each.name for each in found}) == len(found)
    return {each.name: each for each in found}


def steps(variant: Variant, index: int = 0) -> list[tuple[list[int], float]]:
    """Rows and step size of every step."""
    batches = variant.made(index).inner_batches(0, index)
    return [(b.inputs[:, 0, 0].int().tolist(), round(float(b.learning_rate), 6)) for b in batches]


def test_every_factor_of_a_set_with_steps_on_different_samples() -> None:
    assert list(plan(DIFFERENT)) == [
        *("order=reversed", "order=shuffled", "order=random", "batch=one", "batch=all"),
        *("optimizer=momentum", "optimizer=adam", "optimizer=adamw"),
        *("learning_rate=x0.1", "learning_rate=x0.3", "learning_rate=x3", "learning_rate=x10"),
        *("steps=x0.5", "steps=x2", "steps=x5", "steps=x10"),
        *("dropout=on", "precision=bf16", "attention_labels=off", "own"),
    ]


def test_what_would_train_the_same_student_is_left_out() -> None:
    """One step on the whole set: no order, no half a step; its first momentum step is a plain one."""
    names = plan(replace(plain([[0, 1]], 2), attention_labels=None))
    assert not [name for name in names if name.startswith(("order", "attention", "steps=x0.5", "optimizer=momentum"))]
    assert [name for name in names if name.startswith("batch")] == ["batch=one"]
    attentive = plan(plain([[0, 1]], 2, attention_weight=0.0))
    assert "attention_labels=off" not in attentive, "they have no weight"


def test_orders_change_batches_and_leave_step_sizes() -> None:
    found = plan(DIFFERENT)
    assert steps(found["order=reversed"]) == [([4, 5], 0.1), ([2, 3], 0.2), ([0, 1], 0.3)]
    for index in (0, 1):
        shuffled = steps(found["order=shuffled"], index)
        assert sorted(row for rows, _ in shuffled for row in rows) == [0, 1, 2, 3, 4, 5], "one pass, each sample once"
        assert [rate for _, rate in shuffled] == [0.1, 0.2, 0.3]
    assert steps(found["order=shuffled"], 0) != steps(found["order=shuffled"], 1)
    assert steps(found["order=shuffled"], 0) == steps(found["order=shuffled"], 0)
    assert found["order=random"].made(0).recipe.order == "random"
    drawn = plan(plain([[0, 1], [2, 3], [4, 5]], order="random"))
    assert "order=random" not in drawn
    assert steps(drawn["order=reversed"])[0][0] == [4, 5], "a fixed order"


def test_other_batches_have_at_least_the_passes_and_steps_of_the_recipe() -> None:
    found = plan(DIFFERENT)
    ones = [([0], 0.1), ([1], 0.1), ([2], 0.2), ([3], 0.2), ([4], 0.3), ([5], 0.3)]
    assert steps(found["batch=one"]) == ones
    assert steps(found["batch=all"]) == [(list(range(6)), 0.1), (list(range(6)), 0.2), (list(range(6)), 0.3)]
    halves = plan(plain([[0, 1, 2, 3], [4, 5, 6, 7]], 8))
    assert [rows for rows, _ in steps(halves["batch=half"])] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_multiples_of_step_sizes_and_of_steps() -> None:
    found = plan(DIFFERENT)
    assert steps(found["learning_rate=x3"]) == [([0, 1], 0.3), ([2, 3], 0.6), ([4, 5], 0.9)]
    assert steps(found["steps=x0.5"]) == steps(found["own"])[:2]
    assert steps(found["steps=x2"]) == 2 * steps(found["own"])
    assert len(steps(found["steps=x10"])) == 30


def test_optimisers_of_one_kind_keep_the_step_sizes() -> None:
    found = plan(DIFFERENT, Robust(name="robust", adam_lr=0.007, sgd_lr=0.03))
    momentum, adam = found["optimizer=momentum"].made(0), found["optimizer=adam"].made(0)
    assert isinstance(momentum.recipe.inner_optimizer, MomentumSteps)
    assert isinstance(adam.recipe.inner_optimizer, AdamSteps)
    assert steps(found["optimizer=momentum"]) == steps(found["own"])
    assert [rate for _, rate in steps(found["optimizer=adam"])] == [0.007] * 3
    assert found["optimizer=adamw"].recipe == FineTune(name="finetune")
    of_adam = plan(plain([[0, 1], [2, 3], [4, 5]], inner_optimizer=AdamSteps(name="adam")), Robust(name="robust"))
    assert [rate for _, rate in steps(of_adam["optimizer=sgd"])] == [0.01] * 3
    assert "optimizer=adam" not in of_adam


def test_what_a_student_has_to_be_loaded_with() -> None:
    found = plan(DIFFERENT)
    assert [name for name, each in found.items() if each.dropout] == ["dropout=on"]
    assert [name for name, each in found.items() if each.precision != "fp32"] == ["precision=bf16"]
    assert found["dropout=on"].made(0).recipe.dropout
    assert found["attention_labels=off"].made(0).attention_labels is None
    half = plan(plain([[0, 1], [2, 3], [4, 5]], precision="bf16", dropout=True))
    assert [name for name in half if name.startswith(("dropout", "precision"))] == ["precision=fp32"]


def test_variants_of_fine_tuning() -> None:
    own = FineTune(name="finetune", steps=50, batch_size=4, lr=1e-4)
    found = plan(DIFFERENT, recipe=own)
    recipes = {name: each.recipe for name, each in found.items()}
    assert all(recipe is not None for recipe in recipes.values())

    def changed(name: str) -> dict[str, Any]:
        recipe = recipes[name]
        assert recipe is not None
        return {key: value for key, value in recipe.model_dump().items() if value != own.model_dump()[key]}

    assert recipes["own"] == own
    assert changed("batch=one") == {"batch_size": 1, "steps": 200}
    assert changed("batch=half") == {"batch_size": 2, "steps": 100}
    assert changed("batch=all") == {"batch_size": 6}
    assert changed("optimizer=sgd") == {"optimizer": "sgd", "lr": 0.01}
    assert changed("optimizer=adam") == {"optimizer": "adam"}
    assert changed("learning_rate=x10") == {"lr": pytest.approx(1e-3)}
    assert changed("steps=x0.5") == {"steps": 25}
    assert changed("dropout=on") == {"dropout": True}
    assert found["dropout=on"].dropout
    assert found["precision=bf16"].precision == "bf16"
    assert changed("precision=bf16") == {}
    assert not [name for name in found if name.startswith(("order", "attention_labels"))]


def test_epochs_count_as_their_steps() -> None:
    found = plan(DIFFERENT, recipe=FineTune(name="finetune", epochs=5, batch_size=2))
    twice = found["steps=x2"].recipe
    assert twice is not None
    assert (twice.steps, twice.epochs) == (30, None)


def test_no_variant_selects_an_epoch() -> None:
    with pytest.raises(ValidationError, match=r"own\.select: no variant selects an epoch"):
        Robust.model_validate({"name": "robust", "own": {"name": "finetune", "epochs": 3, "select": "dev"}})
