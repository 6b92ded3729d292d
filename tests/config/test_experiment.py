"""YAML -> grid of cells, and every mistake as a sentence."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import DDAL, Evaluate, FineTune, load
from pipeline.config.data import known_tasks
from pipeline.config.loader import Loader
from tests.config.conftest import refusal

TASK = {"name": "mine", "source": {"kind": "files", "train": "x.csv"}, "text": ["text"]}
BASE: dict[str, Any] = {
    "prepare": {"task": TASK, "model": "bert-base-uncased"},
    "distill": {"method": {"name": "ddal"}},
    "evaluate": {"protocol": {"name": "ddal"}},
}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(base: Any = BASE, text: str | None = None, **top: Any) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"base": base, **top}, sort_keys=False) if text is None else text)
        return path

    return write


def changed(section: str, **values: Any) -> dict[str, Any]:
    return BASE | {section: BASE[section] | values}


def methods(path: Path, *settings: str) -> list[DDAL]:
    found = [cell.source.method for cell in load(path, settings).cells]
    assert all(isinstance(method, DDAL) for method in found)
    return found  # type: ignore[return-value]


def test_how_long_a_training_is() -> None:
    """Batches of 64: an incomplete last one of a pass is left out, unless it is the only one."""
    epochs = FineTune(name="finetune", epochs=3)
    assert [epochs.epoch_on(samples) for samples in (1, 63, 64, 127, 128)] == [1, 1, 1, 1, 2]
    assert (epochs.steps_on(10), epochs.steps_on(200), epochs.amount) == (3, 9, "3 epochs")
    steps = FineTune(name="finetune", steps=1)
    assert (steps.steps_on(10), steps.steps_on(200), steps.amount) == (1, 1, "1 step")


def test_a_config_is_what_was_written_and_frozen(write: Write) -> None:
    (cell,) = load(write()).cells
    assert isinstance(cell, Evaluate)
    assert cell.source.source.task.text == ("text",)
    assert cell.source.method.name == "ddal"
    with pytest.raises(ValueError, match="frozen"):
        cell.seed = 3


def test_quickstart_is_valid() -> None:
    experiment = load(Path(__file__).parents[2] / "configs" / "quickstart.yaml")
    assert {cell.source.method.name for cell in experiment.cells} == {
        "majority", "random", "k_centres", "ddal", "full",
    }  # fmt: skip


def test_every_known_task_is_valid(write: Write) -> None:
    path = write(grids=[{"prepare.task": list(known_tasks())}])
    assert [cell.source.source.task.name for cell in load(path).cells] == list(known_tasks())


# --- grids ---------------------------------------------------------------------------------------------------------


def test_a_block_is_a_product_in_the_order_of_the_file(write: Write) -> None:
    path = write(grids=[{"distill.method.shots": [1, 2], "distill.seed": [5, 6, 7]}])
    cells = [(cell.source.method.shots, cell.source.seed) for cell in load(path, ["distill.method.steps=2"]).cells]
    assert cells == list(itertools.product([1, 2], [5, 6, 7]))


def test_blocks_are_a_union_without_doubles(write: Write) -> None:
    path = write(grids=[{"distill.seed": [1, 2]}, {"distill.seed": [2, 3]}, {}])
    assert [cell.source.seed for cell in load(path).cells] == [1, 2, 3, 42]


@settings(max_examples=30, deadline=None)
@given(
    blocks=st.lists(
        st.dictionaries(
            st.sampled_from(["distill.seed", "evaluate.seed", "evaluate.initialisations"]),
            st.lists(st.integers(1, 4), min_size=1, max_size=3),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_grids_are_unions_of_products(blocks: list[dict[str, list[int]]], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("grid") / "g.yaml"
    path.write_text(yaml.safe_dump({"base": BASE, "grids": blocks}, sort_keys=False))
    wanted: dict[tuple[int, ...], None] = {}
    for block in blocks:
        for values in itertools.product(*block.values()):
            at = dict(zip(block, values, strict=True))
            wanted[at.get("distill.seed", 42), at.get("evaluate.seed", 0), at.get("evaluate.initialisations", 100)] = (
                None
            )
    cells = [(cell.source.seed, cell.seed, cell.initialisations) for cell in load(path).cells]
    assert cells == list(wanted)


def test_a_mapping_is_merged_unless_it_names_another_method(write: Write) -> None:
    base = changed("distill", method={"name": "ddal", "shots": 4, "steps": 4, "outer": {"lr": 0.5, "epochs": 3}})
    path = write(
        base,
        grids=[
            {"distill.method": [{"outer": {"epochs": 7}}]},
            {"distill.method": [{"name": "random"}], "evaluate.protocol": [{"name": "finetune"}]},
        ],
    )
    merged, replaced = load(path).cells
    assert (merged.source.method.shots, merged.source.method.outer.lr, merged.source.method.outer.epochs) == (4, 0.5, 7)
    assert replaced.source.method.shots == 1, "nothing of ddal's is left"


def test_later_keys_of_a_block_win(write: Write) -> None:
    for first, second, steps in (("", ".steps", 3), (".steps", "", 2)):
        values = {"": [{"steps": 2}], ".steps": [3]}
        path = write(grids=[{f"distill.method{key}": values[key] for key in (first, second)}])
        assert methods(path)[0].steps == steps


# --- seeds ---------------------------------------------------------------------------------------------------------

RANDOM = {"distill.method": [{"name": "random"}], "evaluate.protocol": [{"name": "finetune"}]}
FULL = {"distill.method": [{"name": "full"}], "evaluate.protocol": [{"name": "finetune"}]}
MAJORITY = {"distill.method": [{"name": "majority"}], "evaluate.protocol": [{"name": "majority"}]}


def seeds(path: Path, *settings: str) -> list[int]:
    return [cell.source.seed for cell in load(path, settings).cells]


def test_a_number_of_seeds_counts_from_the_cells_own(write: Write) -> None:
    assert seeds(write(seeds=3)) == [42, 43, 44]
    assert seeds(write(changed("distill", seed=0), seeds=3)) == [0, 1, 2]
    assert seeds(write(seeds=[7, 3])) == [7, 3]
    assert seeds(write(grids=[{"seeds": 2, "distill.method.steps": [1, 2]}])) == [42, 43, 42, 43]


def test_seeds_of_a_block_win_and_listed_ones_stay(write: Write) -> None:
    grids = [{}, {"seeds": [9]}, {"distill.seed": [1, 2]}]
    assert seeds(write(seeds=2, grids=grids)) == [42, 43, 9, 1, 2]


def test_seeds_move_no_address_of_what_was_there(write: Write) -> None:
    """The first of several is the cell without them; the others are what ``distill.seed`` says."""
    grids = [{"distill.method.shots": [1, 2], "distill.method.steps": [2]}]
    plain, one, several = (load(write(grids=grids, **more)).cells for more in ({}, {"seeds": 1}, {"seeds": 3}))
    assert plain == one
    assert several[::3] == plain
    written = load(write(grids=[grids[0] | {"distill.seed": [42, 43, 44]}])).cells
    assert several == written


def test_sets_that_no_seed_changes_are_made_once(write: Write) -> None:
    drawn = {"distill.method": [{"name": "herding", "candidates": 50}], "evaluate.protocol": [{"name": "finetune"}]}
    found = drawn | {"distill.method": [{"name": "herding"}]}
    path = write(seeds=3, grids=[MAJORITY, FULL, found, drawn, RANDOM])
    numbers: dict[str, int] = {}
    for cell in load(path).cells:
        name = f"{cell.source.method.name} {getattr(cell.source.method, 'candidates', '')}"
        numbers[name] = numbers.get(name, 0) + 1
    assert numbers == {"majority ": 1, "full ": 1, "herding None": 1, "herding 50": 3, "random ": 3}


def test_seeds_can_be_set(write: Write) -> None:
    path = write(seeds=2, grids=[{}, {"seeds": [5], "distill.method.steps": [2]}, {"distill.seed": [8], **RANDOM}])
    assert seeds(path) == [42, 43, 5, 8]
    assert seeds(path, "seeds=3") == [42, 43, 44] * 3
    assert seeds(path, "seeds=4,6") == [4, 6] * 3
    assert seeds(path, "seeds=[4]") == [4] * 3
    assert seeds(path, "distill.seed=1") == [1, 1, 1]
    assert seeds(path, "distill.seed=1,2") == [1, 2, 1, 2, 1, 2]
    assert load(path, ["seeds=3"]).name != load(path, ["seeds=4"]).name != load(path).name


def test_an_index_is_a_position_among_all_seeds(write: Write) -> None:
    path = write(seeds=2, grids=[{"distill.method.steps": [1, 2]}])
    cell = load(path).cells[3]
    assert (cell.source.method.steps, cell.source.seed) == (2, 43)  # type: ignore[union-attr]


@pytest.mark.parametrize("wrong", [0, -1, "three", 1.5, True, [], [1, 1], [1, "x"], None, {"a": 1}])
@pytest.mark.parametrize("where", ["seeds", "grids: seeds"])
def test_wrong_seeds(write: Write, wrong: Any, where: str) -> None:
    path = write(seeds=wrong) if where == "seeds" else write(grids=[{"seeds": wrong}])
    said = refusal(path)
    assert f"{where}: a number of distillation seeds is needed, such as 5, or a list of different ones, not " in said
    assert "\n" not in said


def test_seeds_given_twice(write: Write) -> None:
    assert "seeds and distill.seed in one block" in refusal(write(grids=[{"seeds": 2, "distill.seed": [1]}]))
    assert "--set seeds and --set distill.seed say the same" in refusal(write(), "seeds=2", "distill.seed=1")
    assert "--set seeds: a number" in refusal(write(), "seeds=x")
    assert "--set seeds: no cell of this experiment has that key" in refusal(write(grids=[FULL]), "seeds=2")


# --- --set ---------------------------------------------------------------------------------------------------------


def test_set_replaces_in_every_block_and_sweeps(write: Write) -> None:
    path = write(grids=[{"distill.method.outer.lr": [1, 2]}, {"distill.seed": [3]}])
    assert [method.outer.lr for method in methods(path, "distill.method.outer.lr=1e-2,3")] == [0.01, 3.0, 0.01, 3.0]
    assert len(methods(path, "distill.method.outer.lr=5")) == 2
    assert {method.labels for method in methods(path, "distill.method.labels=soft")} == {"soft"}


def test_set_takes_lists_mappings_and_nothing(write: Write) -> None:
    path = write()
    (cell,) = load(path, ["evaluate.splits=[test]"]).cells
    assert cell.splits == ("test",)
    assert methods(path, "distill.method.outer={lr: 0.3, epochs: 2}")[0].outer.epochs == 2
    assert methods(path, "distill.method.outer.max_grad_norm=null")[0].outer.max_grad_norm is None
    assert methods(path, "distill.method.outer.max_grad_norm=")[0].outer.max_grad_norm is None


@pytest.mark.parametrize("text", ["'Hello, world'", '"Hello, world"', " 'Hello, world' "])
def test_what_is_quoted_is_one_value(write: Write, text: str) -> None:
    (cell,) = load(write(), [f"prepare.task.label={text}"]).cells
    assert cell.prepared.task.label == "Hello, world"
    assert [cell.prepared.task.label for cell in load(write(), ["prepare.task.label=a, b"]).cells] == ["a", "b"]


def test_set_passes_by_methods_that_do_not_have_the_key(write: Write) -> None:
    path = write(grids=[{}, {"distill.method": [{"name": "random"}], "evaluate.protocol": [{"name": "finetune"}]}])
    ddal, random = load(path, ["distill.method.sequence_length=7"]).cells
    assert ddal.source.method.sequence_length == 7
    assert random.source.method.name == "random"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("distill.method.shotss=2", ["distill.method.shotss: unknown key", "did you mean 'shots'"]),
        ("distil.seed=2", ["--set distil.seed=2", "did you mean 'distill'", "prepare.…, distill.…, evaluate.…"]),
        ("distill.seed", ["--set distill.seed", "dotted.key=value is needed"]),
        ("seed=3", ["--set seed=3", "allowed: prepare.…, distill.…, evaluate.…"]),
        ("evaluate.protocol.lr=3", ["--set evaluate.protocol.lr", "no cell of this experiment has that key"]),
        ("distill.seed=x", ["distill.seed", "integer", "'x'"]),
        ("distill.seed=[1", ["--set distill.seed=[1", "not YAML"]),
        ("prepare.model.revision=abc", ["prepare.model.revision", "model is given as 'bert-base-uncased'", "mapping"]),
    ],
)
def test_wrong_settings(write: Write, setting: str, words: list[str]) -> None:
    said = refusal(write(), setting)
    for word in words:
        assert word in said
    assert "\n" not in said


# --- YAML ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-2", 0.01), ("1E3", 1000.0), ("1.5e+1", 15.0), (".5e1", 5.0), ("0.25", 0.25), ("3", 3.0), ("+2e0", 2.0)],
)
def test_yaml_numbers(write: Write, text: str, number: float) -> None:
    value = yaml.load(text, Loader)
    assert isinstance(value, int | float), "a number before any typed field is asked"
    path = write(text=yaml.safe_dump({"base": BASE}) + f"grids:\n- distill.method.learning_rate: [{text}]\n")
    assert math.isclose(methods(path)[0].learning_rate, number)
    assert math.isclose(methods(write(), f"distill.method.learning_rate={text}")[0].learning_rate, number)


@pytest.mark.parametrize("text", ["e5", "1e", "v1e5", "1e-2x"])
def test_yaml_words_that_look_like_numbers(write: Write, text: str) -> None:
    base = changed("prepare", model=text)
    (cell,) = load(write(base)).cells
    assert cell.source.source.model.name == text


def test_anchors_and_merge_keys_work(write: Write) -> None:
    text = f"""
