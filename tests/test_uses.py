"""Sets merged, replayed and replaced in part, end to end on two small tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from pipeline.config import Evaluate, Experiment
from pipeline.config import load as load_experiment
from pipeline.data.prepared import Prepared
from pipeline.distilled import load
from pipeline.evaluation.predictions import read
from pipeline.launch.estimate import class_of
from pipeline.probe import probe_distill, probe_evaluate
from pipeline.report.card.gather import gather
from pipeline.report.card.text import card_text
from pipeline.store import Store
from pipeline.work import of_evaluate
from tests.conftest import FILLERS, carried_out, corpus, typed

Folder = Callable[..., Path]


def shapes(rows: int, seed: int) -> list[dict[str, Any]]:
    """Another task: three classes by the word that comes twice."""
    random = np.random.default_rng(seed)
    made = []
    for row in range(rows):
        words = [*random.choice(FILLERS[3:], 4), *[FILLERS[row % 3]] * 2]
        made.append({"body": " ".join(map(str, random.permutation(words))), "label": row % 3})
    return made


@pytest.fixture
def tasks(tmp_path: Path) -> dict[str, Any]:
    """Two tasks and both as one."""
    for name, rows in (("keywords", corpus(200, seed=3)), ("shapes", shapes(150, seed=4))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = {"name": "keywords", "source": {"kind": "files", "train": str(tmp_path / "keywords.jsonl")}, "text": "text"}
    second = {"name": "shapes", "source": {"kind": "files", "train": str(tmp_path / "shapes.jsonl")}, "text": "body"}
    both = {"name": "both", "source": {"kind": "joined", "tasks": [first, second]}, "text": "text"}
    return {"first": first, "second": second, "both": both}


SMALL = {
    "name": "ddal",
    "sequence_length": 8,
    "learning_rate": 0.1,
    "outer": {"steps": 2, "batch_size": 8},
    "validation": {"every": 2, "initialisations": 1},
}


@pytest.fixture
def experiment(tmp_path: Path, encoder_folder: Folder, tasks: dict[str, Any]) -> Path:
    """The table of a merge by steps, and of replay by fine-tuning."""

    def part(task: str, method: dict[str, Any], **rule: Any) -> dict[str, Any]:
        return {"of": {"source": {"task": tasks[task]}, "method": method}, **rule}

    real, full = {"name": "random", "shots": 2}, {"name": "full"}
    asked = [None, {"task": tasks["first"]}, {"task": tasks["second"]}]
    merged = {"name": "composed", "parts": [part("first", SMALL), part("second", SMALL)]}
    alone = [part("first", full), part("second", real, phase=2)]
    replayed = {"name": "composed", "parts": [*alone, part("first", real, repeat=3, phase=2)]}
    grids = [
        {"prepare.task": [tasks["first"], tasks["second"]]},
        {"distill.method": [merged], "evaluate.data": asked},
        {
            "distill.method": [{"name": "composed", "parts": alone}, replayed],
            "evaluate.protocol": [{"name": "finetune", "steps": 4, "batch_size": 16}],
            "evaluate.data": asked,
            "seeds": [2],
        },
    ]
    prepare = {"task": tasks["both"], "model": str(encoder_folder("bert")), "dev": 30, "test": 30}
    base = {
        "prepare": prepare,
        "distill": {"method": SMALL, "runtime": {"threads": 1}},
        "evaluate": {"protocol": {"name": "ddal"}, "initialisations": 2, "runtime": {"threads": 1}},
    }
    path = tmp_path / "uses.yaml"
    path.write_text(yaml.safe_dump({"base": base, "grids": grids, "report": {"paper": False}}, sort_keys=False))
    return path


def finished(path: Path, root: Path, out: Path) -> tuple[Experiment, Store, str]:
    said = typed("run", path, "--root", root, "--out", out, "--no-check")
    return load_experiment(path), Store(root), said


def test_merged_and_replayed(experiment: Path, tmp_path: Path) -> None:
    plan, store, said = finished(experiment, tmp_path / "ck", tmp_path / "out")
    assert "prepare: 3 done now" in said
    assert "distill: 8 done now" in said  # two alone, merged; full, random of both tasks, and two composed of them
    assert "evaluate: 11 done now" in said

    # a table has a column per task, and one student's answers stand in all of them
    long = pd.read_csv(tmp_path / "out" / "uses.csv")
    found = long[(long["metric"] == "accuracy") & (long["split"] == "test")]
    merged = "keywords HL, 1 shot + shapes HL, 1 shot"
    alone = "keywords full data, then shapes random real, 2 shots"
    replayed = "keywords full data, then shapes random real, 2 shots + 3 × (keywords random real, 2 shots)"
    for row in (merged, alone, replayed):
        assert set(found[found["row"] == row]["task"]) == {"both", "keywords", "shapes"}
    assert set(found[found["row"].str.startswith("HL")]["task"]) == {"keywords", "shapes"}

    # the students that are asked for one task are those that are asked for both: where these give an answer of the
    # task, it is the same
    cells = [cell for cell in plan.cells if cell.source.method.name == "composed"]
    told = cells[0]
    assert [cell.prepared.task.name for cell in cells] == ["both", "keywords", "shapes"] * 3
    compared = 0
    for asked in range(0, 9, 3):
        whole = read(store.cell(cells[asked]).folder / "predictions.h5", "test")
        assert whole is not None
        for cell, first, rows in ((cells[asked + 1], 0, slice(0, 30)), (cells[asked + 2], 2, slice(30, 60))):
            part = read(store.cell(cell).folder / "predictions.h5", "test")
            assert part is not None
            np.testing.assert_array_equal(part.labels.astype(int) + first, whole.labels[rows].astype(int))
            untold = whole.predicted[:, rows].astype(int) - first
            inside = (untold >= 0) & (untold < part.classes)
            np.testing.assert_array_equal(part.predicted.astype(int)[inside], untold[inside])
            compared += int(inside.sum())
    assert compared > 100

    # what was distilled alone is what was merged: nothing is computed twice
    assert {one.method.name for one in told.source.made_of} == {"ddal"}
    assert all(made in [cell.source for cell in plan.cells] for made in told.source.made_of)
    assert "evaluate: 0 done now, 11 done before" in finished(experiment, tmp_path / "ck", tmp_path / "out")[2]

    # its card and its samples name the parts
    file = store.cell(told.source).folder / "distilled.h5"
    text = card_text(load(file), gather(load(file), file, store, [], None, None))
    assert "Put together of 2 samples by `ddal` of keywords (seed 42); 3 samples by `ddal` of shapes (seed 42)" in text
    assert "keywords, ddal" in text
    assert "3 samples by ddal of shapes, seed 42" in typed("show", file)


def test_joined_splits_are_those_of_each_task(experiment: Path, tmp_path: Path) -> None:
    """No row that a part was distilled from is a dev or test row of the joined task, or the other way round."""
    plan, store = carried_out(experiment, tmp_path / "ck", "prepare")
    joined = Prepared(store.cell(plan.cells[2].source.source).folder)
    alone = [Prepared(store.cell(cell.source.source).folder) for cell in plan.cells[:2]]
    assert joined.classes == ["keywords: 0", "keywords: 1", "shapes: 0", "shapes: 1", "shapes: 2"]
    assert [joined.classes_of(name) for name in ("keywords", "shapes", "both")] == [
        slice(0, 2),
        slice(2, 5),
        slice(0, 5),
    ]
    for split in ("train", "dev", "test"):
        rows = joined.split(split).rows
        assert rows["input_ids"][:] == [ids for one in alone for ids in one.split(split).rows["input_ids"]]
        labels = [one.split(split).labels + first for one, first in zip(alone, (0, 2), strict=True)]
        assert torch.equal(joined.split(split).labels, torch.cat(labels))
        assert joined.rows_of("shapes", split) == slice(len(labels[0]), len(labels[0]) + len(labels[1]))


def test_a_slice_of_a_composed_set(tasks: dict[str, Any], encoder_folder: Folder, tmp_path: Path) -> None:
    """What ``estimate`` measures is put together of what the slices of its parts left, phases and all."""
    real, one_thread = {"name": "k_centres", "shots": 2}, {"threads": 1}
    parts = [
        {"of": {"source": {"task": tasks["first"]}, "method": real}},
        {"of": {"source": {"task": tasks["second"]}, "method": real}, "phase": 2},
    ]
    base = {
        "prepare": {"task": tasks["both"], "model": str(encoder_folder("bert")), "dev": 30, "test": 30},
        "distill": {"method": {"name": "composed", "parts": parts}, "runtime": one_thread},
        "evaluate": {"protocol": {"name": "finetune", "steps": 2}, "initialisations": 1, "runtime": one_thread},
    }
    path = tmp_path / "sliced.yaml"
    path.write_text(yaml.safe_dump({"base": base}, sort_keys=False))
    plan, store = carried_out(path, tmp_path / "ck", "prepare")
    whole = class_of(plan.cells[0])
    assert isinstance(whole, Evaluate)
    folders = []
    for number, one in enumerate(whole.source.made_of):
        assert one.method.name == "random"  # as good as any other choice of rows, to those who train on them
        folders.append(tmp_path / f"part{number}")
        folders[-1].mkdir()
        probe_distill(one, store.cell(one.source).folder, folders[-1] / "distilled.h5")
    folder, set_ = store.cell(whole.learned).folder, tmp_path / "distilled.h5"
    probe_distill(whole.source, folder, set_, folders)
    assert [size for size, _ in load(set_).turns()] == [4, 6]
    measured = probe_evaluate(whole, folder, set_, folder)
    assert set(measured.rates) == {"training", "scoring"}
    work = of_evaluate(plan.cells[0], folder)
    assert work.training > 0
    assert work.scoring > 0
