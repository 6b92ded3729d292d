"""Prompting as a recipe of stage 3: scores worked out by hand, orders, zero-shot, calibration, pairs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.config import Evaluate
from pipeline.config import load as load_experiment
from pipeline.data.prepared import Prepared
from pipeline.distilled import load
from pipeline.evaluation.metrics import calibration_error
from pipeline.evaluation.predictions import read
from pipeline.evaluation.prompting import calibrated, order_of
from pipeline.launch import run_stage, stage_cells
from pipeline.randomness import derive
from pipeline.store import Store
from tests.conftest import carried_out, corpus
from tests.evaluation.test_protocols import rows, values
from tests.language_stand_in import byte_folder

Write = Callable[..., Path]
PROMPT = {"name": "prompting", "template": "Text: {text}\nIt is {label}", "labels": ["bad", "good"]}
SOME = {"splits": ["test"], "runtime": {"threads": 1}}


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_folder(tmp_path_factory.mktemp("byte model") / "model", positions=600)


@pytest.fixture
def prompting(experiment: Write, language_model: Path) -> Write:
    """An experiment with one set of real rows that a language model is shown."""

    def write(method: dict[str, Any] | None = None, protocol: dict[str, Any] | None = None, **evaluate: Any) -> Path:
        data = {"model": {"name": str(language_model), "head": "language"}}
        asked = SOME | {"data": data, "protocol": PROMPT | (protocol or {}), "initialisations": 3} | evaluate
        grids = [{"distill.method": [method or {"name": "random", "shots": 2}]}]
        return experiment(prepare={"test": 12}, evaluate=asked, grids=grids)

    return write


def evaluated(path: Path, root: Path) -> tuple[Evaluate, Path]:
    plan, store = carried_out(path, root)
    return plan.cells[0], store.cell(plan.cells[0]).folder


def log_probability(folder: Path, prompt: str, name: str) -> float:
    """Of a name after a prompt: the whole text is read, without any cache."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    before, whole = tokenizer(prompt)["input_ids"], tokenizer(prompt + name)["input_ids"]
    assert whole[: len(before)] == before
    with torch.no_grad():
        found = model(torch.tensor([whole])).logits[0].double().log_softmax(dim=-1)
    return sum(float(found[at - 1, whole[at]]) for at in range(len(before), len(whole)))


def raw(store: Store, cell: Evaluate, split: str) -> list[tuple[str, int]]:
    """Texts and labels, from the tokens of the set's own encoder: words that its tokenizer knows."""
    prepared = Prepared(store.cell(cell.source.source).folder)
    found = prepared.split(split)
    decode = prepared.tokenizer.decode
    return [
        (decode(row["input_ids"], skip_special_tokens=True), row["label"]) for row in found.rows
    ]  # fmt: skip


