"""Sets of sentences: what learned text begins as, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import Distill, Text, load
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet
from pipeline.distilled import load as load_set
from pipeline.launch import run_stage, stage_cells
from pipeline.methods.text import method as text
from pipeline.store import Store
from tests.conftest import carried_out

Write = Callable[..., Path]
SAME: dict[str, Any] = {"shots": 3, "candidates": 40, "sequence_length": 6}


@pytest.fixture
def cells(experiment: Write, encoder_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """The sets of some methods by (method, seed): each cell's config, its set, and what stage 1 made."""

    def cells(
        methods: list[dict[str, Any]], seeds: tuple[int, ...] = (4, 5)
    ) -> dict[tuple[str, int], tuple[Distill, DistilledSet | None, Prepared]]:
        path = experiment(
            prepare={"model": str(encoder_folder("bert", pretrained=True))},
            evaluate={"protocol": {"name": "finetune", "steps": 2}, "initialisations": 1},
            grids=[{"distill.method": methods, "distill.seed": list(seeds)}],
        )
        plan, store = load(path), Store(tmp_path / "ck")
        run_stage(stage_cells(plan, store, "prepare"), "prepare", store)
        made = [cell for cell in stage_cells(plan, store, "distill") if "sentences" in cell.folder.name]
        assert not run_stage(made, "distill", store).failed
        found = {}
        for cell in plan.cells:
            file = store.cell(cell.source).folder / "distilled.h5"
            prepared = Prepared(store.cell(cell.source.source).folder)
            found[cell.source.method.name, cell.source.seed] = (
                cell.source,
                load_set(file) if file.exists() else None,
                prepared,
            )
        return found

    return cells


@pytest.mark.parametrize("initialise", ["real", "centres", "telling", "words"])
def test_learned_text_begins_as_the_sentences_of_its_options(cells: Callable[..., Any], initialise: str) -> None:
    """Token by token, for every seed; and another seed begins as others, but where words are counted."""
    same = {**SAME, "initialise": initialise}
    found = cells([{"name": "sentences", **same}, {"name": "text", **same}])
    for seed in (4, 5):
        config, _, prepared = found["text", seed]
        assert isinstance(config.method, Text)
        begun = text.begun(config, config.method, prepared).learned.text()
        sentences = found["sentences", seed][1]
        assert torch.equal(sentences.token_ids, begun.token_ids)
        assert torch.equal(sentences.labels, begun.labels)
        assert sentences.label_ids.tolist() == [0, 1] * 3
        assert sentences.recipe == begun.recipe
        assert sentences.token_ids.shape == (6, 6)
    drawn = found["sentences", 4][0].method.is_drawn
    assert torch.equal(found["sentences", 4][1].token_ids, found["sentences", 5][1].token_ids) != drawn
    assert drawn == (initialise != "words")


def test_candidates_are_a_draw_of_all_rows_that_are_long_enough(cells: Callable[..., Any]) -> None:
    """Not of those of exactly this length, which may be few and then the same for every seed."""
    found = cells([{"name": "sentences", **SAME, "candidates": 12, "initialise": "real"}], tuple(range(20)))
    lengths = set()
    for config, sentences, prepared in found.values():
        rows = prepared.split("train").rows["input_ids"]
        for ids in sentences.token_ids.tolist():
            of_it = [row for row in rows if row[:5] == ids[:5] and len(row) >= 6]
            assert of_it
            lengths |= {len(row) for row in of_it}
        assert config.method.candidates == 12
    assert len(lengths) >= 5, "from 6 to 11"


def test_longer_than_what_students_read_is_refused(experiment: Write, tmp_path: Path) -> None:
    path = experiment(
        prepare={"max_length": 20},
        evaluate={"protocol": {"name": "finetune", "steps": 2}},
        grids=[{"distill.method": [{"name": "sentences", "sequence_length": 21}]}],
    )
    plan, store = load(path), Store(tmp_path)
    run_stage(stage_cells(plan, store, "prepare"), "prepare", store)
    (reason,) = run_stage(stage_cells(plan, store, "distill"), "distill", store).failed.values()
    assert "sequence_length: 21 is more than the 20 tokens" in reason


def test_from_yaml_to_scores(experiment: Write, tmp_path: Path) -> None:
    path = experiment(
        evaluate={"protocol": {"name": "finetune", "steps": 2}, "initialisations": 1},
        grids=[{"distill.method": [{"name": "sentences", **SAME}]}],
    )
    plan, store = carried_out(path, tmp_path / "ck")
    assert (store.cell(plan.cells[0]).folder / "results.csv").exists()
