from pipeline.report.collect import collect
from pipeline.report.tables import long_form, results_table
from tests.report.report_fabric import FULL, RANDOM, Fabric


def notes(fabric, experiment):
    return results_table(experiment, collect(experiment, fabric.store))


def test_selection_on_test_is_said_loudly(fabric: Fabric):
    experiment = fabric.experiment({"distill.method.validation.split": ["test"]})
    fabric.fill(experiment, lambda cell: {"test": [0.5]})
    table = notes(fabric, experiment)
    assert table.caption[0].startswith("SELECTED ON THE TEST SPLIT, as the paper did: HL.")
    assert not any("used for no choice" in sentence for sentence in table.caption)


def test_selection_on_dev_is_said(fabric: Fabric):
    experiment = fabric.experiment({})
    fabric.fill(experiment, lambda cell: {"test": [0.5]})
    caption = notes(fabric, experiment).caption
    assert caption[0] == "Checkpoints of distilled sets: dev loss; the test split was used for no choice."
    assert not any("SELECTED" in sentence for sentence in caption)


def test_abbreviations_are_told_where_a_row_has_one(fabric: Fabric):
    """A row of Table 3 is called by its budget alone, so that what learned it stands below."""
    told = "HL: hard labels; SL: soft (unrestricted) labels; AL: attention labels."
    ours = {"distill.method.labels": ["unrestricted"], "distill.method.attention_labels": ["cls"]}
    written = {"distill.method": [{"name": "generated"}], "evaluate.protocol": [{"name": "finetune"}]}

    def caption_of(name, *grids, table="table2"):
        experiment = fabric.experiment(*grids, name=name, report={"table": table})
        fabric.fill(experiment, lambda cell: {"test": [0.5]})
        return notes(fabric, experiment).caption

    assert told in caption_of("methods", ours)
    assert not any("Learned sets" in sentence for sentence in caption_of("methods", ours))
    budgets = caption_of("budgets", ours, table="table3")
    assert told in budgets
    assert "Learned sets: SL + AL." in budgets
    language = caption_of("language", written | {"distill.parent": [generator(fabric, 42)]}, RANDOM)
    assert not any("HL" in sentence or "Learned sets" in sentence for sentence in language)


def test_sets_of_others_are_not_called_clean(fabric: Fabric):
    (fabric.folder / "dataset_0.json").write_text("")
    method = {"name": "imported", "file": str(fabric.folder / "dataset_0.json"), "kind": "text", "shots": 1}
    grid = {"distill.method": [method], "evaluate.protocol": [{"name": "finetune"}]}
    experiment = fabric.experiment(grid, {})
    fabric.fill(experiment, lambda cell: {"test": [0.5]})
    caption = notes(fabric, experiment).caption
    assert caption[:2] == (
        "Published by others, so that what selected them, and whether that was the test split, is not known: "
        "“imported dataset_0.json, 1 shot”.",
        "Checkpoints of other distilled sets: dev loss; the test split was used for no choice.",
    )
    alone = fabric.experiment(grid, name="alone")
    assert not any("used for no choice" in sentence for sentence in notes(fabric, alone).caption)


def test_the_search_and_its_outcome_are_named(fabric: Fabric):
    experiment = fabric.experiment({"distill.method.outer.lr": [0.01, 0.1], "distill.method.learning_rate": [0.2, 0.3]})
    fabric.fill(
        experiment,
        lambda c: {"dev": [c.source.method.outer.lr], "test": [0.5]} if c.source.method.learning_rate == 0.2 else None,
    )
    assert (
        "HL: searched distill.method.learning_rate, distill.method.outer.lr; chosen by the column's metric on dev: "
        "sst2 learning_rate=0.2, lr=0.1 (best of 2 finished of 4)."
    ) in notes(fabric, experiment).caption


def test_that_the_best_are_equal_is_said(fabric: Fabric):
    experiment = fabric.experiment({"distill.method.outer.lr": [0.01, 0.02, 0.1]})
    fabric.fill(experiment, lambda c: {"dev": [0.4 if c.source.method.outer.lr == 0.01 else 0.6], "test": [0.5]})
    found = [line for line in notes(fabric, experiment).caption if line.startswith("HL: searched")]
    assert [line.rpartition("dev: ")[2] for line in found] == [
        "sst2 lr=0.02 (best of 3, the first of 2 that are equal)."
    ]


