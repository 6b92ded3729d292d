"""The card as the hub and a reader see it, of sets that no other test makes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from huggingface_hub import DatasetCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from pipeline.config import Distill, GradientSteps, MomentumSteps
from pipeline.distilled import DistilledSet, Recipe
from pipeline.report.card.facts import Evaluation, Facts, Finding, Score
from pipeline.report.card.front import altered
from pipeline.report.card.text import card_text

SHA = "f" * 40


def made(method: dict[str, Any], task: dict[str, Any] | None = None) -> DistilledSet:
    source = {"kind": "hub", "id": "acme/pairs", "subset": "mrpc", "revision": SHA, "splits": {"test": "validation"}}
    whole = {"name": "mrpc", "source": source, "text": ["one", "two"], "metric": "accuracy_f1"} | (task or {})
    prepare = {"task": whole, "model": {"name": "acme/bert", "revision": SHA}}
    config = Distill.model_validate({"source": prepare, "method": method})
    about = {
        "config": config.model_dump(mode="json"),
        "task": "mrpc",
        "classes": ["no", "yes"],
        "max_length": 128,
        "model": {"name": "acme/bert", "revision": SHA, "architecture": "B", "embedding_hash": "e" * 64},
        "data": {"hashes": {"train": "1", "dev": "2", "test": "3"}, "sizes": {"train": 3301, "dev": 367, "test": 408}},
        "seed": 42,
        "provenance": {"git_revision": "a" * 40, "git_dirty": True, "versions": {"torch": "2"}, "time": "2026"},
    }
    return DistilledSet(
        labels=torch.eye(2),
        label_ids=torch.arange(2),
        recipe=Recipe("finetune"),
        token_ids=torch.tensor([[2, 5, 3], [2, 6, 3]]),
        about=about,
    )


def ddal() -> DistilledSet:
    steps = replace(
        Recipe("ddal", order="random", dropout=True),
        inner_optimizer=MomentumSteps(name="momentum", momentum=0.7, nesterov=True),
    )
    return replace(
        made({"name": "ddal", "steps": 3, "labels": "soft", "inner_optimizer": "momentum"}),
        recipe=steps,
        token_ids=None,
        inputs_embeds=torch.zeros(2, 4, 3),
        learning_rates=torch.tensor([0.1, 0.02, 0.003]),
        batch_order=torch.tensor([[0, 1]] * 3),
    )


def facts(**more: Any) -> Facts:
    scores = (
        Score(split="dev", metric="accuracy_f1", mean=0.75, std=0.0125, n=4),
        Score(split="test", metric="accuracy_f1", mean=0.74816, std=None, n=1),
        Score(split="test", metric="mcc", mean=-0.0123, std=0.001, n=3),
    )
    how = Evaluation(protocol=GradientSteps(name="ddal"), how="ddal (revision 2)", seeds=(0,), scores=scores)
    whole = {"file": "x.h5", "sha256": "d" * 64, "content": {}, "evaluations": (how,), "license": "mit"} | more
    return Facts(**whole)


def test_the_hub_reads_the_front_matter() -> None:
    card = DatasetCard(card_text(made({"name": "random"}), facts(language="en")))
    data = card.data.to_dict()
    assert (data["datasets"], data["base_model"], data["license"]) == (["acme/pairs"], ["acme/bert"], "mit")
    assert data["source_datasets"] == ["extended|acme/pairs"]
    name, results = model_index_to_eval_results(data["model-index"])
    assert name == "x"
    assert [(each.dataset_split, each.metric_type, each.metric_value) for each in results] == [
        ("dev", "accuracy_f1", 0.75),
        ("test", "accuracy_f1", 0.7482),
        ("test", "mcc", -0.0123),
    ]


def test_numbers_have_their_units_spread_and_n() -> None:
    lines = card_text(made({"name": "random"}), facts()).splitlines()
    assert "| dev (367 rows) | accuracy_f1 | 75.0 ± 1.2 | 4 | ddal (revision 2) |" in lines
    assert "| test (408 rows) | accuracy_f1 | 74.8 | 1 | ddal (revision 2) |" in lines
    assert "| test (408 rows) | mcc | -0.012 ± 0.001 | 3 | ddal (revision 2) |" in lines


def test_pairs_revisions_and_what_was_carved() -> None:
    text = card_text(made({"name": "random"}), facts())
    assert f'from_pretrained("acme/bert", revision="{SHA}", num_labels=2)' in text
    assert '[("one text", "its other")]' in text
    assert f"hub dataset `acme/pairs`, mrpc at `{SHA}`" in text
    assert "* dev is carved from the source's train split" in text
    assert "with uncommitted changes" in text


def test_the_recipe_is_the_files_own() -> None:
    text = card_text(ddal(), facts())
    assert "3 steps of Nesterov momentum 0.7, on 2 samples each (random order)" in text
    assert "step sizes 0.1, 0.02, 0.003" in text
    assert "dropout on" in text
    assert "weight of the attention loss" not in text
    assert "SL (softmax)" in text


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"name": "random"}, "a draw from every class of train"),
        ({"name": "full"}, "all rows of train"),
        ({"name": "herding"}, "first-token vectors of the frozen encoder"),
        ({"name": "majority"}, "a row of the most frequent class"),
    ],
)
def test_how_real_rows_were_chosen(method: dict[str, Any], words: str) -> None:
    assert words in card_text(made(method), facts())


def test_what_is_not_known_is_said() -> None:
    text = card_text(made({"name": "random"}), facts(evaluations=(), license="unknown"))
    assert "No evaluation of this set was at hand" in text
    assert "Whether the scores below hold" not in text
    assert "Whether the scores below hold" in card_text(made({"name": "random"}), facts())
    assert "Not audited: the prepared data were not at hand" in text
    assert "Licence: not stated" in text
    assert "How often the test split of this task was scored is not known" in text


def test_findings_are_marked_and_do_not_break_the_table() -> None:
    found = (
        Finding(about="a", measured="1 | 2", flagged_if="any", flagged=True),
        Finding(about="b", measured="2", flagged_if="any"),
        Finding(about="c", measured="3"),
    )
    lines = card_text(made({"name": "random"}), facts(audit=found, looks_like=("it `is`\nso",))).splitlines()
    assert r"| a | 1 \| 2 | – | any | **flagged** |" in lines
    assert "| b | 2 | – | any | no |" in lines
    assert "| c | 3 | – | – | – |" in lines
    assert "* `it 'is' so`" in lines


def test_an_edit_anywhere_in_the_numbers_is_seen() -> None:
    text, told = card_text(ddal(), facts()), facts()
    assert altered(text, ddal(), told) == []
    assert altered(text.replace("| 75.0 ± 1.2 |", "| 95.0 ± 1.2 |"), ddal(), told) == [
        "the line '| dev (367 rows) | accuracy_f1 | 75.0 ± 1.2 | 4 | ddal (revision 2) |'"
    ]
    assert altered(text.replace("value: 0.7482", "value: 0.9"), ddal(), told) == ["model-index"]
    assert altered(text.replace("## Limits", "## Limits, as we see them"), ddal(), told) == [], "prose is the user's"
