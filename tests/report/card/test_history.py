"""What a card says of how a set came to be the one that is released."""

from __future__ import annotations

from typing import Any

from pipeline.config import Evaluate
from pipeline.report.card.history import history
from pipeline.report.card.scores import Scored
from tests.report.card.test_card_scores import known
from tests.report.report_fabric import Fabric

SELECTED = {
    "split": "dev",
    "step": 40,
    "by": "loss",
    "loss": 0.51234,
    "accuracy": 0.75,
    "initialisations": 2,
    "examples": None,
}


def sentences(cell: Evaluate, found: list[Scored], **selection: object) -> str:
    return "\n".join(history(cell.source, {"selection": SELECTED | selection}, found))


def test_how_the_checkpoint_was_selected(fabric: Fabric) -> None:
    cell = fabric.experiment().cells[0]
    assert "outer step 40, by dev loss (loss 0.5123, accuracy 75.0 %) of 2 fresh students on all dev rows" in sentences(
        cell, []
    )
    assert "THE TEST SPLIT SELECTED" in sentences(cell, [], split="test")
    assert "THE TEST SPLIT" not in sentences(cell, [])
    assert "the last outer step, selected by nothing" in "\n".join(
        history(cell.source, {"selection": {"split": "none"}}, [])
    )


def of_text(fabric: Fabric, *methods: dict[str, Any], **more: Any) -> list[Evaluate]:
    """Cells of sets that fine-tuned students learn from."""
    grid = {"distill.method": list(methods), "evaluate.protocol": [{"name": "finetune"}]}
    return list(fabric.experiment(grid | {key.replace("__", "."): values for key, values in more.items()}).cells)


def test_what_a_projection_was_learned_as_selected_it(fabric: Fabric) -> None:
    parent = {"method": {"name": "ddal", "validation": {"split": "test"}}}
    (cell,) = of_text(fabric, {"name": "project"}, distill__parent=[parent])
    assert "outer step 40, by dev loss" in sentences(cell, [])
    assert "THE TEST SPLIT SELECTED" in sentences(cell, [], split="test")
    assert "No score" not in sentences(cell, [])


def test_every_part_says_what_selected_it(fabric: Fabric) -> None:
    """Also a part that is put together of others itself."""
    real, learned = {"name": "random"}, {"name": "text", "shots": 5, "validation": {"split": "test"}}
    source = {"task": fabric.task(), "model": str(fabric.model), "test": 0.1}
    inner = {"name": "composed", "parts": [{"of": {"source": source, "method": learned}}]}
    parts = [{"of": {"source": source, "method": method}} for method in (real, learned, inner)]
    (cell,) = of_text(fabric, {"name": "composed", "parts": parts})
    told = {"task": "sst2", "seed": 42}
    test = told | {"method": "text", "selection": SELECTED | {"split": "test"}}
    nested = told | {"method": "composed"}
    of_random = told | {"method": "random", "selection": {"split": "none"}}
    found = history(cell.source, {"composed": [of_random, test, nested | {"composed": [test]}]}, [])
    assert found[0] == (
        "Part 1, by `random` of sst2 (seed 42): No score on dev or test selected anything: the rows follow from the "
        "method, train and the seed."
    )
    assert found[1].startswith("Part 2, by `text` of sst2 (seed 42): Checkpoint: outer step 40, by test loss")
    assert all("THE TEST SPLIT SELECTED" in sentence for sentence in found[1:3])
    older = history(cell.source, {"composed": [of_random, test, nested]}, [])
    assert "What selected its parts is not recorded" in older[2]


def test_nobody_knows_what_selected_a_published_set(fabric: Fabric) -> None:
    (fabric.folder / "dataset_0.json").write_text("")
    method = {"name": "imported", "file": str(fabric.folder / "dataset_0.json"), "kind": "text", "shots": 5}
    (cell,) = of_text(fabric, method)
    said = "\n".join(history(cell.source, {"selection": {"split": "unknown"}}, []))
    assert "whether that was the test split, is not known: it was published by others" in said
    assert "No score" not in said


def test_settings_that_were_tried_are_told(fabric: Fabric) -> None:
    searched = fabric.experiment(
        {"distill.method.outer.lr": [0.01, 0.02, 0.1], "distill.seed": [1, 2]}, splits=["dev", "test"]
    )
    found = known(fabric, searched, 0.5)
    said = sentences(searched.cells[0], found)
    assert "one of 3 settings" in said
    assert "which differ in distill.method.outer.lr; 3 of them have dev scores" in said
    again = fabric.experiment({"distill.method.outer.lr": [0.01], "distill.seed": [1, 2]}, splits=["test"])
    tested = known(fabric, again, 0.6)
    assert "3 of them have dev scores" in sentences(searched.cells[0], [*found, *tested]), "also where test came later"
    alone = [each for each in found if each.config.source.method == searched.cells[0].source.method]
    assert "no other setting of this method and budget was evaluated" in sentences(searched.cells[0], alone)


def test_a_set_that_won_the_search_is_named(fabric: Fabric) -> None:
    """Its own dev score chose its settings; a set of another seed by the same settings had no part in it."""
    rates = {"distill.method.outer.lr": [0.01, 0.02]}
    searched = fabric.experiment({**rates, "distill.seed": [1]}, splits=["dev"])
    found = known(fabric, searched, 0.5)
    fresh = fabric.experiment({**rates, "distill.seed": [2]}, splits=["test"], name="fresh")
    found += known(fabric, fresh, 0.6)
    assert "THIS VERY SET is one of those whose dev scores were compared" in sentences(searched.cells[0], found)
    assert "one of 2 settings" in sentences(fresh.cells[0], found)
    assert "THIS VERY SET" not in sentences(fresh.cells[0], found)


def test_without_scores_nothing_is_said_of_other_seeds(fabric: Fabric) -> None:
    said = sentences(fabric.experiment().cells[0], [])
    assert "no set by these settings, of this seed or another, had test scores" in said
    assert "the only set" not in said


def test_a_chosen_seed_is_told(fabric: Fabric) -> None:
    experiment = fabric.experiment({"distill.seed": [1, 2, 3]}, splits=["test"])
    found = known(fabric, experiment, 0.5, 0.6)
    assert "3 sets by the same settings have a mean test accuracy of 56.0 ± 1.0" in sentences(
        experiment.cells[2], found
    )
    assert "this one, seed 3, is number 1" in sentences(experiment.cells[2], found)
    assert "this one, seed 1, is number 3" in sentences(experiment.cells[0], found)
    only = [each for each in found if each.config == experiment.cells[0]]
    assert "the only set by these settings" in sentences(experiment.cells[0], only)