def test_a_search_elsewhere_is_named(fabric: Fabric):
    experiment = fabric.experiment({"distill.method.labels": ["hard"]}, RANDOM)
    report = experiment.report.model_copy(update={"search": "search_minilm"})
    experiment = experiment.model_copy(update={"report": report})
    fabric.fill(experiment, lambda cell: {"test": [0.5]})
    assert "Hyper-parameters of distilled sets: chosen on dev in the experiment search_minilm." in (
        notes(fabric, experiment).caption
    )
    found = long_form(collect(experiment, fabric.store)).groupby("row")["selection"].first()
    assert found["HL"] == "dev loss; hyper-parameters: dev accuracy, in search_minilm"
    assert "search" not in found["random real"]


def test_scores_on_dev_are_said(fabric: Fabric):
    experiment = fabric.experiment(splits=["dev"])
    fabric.fill(experiment, lambda cell: {"dev": [0.5]})
    table = notes(fabric, experiment)
    assert any("scored on DEV" in sentence for sentence in table.caption)
    assert "10 dev rows" in table.frame.columns[1]


def test_what_each_deviation_is_over(fabric: Fabric):
    experiment = fabric.experiment(
        {"distill.method.labels": ["hard"], "distill.seed": [0, 1]}, {"distill.method.labels": ["unrestricted"]},
        {"distill.method.labels": ["soft"], "distill.seed": [0, 1]},
        RANDOM | {"distill.seed": [0, 1, 2]}, FULL,
    )  # fmt: skip
    values = {"hard": [0.5, 0.52], "unrestricted": [0.6, 0.7], "soft": [0.1, 0.9]}
    fabric.fill(
        experiment,
        lambda c: {"test": [v + c.source.seed / 20 for v in values.get(getattr(c.source.method, "labels", ""), [0.5])]},
    )
    caption = notes(fabric, experiment).caption
    assert (
        "±, intervals and marks are over initialisations of one set, and do not hold what another set would give: SL."
    ) in caption
    assert "± holds sets and initialisations together, one initialisation per set: random real." in caption
    (nested,) = [sentence for sentence in caption if sentence.startswith("a / b after ±")]
    assert nested.endswith(": HL, SL (softmax).")
    assert "The component between seeds was estimated negative, and is shown as 0: SL (softmax)." in caption
    assert sum("Student's t over set means where there are two sets or more" in sentence for sentence in caption) == 1


def generator(fabric: Fabric, seed: int):
    """A language model, as the parent of sets that it writes."""
    source = {"model": {"name": str(fabric.model), "head": "language"}}
    return {"method": {"name": "lm"}, "source": source, "seed": seed}


def test_sets_of_one_generator_say_so(fabric: Fabric):
    """Seeds of what is written are not those of the training that wrote it."""
    written = {"distill.method": [{"name": "generated"}], "evaluate.protocol": [{"name": "finetune"}]}
    several = {"distill.seed": [0, 1, 2]}

    def caption_of(name: str, *grids):
        experiment = fabric.experiment(*grids, name=name)
        fabric.fill(experiment, lambda cell: {"test": [0.5 + sum(cell.source.seeds) / 50, 0.6]})
        return [sentence for sentence in notes(fabric, experiment).caption if sentence.startswith("Sets ")]

    one, two = generator(fabric, 42), [generator(fabric, seed) for seed in (1, 2)]
    began = {"distill.parent": [{"method": {"name": "ddal"}, "seed": 42}]}
    remark = "so that ±, intervals and marks do not hold what making it anew would give"
    assert caption_of("one", written | several | {"distill.parent": [one]}, RANDOM | several) == [
        f"Sets of one language model, {remark}: “LM, 20 shots”."
    ]
    assert caption_of("two", written | several | {"distill.parent": two}) == [
        "Sets of 2 language models, which ±, intervals and marks take as if each had one of its own: LM."
    ]
    assert caption_of("began", began | several) == [f"Sets from one other set, {remark}: HL."]
    assert caption_of("own", written | {"distill.parent": two}) == []
    assert caption_of("single", written | {"distill.parent": [one]}) == []


def test_rows_that_differ_between_tasks_are_named_with_their_tasks(fabric: Fabric):
    experiment = fabric.experiment({"distill.seed": [0, 1]}, tasks=[fabric.task("one"), fabric.task("two")])
    fabric.fill(
        experiment,
        lambda c: None if c.source.source.task.name == "one" and c.source.seed else {"test": [0.5, 0.6]},
    )
    caption = notes(fabric, experiment).caption
    assert any(sentence.endswith("another set would give: HL (one).") for sentence in caption)
    assert any(sentence.startswith("a / b") and sentence.endswith(": HL (two).") for sentence in caption)