def by_hand(store: Store, cell: Evaluate, index: int, protocol: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Scores [rows, 2] and labels of the test split for one order."""
    assert cell.data is not None
    train, test = raw(store, cell, "train"), raw(store, cell, "test")
    chosen = load(store.cell(cell.source).folder / "distilled.h5").about.get("chosen", {"rows": []})["rows"]
    order = order_of(derive(cell.seed, "evaluation", cell.source.seed), index, len(chosen))
    shots = [train[chosen[position]] for position in order]
    head = "".join(f"Text: {text}\nIt is {PROMPT['labels'][label]}\n\n" for text, label in shots)
    folder = Path(cell.data.model.name)

    def scores(text: str) -> list[float]:
        found = [log_probability(folder, f"{head}Text: {text}\nIt is", f" {name}") for name in PROMPT["labels"]]
        if protocol.get("scoring") == "mean":  # one token for " b" or " g", one for every other letter
            found = [each / (len(name)) for each, name in zip(found, PROMPT["labels"], strict=True)]
        return found

    found = torch.tensor([scores(text) for text, _ in test])
    if "calibration" in protocol:
        free = torch.tensor([scores(text) for text in protocol["calibration"]])
        found = (found.softmax(dim=1) / free.softmax(dim=1).mean(dim=0)).log()
    return found, torch.tensor([label for _, label in test])


@pytest.mark.parametrize("protocol", [{}, {"scoring": "mean"}, {"calibration": ["nothing", ""]}])
@pytest.mark.parametrize("method", [{"name": "random", "shots": 2}, {"name": "empty"}])
def test_scores_are_those_worked_out_by_hand(
    prompting: Write, tmp_path: Path, method: dict[str, Any], protocol: dict[str, Any]
) -> None:
    cell, folder = evaluated(prompting(method, protocol), tmp_path / "ck")
    found = values(rows(folder))
    index = 1 if method["name"] == "random" else 0
    scores, labels = by_hand(Store(tmp_path / "ck"), cell, index, protocol)
    wanted = torch.nn.functional.cross_entropy(scores, labels).item()
    assert float(found[index, "test", "loss"]) == pytest.approx(wanted, abs=1e-4)
    assert float(found[index, "test", "ece"]) == pytest.approx(calibration_error(scores.softmax(1), labels), abs=1e-3)
    predicted = read(folder / "predictions.h5", "test")
    assert predicted is not None
    assert predicted.predicted[index].tolist() == scores.argmax(dim=1).tolist()
    assert float(found[index, "test", "prompt_examples"]) == (4 if index else 0)
    assert float(found[index, "test", "prompt_cut"]) == 0


def test_calibration_divides_by_what_inputs_without_content_get() -> None:
    scores = torch.tensor([[0.6, 0.2], [0.1, 0.1]]).log()
    free = torch.tensor([[0.8, 0.2], [0.6, 0.4]]).log()  # on average 0.7 and 0.3
    odds = calibrated(scores, free).softmax(dim=1)
    assert odds[0].tolist() == pytest.approx([0.6 / 0.7 / (0.6 / 0.7 + 0.2 / 0.3), 0.2 / 0.3 / (0.6 / 0.7 + 0.2 / 0.3)])
    assert odds[1].tolist() == pytest.approx([0.3, 0.7])


def test_orders_are_drawn_once_each_and_there_are_no_more_than_there_are() -> None:
    all_of_three = [tuple(order_of(5, index, 3)) for index in range(6)]
    assert len(set(all_of_three)) == 6
    assert all(sorted(order) == [0, 1, 2] for order in all_of_three)
    assert order_of(5, 2, 3) == list(all_of_three[2])
    assert [tuple(order_of(6, index, 3)) for index in range(6)] != all_of_three


def test_two_examples_have_two_orders_and_no_example_one(prompting: Write, tmp_path: Path) -> None:
    _, two = evaluated(prompting({"name": "random", "shots": 1}, initialisations=5), tmp_path / "ck")
    _, none = evaluated(prompting({"name": "empty"}, initialisations=5), tmp_path / "ck")
    _, first = evaluated(prompting({"name": "random", "shots": 4}, prefix=1, initialisations=5), tmp_path / "ck")
    assert [{key[0] for key in values(rows(folder))} for folder in (two, none, first)] == [{0, 1}, {0}, {0, 1}]
    assert "Text: " in (none / "prompt.txt").read_text()
    assert (two / "prompt.txt").read_text().count("It is") == 3


def test_queries_that_stage_1_may_have_cut_are_told(
    prompting: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = prompting(initialisations=1)
    cell, _ = evaluated(path, tmp_path / "ck")
    assert "where stage 1 cuts" not in capsys.readouterr().err
    assert cell.data is not None
    lengths = Prepared(Store(tmp_path / "ck").cell(cell.data).folder).split("test").lengths
    limit = int(sorted(lengths)[len(lengths) // 2])
    data = {"model": cell.data.model.model_dump(), "max_length": limit}
    evaluated(prompting(initialisations=1, data=data), tmp_path / "ck")
    full = int((lengths >= limit).sum())
    said = f"note: test: {full} of 12 queries have {limit} tokens, where stage 1 cuts; for whole ones"
    assert said in capsys.readouterr().err


def test_a_cell_that_was_stopped_ends_with_the_same_rows(prompting: Write, tmp_path: Path) -> None:
    few, folder = evaluated(prompting(initialisations=1), tmp_path / "a")
    cell, whole = evaluated(prompting(initialisations=3), tmp_path / "b")
    assert values(rows(folder)).items() <= values(rows(whole)).items()
    again = Store(tmp_path / "b").cell(cell).folder
    undisturbed = values(rows(again))
    kept = "".join(line for line in (again / "results.csv").read_text().splitlines(True) if not line.startswith("1,"))
    (again / "results.csv").write_text(kept)
    (again / "done.json").unlink()
    evaluated(prompting(initialisations=3), tmp_path / "b")
    assert values(rows(again)) == undisturbed
    assert few.runs == 1


def test_rows_that_are_asked_are_drawn_once_for_all_sets(prompting: Write, tmp_path: Path) -> None:
    ask = {"protocol": {"examples": 6}}
    _, one = evaluated(prompting({"name": "random", "shots": 2}, **ask), tmp_path / "ck")
    cell, other = evaluated(prompting({"name": "empty"}, **ask), tmp_path / "ck")
    answers = [read(folder / "predictions.h5", "test") for folder in (one, other)]
    assert [answer.labels.tolist() for answer in answers if answer is not None] == [[*answers[0].labels.tolist()]] * 2
    assert sorted(answers[0].labels.tolist()) == [0, 0, 0, 1, 1, 1]
    assert cell.examples == 6


def test_too_long_a_prompt_is_reported(prompting: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell, folder = evaluated(prompting({"name": "random", "shots": 3}, {"max_tokens": 150}), tmp_path / "ck")
    found = values(rows(folder))
    held, dropped = (float(found[0, "test", f"prompt_{name}"]) for name in ("examples", "dropped"))
    assert 0 < held < 6
    assert held + dropped == 6
    assert "12 of 12 prompts hold fewer than all 6 examples, 0 queries were cut" in capsys.readouterr().err
    _, folder = evaluated(prompting({"name": "empty"}, {"max_tokens": 60}), tmp_path / "ck")
    assert 0 < float(values(rows(folder))[0, "test", "prompt_cut"]) <= 1
    assert cell.runs == 3


def test_pairs_and_texts_that_were_never_rows(
    experiment: Write, tmp_path: Path, language_model: Path, corpus_file: Path
) -> None:
    """Of a pair both texts stand in the prompt, in their columns' order."""
    file = tmp_path / "pairs.jsonl"
    made = zip(corpus(60, 1), corpus(60, 2), strict=True)
    lines = [{"one": a["text"], "other": b["text"], "label": ["no", "yes"][a["label"]]} for a, b in made]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = {"name": "pairs", "source": {"kind": "files", "train": str(file)}, "text": ["one", "other"]}
    data = {"model": {"name": str(language_model), "head": "language"}}
    asked = SOME | {"data": data, "protocol": {"name": "prompting"}, "initialisations": 1}
    path = experiment(
        prepare={"task": task, "dev": 10, "test": 10},
        evaluate=asked,
        grids=[{"distill.method": [{"name": "random", "shots": 1}]}],
    )
    _, folder = evaluated(path, tmp_path / "ck")
    prompt = (folder / "prompt.txt").read_text()
    for shot in prompt.split("\n\n")[:2]:
        one, other, label = (line.partition(": ")[2] for line in shot.split("\n"))
        assert {"one": one, "other": other, "label": label} in lines
    assert prompt.endswith("\nlabel:")
    shutil.rmtree(folder)


def test_labels_that_are_numbers_are_refused(prompting: Write, tmp_path: Path) -> None:
    """Which the config cannot know where the file says what the classes are."""
    plan, store = load_experiment(prompting(protocol={"labels": None})), Store(tmp_path / "ck")
    for stage in ("prepare", "distill"):
        run_stage(stage_cells(plan, store, stage), stage, store)
    outcome = run_stage(stage_cells(plan, store, "evaluate"), "evaluate", store)
    (reason,) = outcome.failed.values()
    assert "classes are called 0, 1, which no language model can guess" in reason
