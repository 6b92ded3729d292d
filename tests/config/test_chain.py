"""Configs inside configs: a parent of stage 2, and other data to evaluate on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import Distill, Evaluate, inputs, load, upstream
from pipeline.config.schema import canonical
from pipeline.config.where import restricted
from pipeline.errors import InputError
from tests.config.conftest import refusal

TASK = {"name": "mine", "source": {"kind": "files", "train": "x.csv"}, "text": ["text"]}
PREPARE: dict[str, Any] = {"task": TASK, "model": "one/bert", "max_length": 9, "seed": 3}
DDAL: dict[str, Any] = {"name": "ddal", "sequence_length": 8}
RANDOM: dict[str, Any] = {"name": "random"}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """An experiment whose distill and evaluate sections are given; what else is given is at the top."""

    def write(distill: Any = None, evaluate: Any = None, prepare: Any = PREPARE, **top: Any) -> Path:
        base = {
            "prepare": prepare,
            "distill": {"method": DDAL} | (distill or {}),
            "evaluate": {"protocol": {"name": "ddal"}} | (evaluate or {}),
        }
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"base": base, **top}, sort_keys=False))
        return path

    return write


def sets(path: Path, *settings: str) -> list[Distill]:
    return [cell.source for cell in load(path, settings).cells]


def parent_of(config: Distill) -> Distill:
    assert config.parent is not None
    return config.parent


# --- what is left out is completed ---------------------------------------------------------------------------------


def test_a_parent_takes_what_it_leaves_out_from_prepare_and_from_its_child(write: Write) -> None:
    runtime = {"threads": 1, "device": "cpu"}
    chain = {"method": DDAL, "parent": {"method": DDAL, "source": {"max_length": 7}, "runtime": {"threads": 2}}}
    (found,) = sets(write({"parent": chain, "seed": 5, "runtime": runtime}))
    first, second = found.parent, parent_of(found).parent
    assert first is not None
    assert second is not None
    assert first.source == found.source
    assert (first.seed, first.runtime) == (5, found.runtime)
    assert second.source.model_dump() == found.source.model_dump() | {"max_length": 7}
    assert (second.seed, second.runtime.threads, second.runtime.device, second.parent) == (5, 2, "cpu", None)


def test_other_data_takes_what_it_leaves_out_from_prepare(write: Write) -> None:
    finetune = {"protocol": {"name": "finetune"}, "data": {"model": {"name": "other/roberta", "pretrained": False}}}
    (cell,) = load(write({"method": RANDOM}, finetune)).cells
    assert cell.data is not None
    assert (cell.data.model.name, cell.data.model.pretrained) == ("other/roberta", False)
    assert cell.data.model_copy(update={"model": cell.source.source.model}) == cell.source.source
    assert cell.prepared == cell.data
    assert cell.slug == "mine.bert.random.1shot.seed42.finetune.on-roberta"


def test_the_sets_own_data_is_no_other(write: Write) -> None:
    finetune = {"protocol": {"name": "finetune"}}
    grids = [{"evaluate.data.model": ["one/bert", "other/bert"]}, {"evaluate.data": [None]}]
    own, other = load(write({"method": RANDOM}, finetune, grids=grids)).cells
    assert own.data is None
    assert own.prepared == own.source.source
    assert other.data is not None
    (embeddings,) = load(write(evaluate={"data": {"model": "one/bert"}})).cells
    assert embeddings.data is None


def test_without_them_nothing_of_them_is_in_an_address(write: Write) -> None:
    (cell,) = load(write()).cells
    assert "parent" not in canonical(cell)["source"]
    assert "data" not in canonical(cell)
    (child,) = sets(write({"parent": {"method": DDAL}}))
    assert canonical(child)["parent"] == canonical(cell.source)
    assert child.slug == "mine.bert.ddal-hard-none.1shot.1step.seed42.from-ddal"


# --- what a config reads -------------------------------------------------------------------------------------------


def test_inputs_are_edges_and_upstream_is_all_of_them_in_order(write: Write) -> None:
    chain = {"method": DDAL, "parent": {"method": DDAL, "seed": 1, "source": {"max_length": 7}}}
    (middle,) = sets(write({"parent": chain}))
    first = parent_of(parent_of(middle))
    cell = Evaluate.model_validate({"source": middle, "protocol": {"name": "ddal"}})
    assert inputs(cell.source.source) == ()
    assert inputs(first) == (first.source,)
    assert inputs(middle) == (middle.source, middle.parent)
    assert inputs(cell) == (middle.source, middle)
    assert upstream(cell) == (middle.source, first.source, first, parent_of(middle), middle)
    (transfer,) = load(
        write({"method": RANDOM}, {"protocol": {"name": "finetune"}, "data": {"model": "other/bert"}})
    ).cells
    assert transfer.data is not None
    assert inputs(transfer) == (transfer.source.source, transfer.data, transfer.source)
    assert upstream(transfer) == (transfer.source.source, transfer.data, transfer.source)


# --- seeds ---------------------------------------------------------------------------------------------------------


def seeds_of(configs: list[Distill]) -> list[tuple[int, int]]:
    return [(config.seed, parent_of(config).seed) for config in configs]


def test_a_parent_is_made_anew_with_its_child_unless_it_names_its_seed(write: Write) -> None:
    assert seeds_of(sets(write({"parent": {"method": DDAL}}, seeds=3))) == [(42, 42), (43, 43), (44, 44)]
    assert seeds_of(sets(write({"parent": {"method": DDAL, "seed": 1}}, seeds=[5, 6]))) == [(5, 1), (6, 1)]
    assert seeds_of(sets(write({"parent": {"method": DDAL}}), "seeds=2")) == [(42, 42), (43, 43)]
    listed = write({"parent": {"method": DDAL}}, grids=[{"distill.seed": [7, 8]}])
    assert seeds_of(sets(listed)) == [(7, 7), (8, 8)]


def test_the_parents_of_a_parent_follow_too(write: Write) -> None:
    chain = {"method": DDAL, "parent": {"method": DDAL}}
    found = sets(write({"parent": chain}, seeds=2))
    assert [parent_of(parent_of(one)).seed for one in found] == [42, 43]
    chain["seed"] = 9
    found = sets(write({"parent": chain}, seeds=2))
    assert seeds_of(found) == [(42, 9), (43, 9)]
    assert [parent_of(parent_of(one)).seed for one in found] == [9, 9], "a parent's parent has its seed"


# --- grids and --set -----------------------------------------------------------------------------------------------


def test_dotted_keys_reach_into_parents(write: Write) -> None:
    path = write({"parent": {"method": DDAL}}, grids=[{"distill.parent.method.outer.steps": [3, 4]}])
    assert [parent_of(one).method.outer.steps for one in sets(path)] == [3, 4]  # type: ignore[union-attr]
    (found,) = sets(path, "distill.parent.method.outer.steps=5")  # where the file shares one mapping by an anchor
    assert parent_of(found).method.outer.steps == 5  # type: ignore[union-attr]
    assert found.method.outer.steps is None  # type: ignore[union-attr]


def test_set_passes_by_cells_without_a_parent(write: Write) -> None:
    grids = [{"distill.parent": [None, {"method": DDAL}]}]
    without, having = sets(write(grids=grids), "distill.parent.method.outer.lr=0.5")
    assert without.parent is None
    assert parent_of(having).method.outer.lr == 0.5  # type: ignore[union-attr]
    said = refusal(write(), "distill.parent.method.outer.lr=0.5")
    assert "--set distill.parent.method.outer.lr: no cell of this experiment has that key" in said


def test_only_looks_into_parents(write: Write) -> None:
    grids = [{"distill.parent": [None, {"method": DDAL, "seed": 1}, {"method": DDAL, "seed": 2}]}]
    experiment = load(write(grids=grids))
    assert restricted(experiment, ["distill.parent.seed=2"]).only == (2,)
    assert restricted(experiment, ["distill.parent.source.model=one/bert"]).only == (1, 2)
    with pytest.raises(InputError, match=r"distill\.parent\.sed: no config has that key \(did you mean 'seed'\?\)"):
        restricted(experiment, ["distill.parent.sed=2"])


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distill", "evaluate", "said"),
    [
        ({"parent": {"method": {**DDAL, "stps": 1}}}, {}, "distill.parent.method.stps: unknown key (did you mean"),
        ({"parent": {"method": DDAL, "sourc": {}}}, {}, "distill.parent.sourc: unknown key (did you mean 'source'?)"),
        ({"parent": {"seed": 1}}, {}, "distill.parent.method: required, but not given"),
        ({"parent": 3}, {}, "distill.parent: "),
        ({"parent": {"method": DDAL, "source": {"modle": "x/y"}}}, {}, "distill.parent.source.modle: unknown key"),
        ({}, {"data": {"modle": "x/y"}}, "evaluate.data.modle: unknown key (did you mean 'model'?)"),
        ({"method": RANDOM, "parent": {"method": DDAL}}, {}, "method 'random' starts from no other cell; remove it"),
        ({"parent": {"method": RANDOM}}, {}, "method 'ddal' takes none by 'random' to start from; allowed: ddal"),
        (
            {"method": {**DDAL, "warm_start": "x.h5"}, "parent": {"method": DDAL}},
            {},
            "distill: parent and method.warm_start both say what to start from; keep one",
        ),
        (
            {"parent": {"method": DDAL, "source": {"seed": 8}}},
            {},
            "distill: parent.source.seed: not that of prepare, so that rows which one of the two learns from",
        ),
        (
            {"parent": {"method": DDAL, "source": {"model": "other/bert"}}},
            {},
            "parent.source.model: method 'ddal' takes the embeddings of its own encoder to start from, not those of",
        ),
        (
            {"parent": {"method": {**DDAL, "shots": 2, "steps": 2}}},
            {},
            "parent.method.shots: 2, and this method's",
        ),
        (
            {"parent": {"method": {**DDAL, "sequence_length": 9}}},
            {},
            "parent.method.sequence_length: 9, and this method's is 8; they have to be the same",
        ),
        ({}, {"data": {"model": "other/bert"}}, "data: method 'ddal' makes embeddings of its own encoder, which other"),
        (
            {"method": RANDOM},
            {"data": {"dev": 0.5}, "protocol": {"name": "finetune"}},
            "data.dev: not that of prepare, so that rows which one of the two learns from",
        ),
        (
            {"method": {"name": "full"}},
            {"data": {"model": "other/bert"}, "protocol": {"name": "finetune"}},
            "data: method 'full' has no set to transfer; give the encoder itself: prepare.model: other/bert",
        ),
    ],
)
def test_mistakes_are_told_where_they_were_typed(
    write: Write, distill: dict[str, Any], evaluate: dict[str, Any], said: str
) -> None:
    assert said in refusal(write(distill, evaluate))


def test_a_mistake_of_prepare_is_told_once(write: Write) -> None:
    chain = {"method": DDAL, "parent": {"method": DDAL, "source": {"modle": 1}}}
    path = write({"parent": chain}, {"data": {"dve": 1}}, prepare=PREPARE | {"tset": 0.1, "dev": "x"})
    keys = sorted(line.split(": ")[1] for line in refusal(path).splitlines())
    assert keys == ["distill.parent.parent.source.modle", "evaluate.data.dve", "prepare.dev", "prepare.tset"]
