"""Fabricated experiments: a tiny local task, a dummy model folder, results written straight into the store."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pipeline import work
from pipeline.config import Evaluate, Experiment, Prepare, Stage, load, upstream
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.results import Results
from pipeline.report.statistics.differences import Classes, metric
from pipeline.store import Store
from pipeline.work import cells

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "f1", "mcc", "accuracy_f1")

Scores = Mapping[str, Sequence[float]]
MAJORITY = {"distill.method": [{"name": "majority"}], "evaluate.protocol": [{"name": "majority"}]}
RANDOM = {"distill.method": [{"name": "random"}], "evaluate.protocol": [{"name": "finetune"}]}
FULL = {"distill.method": [{"name": "full"}], "evaluate.protocol": [{"name": "finetune"}]}
SIZES = {"train": 90, "dev": 10, "test": 1234}


class Fabric:
    """A store in a temporary folder and the experiments that fill it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "checkpoints")
        self.data = folder / "data.csv"
        self.data.write_text("text,label\ngood,1\nbad,0\n")
        self.model = folder / "bert-tiny"
        self.model.mkdir(exist_ok=True)
        (self.model / "config.json").write_text("{}")

    def task(self, name: str = "sst2", **more: Any) -> dict[str, Any]:
        return {"name": name, "source": {"kind": "files", "train": str(self.data)}, "text": ["text"], **more}

    def experiment(
        self, *grids: Any, name: str = "demo", report: Any = None, tasks: Any = None, **evaluate: Any
    ) -> Experiment:
        """An experiment whose base is DDAL with one step, one shot and 3 initialisations; ``evaluate`` adds to it."""
        base = {
            "prepare": {"task": self.task(), "model": str(self.model), "test": 0.1},
            "distill": {"method": {"name": "ddal"}},
            "evaluate": {"protocol": {"name": "ddal"}, "initialisations": 3} | evaluate,
        }
        blocks = []
        for grid in grids or ({},):
            single = any(each.get("name") == "majority" for each in grid.get("distill.method", []))
            blocks.append(({"evaluate.initialisations": [1]} if single else {}) | grid)
            blocks[-1] |= {"prepare.task": tasks} if tasks else {}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"base": base, "grids": blocks, "report": {"paper": False} | (report or {})}))
        return load(path)

    def fill(self, experiment: Experiment, scores: Callable[[Evaluate], Scores | None], **facts: Any) -> None:
        """Finishes every cell for which ``scores`` gives the values of each split (None: leaves it missing)."""
        for cell in experiment.cells:
            found = scores(cell)
            if found is not None:
                self.finish(cell, found, **facts)

    def finish(self, cell: Evaluate, scores: Scores, metric: str | None = None, distill_seconds: float = 12.0) -> None:
        """Writes manifest, done marks and ``results.csv`` of one cell; run k trained for k + 1 seconds."""
        manifest = {"task": "t", "classes": ["a", "b"], "sizes": SIZES, "class_counts": {"test": [1000, 234]}}
        for one in upstream(cell):
            done = self._done(one, 1.0 if isinstance(one, Prepare) else distill_seconds)
            if isinstance(one, Prepare):
                (done / "manifest.json").write_text(json.dumps(manifest))
        folder = self._done(cell, 3.0)
        metric = metric or cell.source.source.task.metric
        with open(folder / "results.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["initialisation", "split", "metric", "value", "seconds"])
            for split, values in scores.items():
                for at, value in enumerate(values):
                    writer.writerow([at, split, metric, value, at + 1.0])
                    writer.writerow([at, split, "loss", 1 - value, at + 1.0])

    def answer(self, cell: Evaluate, shares: Sequence[float]) -> None:
        """Finishes a cell whose initialisations really answer the rows, each right on about its share of them.

        Rows differ in difficulty, the same for all cells.
        """
        labels = {name: np.arange(SIZES[name]) * 7 % SIZES[name] < SIZES[name] / 5 for name in cell.splits}
        random = np.random.default_rng([cell.source.seed, *cell.slug.encode()])
        self.finish(cell, {})
        folder = self._folder(cell)
        (folder / "results.csv").unlink()
        results = Results(folder / "results.csv", cell.splits)
        predictions = Predictions(folder / "predictions.h5", labels, 2)
        for number, share in enumerate(shares):
            scores, answers = {}, {}
            for name, true in labels.items():
                right = random.random(len(true)) < share + np.linspace(-0.2, 0.2, len(true))
                answers[name] = torch.tensor(np.where(right, true, ~true)).long()
                scores[name] = _scores(answers[name].numpy(), true)
            predictions.add(number, answers)
            results.add(number, scores, number + 1.0)

    def fail(self, config: Stage, reason: str) -> None:
        folder = self._folder(config)
        (folder / "attempts").mkdir(exist_ok=True)
        record = {"number": 1, "host": "n1", "pid": 1, "began": "2026-01-01T00:00:00+00:00", "outcome": "failed"}
        (folder / "attempts" / "001.json").write_text(json.dumps(record | {"reason": reason}))

    def _done(self, config: Stage, seconds: float) -> Path:
        folder = self._folder(config)
        (folder / "done.json").write_text(json.dumps({"seconds": seconds}))
        return folder

    def _folder(self, config: Stage) -> Path:
        folder = self.store.cell(config).folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config.model_dump(mode="json")))
        return folder


def _scores(answers: Classes, true: Classes) -> dict[str, float]:
    """All metrics of answers of two classes, by the counts that they are made of."""
    given, wanted = (np.stack([of == 0, of == 1]).astype(float) for of in (answers, true))
    of_counts = (given * wanted).sum(-1), given.sum(-1), wanted.sum(-1)
    return {name: float(metric(name, *of_counts)) for name in METRICS}


def counts(monkeypatch: pytest.MonkeyPatch, **functions: Callable[..., work.Work]) -> None:
    """Puts functions in place of those that count computing, for the room's face and for what is inside."""
    for name, function in functions.items():
        monkeypatch.setattr(work, name, function, raising=False)
        monkeypatch.setattr(cells, name, function)