base:
  prepare: {{task: {TASK}, model: m}}
  distill: {{method: &m {{name: ddal, shots: 2, steps: 2}}}}
  evaluate: {{protocol: {{name: ddal}}}}
grids:
- distill.method: [{{<<: *m, steps: 4}}]
"""
    assert (methods(write(text=text))[0].shots, methods(write(text=text))[0].steps) == (2, 4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base: {a: 1\n", ["not YAML at line 2, column 1: expected ',' or '}'", "look at indentation and quotes"]),
        ("base:\n  prepare: {}\n distill: {}\n", ["not YAML at line 3, column 2: expected <block end>"]),
        ("- 1\n- 2\n", ["an experiment is a mapping with the keys base, grids, seeds, report"]),
        ("", ["an experiment is a mapping with the keys base, grids, seeds, report"]),
        ("base:\n  distill:\n    seed: 1\n    seed: 2\n", ["line 3", "key given twice: seed", "keep one"]),
        ("bases: {}\nbase: {}\n", ["bases: unknown key", "did you mean 'base'"]),
        ("base: {distil: {}}\n", ["base.distil: unknown key", "did you mean 'distill'"]),
        ("base: [1]\n", ["base: a mapping with the keys prepare, distill, evaluate is needed"]),
        ("base: {distill: 3}\n", ["base.distill: a mapping is needed"]),
        ("base: {}\ngrids: {a: 1}\n", ["grids: a list of blocks is needed"]),
        ("base: {}\ngrids: [{distill.seed: 3}]\n", ["grids: distill.seed: a list of values is needed, not 3"]),
        ("base: {}\ngrids: [{seed: [3]}]\n", ["seed: not a dotted key"]),
        ("base: {}\ngrids: [{distill.seed: []}]\n", ["grids: distill.seed: at least one value is needed"]),
    ],
)
def test_not_an_experiment(write: Write, text: str, words: list[str]) -> None:
    path = write(text=text)
    said = refusal(path)
    for word in [str(path), *words]:
        assert word in said


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00base")
    assert f"{path}: not YAML" in refusal(path)


def test_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "table2.yaml").write_text("")
    said = refusal(tmp_path / "tabel2.yaml")
    assert "tabel2.yaml: no such file (did you mean 'table2.yaml'?)" in said
    assert "configs/quickstart.yaml" in said
    assert "no such file" in refusal(tmp_path)


# --- mistakes in the sections --------------------------------------------------------------------------------------


def test_all_mistakes_at_once_with_the_nearest_name(write: Write) -> None:
    base = {
        "prepare": {"task": TASK | {"metrik": "f1"}, "model": "m", "max_lenght": 9},
        "distill": {"method": {"name": "ddal", "shot": 2, "outer": {"learning_rate": 1, "epoch": 3}}, "sed": 1},
        "evaluate": {"protocol": {"name": "finetun"}, "initialisation": 3},
    }
    said = refusal(write(base, report={"tabel": "table2"})).splitlines()
    for wanted in (
        "prepare.task.metrik: unknown key (did you mean 'metric'?)",
        "prepare.max_lenght: unknown key (did you mean 'max_length'?)",
        "distill.method.shot: unknown key (did you mean 'shots'?)",
        "distill.method.outer.learning_rate: unknown key",
        "distill.method.outer.epoch: unknown key (did you mean 'epochs'?)",
        "distill.sed: unknown key (did you mean 'seed'?)",
        "evaluate.protocol.name: 'finetun' is not allowed (did you mean 'finetune'?); allowed: ddal, finetune,",
        "evaluate.initialisation: unknown key (did you mean 'initialisations'?)",
        "report.tabel: unknown key (did you mean 'table'?)",
    ):
        assert sum(wanted in line for line in said) == 1, (wanted, said)
    assert len(said) == 9


def test_mistakes_of_several_cells_are_told_once(write: Write) -> None:
    path = write(changed("distill", sed=1), grids=[{"distill.seed": [1, 2, 3]}])
    assert refusal(path).count("distill.sed") == 1


@pytest.mark.parametrize(
    ("base", "words"),
    [
        (
            changed("distill", method={"name": "ddal", "labels": "softt"}),
            [
                "distill.method.labels: 'softt' is not allowed",
                "did you mean 'soft'",
                "allowed: hard, soft, unrestricted",
            ],
        ),
        (
            changed("distill", method={"name": "dal"}),
            [
                "distill.method.name: 'dal' is not allowed",
                "did you mean 'ddal'",
                "allowed: ddal, random, herding",
            ],
        ),
        (changed("distill", method={"shots": 1}), ["distill.method.name: required, but not given"]),
        (
            changed("distill", method={"name": "ddal", "shots": 6, "batch_shots": 4, "steps": 9}),
            ["batch_shots: 4 does not divide shots: 6", "allowed: 1, 2, 3, 6"],
        ),
        (
            changed("distill", method={"name": "ddal", "shots": 6, "batch_shots": 2, "steps": 2}),
            ["never reach all of shots: 6", "batch_shots to at least 3", "steps to at least 3"],
        ),
        (
            changed("distill", method={"name": "ddal", "steps": 3, "window": 50}),
            ["window: 50 is longer than steps: 3; give at most 3"],
        ),
        (
            changed("distill", method={"name": "ddal", "learning_rate_decay": True}),
            ["learning_rate_decay needs learning_rate_per_step: false"],
        ),
        (
            changed("distill", method={"name": "ddal", "shots": 0}),
            ["distill.method.shots", "greater than or equal to 1", "not 0"],
        ),
        (changed("distill", method={"name": "ddal", "shots": 1.5}), ["distill.method.shots", "integer", "not 1.5"]),
        (
            changed("distill", method={"name": "ddal", "learning_rate": -1}),
            ["distill.method.learning_rate", "greater than 0", "not -1"],
        ),
        (
            changed("prepare", task="sst3"),
            ["prepare.task", "no task is called 'sst3'", "did you mean 'sst2'", "ag_news"],
        ),
        (changed("prepare", task=TASK | {"text": []}), ["prepare.task.text", "at least 1 item"]),
        (
            changed("prepare", task=TASK | {"text": ["a", "b", "c"]}),
            ["prepare.task.text: at most 2 items, not 3: ['a'"],
        ),
        (changed("prepare", model=None), ["prepare.model: nothing is written behind it; write a value"]),
        (
            changed("prepare", task=TASK | {"sourc": {"kind": "files", "train": "x"}}),
            ["prepare.task.sourc: unknown key (did you mean 'source'?)", "allowed: name, source, text"],
        ),
        (changed("distill", sourc=3), ["distill.sourc: unknown key; allowed: revision, method"]),
        (changed("prepare", task=TASK | {"labels": [0]}), ["prepare.task.labels", "at least 2 items"]),
        (changed("prepare", task=TASK | {"labels": ["a", "b", "a"]}), ["prepare.task", "labels: 'a' is given twice"]),
        (changed("prepare", task=TASK | {"name": "a b"}), ["prepare.task.name", "pattern"]),
        (
            changed("prepare", task=TASK | {"source": {"kind": "file", "train": "x"}}),
            ["prepare.task.source.kind: 'file' is not allowed", "did you mean 'files'", "allowed: hub, files, saved"],
        ),
        (
            changed("prepare", task=TASK | {"source": {"kind": "files", "trian": "x"}}),
            ["prepare.task.source.train: required", "prepare.task.source.trian: unknown key", "did you mean 'train'"],
        ),
        (changed("prepare", dev=10.5), ["prepare: dev: 10.5 is neither a share (below 1) nor a whole number of rows"]),
        (changed("prepare", max_length=2), ["prepare.max_length", "greater than or equal to 3"]),
        (BASE | {"prepare": {"model": "m"}}, ["prepare.task: required, but not given"]),
        (BASE | {"prepare": {}}, ["prepare.task: required", "prepare.model: required"]),
        (changed("evaluate", splits=["train"]), ["evaluate.splits", "'train' is not allowed", "allowed: dev, test"]),
        (changed("evaluate", splits=[]), ["evaluate.splits", "at least 1 item"]),
        (changed("evaluate", protocol={"name": "majority"}), ["protocol 'majority' cannot evaluate method 'ddal'"]),
        (
            changed("distill", method={"name": "random"}),
            ["method 'random' has no step sizes for protocol 'ddal'", "{name: finetune}"],
        ),
    ],
)
def test_wrong_values(write: Write, base: dict[str, Any], words: list[str]) -> None:
    path = write(base)
    said = refusal(path)
    for word in words:
        assert word in said
    assert all(line.startswith(f"{path}: ") for line in said.splitlines())
    assert "Value error" not in said
    assert "pydantic" not in said


def test_finetune_needs_no_step_sizes(write: Write) -> None:
    path = write(changed("evaluate", protocol={"name": "finetune"}))
    assert isinstance(load(path).cells[0].protocol, FineTune)
