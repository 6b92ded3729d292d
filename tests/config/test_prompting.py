"""What is refused of prompts before anything is queued, and what moves no address."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import DiLMPrompting, Evaluate, Prompting, load
from pipeline.config.schema import canonical
from pipeline.errors import InputError

TASK = {"name": "mine", "source": {"kind": "files", "train": "a.csv"}, "text": ["a", "b"]}
DATA = {"task": TASK, "model": {"name": "gpt2", "head": "language"}}
Changes = dict[str, Any]


def cell(method: Changes | None = None, protocol: Changes | None = None, **changes: Any) -> Evaluate:
    source = {"source": {"task": TASK, "model": "bert"}, "method": method or {"name": "random"}}
    whole = {"source": source, "data": DATA, "protocol": {"name": "prompting"} | (protocol or {})}
    return Evaluate.model_validate(whole | changes)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: cell(data=None), "asks a causal language model; name one: evaluate.data: {model: {name: "),
        (lambda: cell(data={"task": TASK, "model": "bert-large"}), "asks a causal language model"),
        (lambda: cell({"name": "full"}), "all rows of train fit in no prompt"),
        (lambda: cell({"name": "ddal"}), "makes embeddings of its own encoder"),
        (lambda: cell({"name": "empty"}, prefix=1), "method 'empty' has no samples per class"),
        (lambda: cell({"name": "empty"}, {"name": "finetune"}), "method 'empty' has no sample for protocol 'finetune'"),
        (lambda: cell(None, {"name": "finetune"}), "trains a classifier, and gpt2 is prepared as a language model"),
        (lambda: cell(None, {"template": "{a} {b} {c} {label}"}), "template: holds {a} and {b}"),
        (lambda: cell(None, {"template": "{a} {label}"}), "template: holds {a} and {b}"),
        (lambda: cell(None, {"template": "{a} {b} {label}."}), "template: ends with {label}"),
        (lambda: cell(None, {"template": "{a} {b!r} {label}"}), "braces hold the name of a text column"),
        (lambda: cell(None, {"labels": ["x", "x"]}), "two classes have the same name"),
        (lambda: cell(None, {"name": "dilm_prompting", "keys": ["x"]}), "keys: 1 for the text columns a, b"),
        (lambda: cell(data={**DATA, "seed": 1}), "data.seed: not that of prepare"),
    ],
)
def test_what_cannot_be_prompted_is_refused(make: Callable[[], Evaluate], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        make()


@pytest.mark.parametrize(
    ("protocol", "says"),
    [
        ({}, "classes are called 0, 1, which no language model can guess"),
        ({"labels": ["a", "b", "c"]}, "3 names for the 2 classes 0, 1"),
    ],
)
def test_names_have_to_fit_classes_that_are_known(protocol: Changes, says: str) -> None:
    task = TASK | {"labels": [0, 1]}
    source = {"source": {"task": task, "model": "bert"}, "method": {"name": "random"}}
    whole = {"source": source, "data": DATA | {"task": task}, "protocol": {"name": "prompting"} | protocol}
    with pytest.raises(ValueError, match=re.escape(says)):
        Evaluate.model_validate(whole)


def test_dilms_prompt_as_a_recipe() -> None:
    found = cell(protocol={"name": "dilm_prompting", "labels": ["no", "yes"]}).recipe
    wanted = {"template": "a: {a}\nb: {b}\nlabel: {label}", "scoring": "first", "max_tokens": 1024}
    assert found == Prompting(name="prompting", labels=("no", "yes"), **wanted)


def test_batches_move_no_address_and_names_do() -> None:
    plain = canonical(Prompting(name="prompting"))
    assert plain == {"name": "prompting", "revision": 1}
    assert canonical(Prompting(name="prompting", batch_size=1)) == plain
    assert canonical(Prompting(name="prompting", labels=("a", "b"))) != plain
    assert canonical(DiLMPrompting(name="dilm_prompting")) == {"name": "dilm_prompting", "revision": 1}


def test_zero_shot_is_made_and_scored_once_whatever_the_seeds(experiment: Callable[..., Path]) -> None:
    data = {"model": {"name": "gpt2", "head": "language"}}
    evaluate = {"data": data, "protocol": {"name": "prompting", "labels": ["a", "b"]}, "initialisations": 4}
    methods = [{"name": "empty"}, {"name": "random"}]
    path = experiment(evaluate=evaluate, grids=[{"distill.method": methods, "seeds": 3}])
    assert [(one.source.method.name, one.runs) for one in load(path).cells] == [("empty", 1)] + 3 * [("random", 4)]


@pytest.mark.parametrize("name", ["prompting", "prompting_smollm"])
def test_the_shipped_configs_are_whole(name: str) -> None:
    folder = Path(__file__).parents[2] / "configs"
    try:
        found = load(folder / f"{name}.yaml")
    except InputError as error:
        pytest.fail(str(error))
    assert any(one.source.method.name == "empty" for one in found.cells)
    assert all(one.prepared.model.head == "language" for one in found.cells)
