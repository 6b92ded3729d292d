"""``configs/inner_optimisers.yaml``: what it compares, on equal terms and without test rows; and a tiny run of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pipeline.config import DDAL, load
from pipeline.distilled import load as load_set
from pipeline.launch import run_stage, stage_cells
from pipeline.report.layout import layout
from pipeline.store import Store

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "inner_optimisers.yaml"


def test_every_optimiser_has_as_many_settings_and_no_test_row_is_read() -> None:
    experiment = load(CONFIG)
    counts = Counter[tuple[int, str]]()
    for cell in experiment.cells:
        method = cell.source.method
        assert isinstance(method, DDAL)
        assert (method.labels, method.attention_labels, method.shots) == ("unrestricted", "cls", 1)
        counts[method.steps, method.inner_optimizer.name] += 1
        assert cell.splits == ("dev",)
    assert counts == {(1, "gd"): 6, (1, "adam"): 6, (3, "gd"): 6, (3, "momentum"): 6, (3, "adam"): 6}


def test_each_is_a_row_of_its_own() -> None:
    one, three = ["SL + AL", "SL + AL (Adam)"], ["SL + AL", "SL + AL (Adam)", "SL + AL (SGD with momentum)"]
    assert [row.method for row in layout(load(CONFIG).cells, "table3").rows] == one + three


def test_a_tiny_run_of_it(encoder_folder: Callable[..., Path], corpus_file: Path, tmp_path: Path) -> None:
    """With a tiny encoder, a few steps and the largest η of each optimiser: the sets differ, and remember theirs."""
    given: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    task = {"name": "keywords", "source": {"kind": "files", "train": str(corpus_file)}, "text": ["text"]}
    given["base"]["prepare"] = {"task": task, "model": str(encoder_folder("bert")), "dev": 40, "test": 40}
    method = given["base"]["distill"]["method"]
    method |= {"sequence_length": 8, "outer": method["outer"] | {"steps": 2, "precision": "fp32"}}
    method["validation"] |= {"every": 2, "initialisations": 1, "examples": 20}
    given["base"]["evaluate"]["initialisations"] = 1
    given["seeds"] = 1
    for block in given["grids"]:
        block["distill.method.learning_rate"] = block["distill.method.learning_rate"][-1:]
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(given))
    plan, store = load(path), Store(tmp_path / "ck")
    for stage in ("prepare", "distill", "evaluate"):
        outcome = run_stage(stage_cells(plan, store, stage), stage, store)
        assert not outcome.failed, outcome.failed
    assert len(plan.cells) == 5
    embeddings = []
    for cell in plan.cells:
        made = load_set(store.cell(cell.source).folder / "distilled.h5")
        ours = cell.source.method
        assert isinstance(ours, DDAL)
        assert made.recipe.inner_optimizer == ours.inner_optimizer
        assert made.inputs_embeds is not None
        embeddings.append(made.inputs_embeds)
        assert set(pd.read_csv(store.cell(cell).folder / "results.csv")["split"]) == {"dev"}
    assert not any(one.equal(other) for at, one in enumerate(embeddings) for other in embeddings[:at])
