"""The rule on words: scores and choices by hand, which lengths are looked at, and that learned text begins as these."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from pipeline.config import Text, load
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Split, tokenise
from pipeline.distilled import load as load_set
from pipeline.errors import InputError
from pipeline.launch import run_stage, stage_cells
from pipeline.methods.coresets.candidates import of_length
from pipeline.methods.coresets.words import class_scores, telling
from pipeline.methods.text import method as text
from pipeline.store import Store
from tests.conftest import VOCABULARY, build_tokenizer, corpus


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """200 rows, of which the first three come again at the end."""
    rows = corpus(200, seed=5)
    tokenizer = build_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return Split(tokenise(Dataset.from_list([*rows, *rows[:3]]), ("text",), tokenizer, 40), tokenizer)


def test_scores_of_words_by_hand(split: Split) -> None:
    """A keyword that k of its class's rows have, and none of the others, beside the formula."""
    token = VOCABULARY.index("good")
    has = np.asarray([token in ids for ids in split.rows["input_ids"]])
    labels = split.labels.numpy()
    n, others, k = (labels == 1).sum(), (labels == 0).sum(), has.sum()
    assert has[labels == 0].sum() == 0
    scores = class_scores(split, 2, [VOCABULARY.index("dull")], len(VOCABULARY))
    assert scores[1, token] == pytest.approx(math.log((k + 1) / n) - math.log(1 / others))
    assert scores[0, token] == pytest.approx(math.log(1 / others) - math.log((k + 1) / n))
    assert {VOCABULARY[token] for token in np.argsort(-scores[0])[:2].tolist()} == {"bad", "weak"}


def test_rows_by_hand() -> None:
    """Words that are taken count no more, and words against the class always do."""
    scores = np.array([0.0, 5.0, 3.0, 2.0, -4.0, 1.0])
    rows = [np.unique(row) for row in ([1, 4, 0], [1, 3, 0], [1, 2, 0], [3, 5, 5], [2, 5, 4])]  # sums 1, 7, 8, 3, 0
    assert telling(rows, scores, 3).tolist() == [2, 3, 1]  # then 2 and 5 and 3 are left, then none: -4, 0, 0, -4
    equal = [np.array([0]), np.array([3]), np.array([1]), np.array([1, 3])]
    assert telling(equal, scores, 4).tolist() == [3, 2, 1, 0], "of those that say nothing new, the most telling first"


def test_lengths_that_are_looked_at(split: Split) -> None:
    """The shortest that are long enough, each text once, in an order of the seed, with the classes' shares."""
    lengths, labels = split.lengths, split.labels.numpy()
    length = int(np.quantile(lengths, 0.3))
    found = of_length(split, [2, 2], length, 30, seed=1)
    assert sum(map(len, found)) == 30
    for label, rows in enumerate(found):
        assert len(rows) in (14, 15, 16)
        assert (labels[rows] == label).all()
        assert (np.diff(lengths[rows]) >= 0).all()
        left = np.setdiff1d(np.flatnonzero((labels == label) & (lengths >= length)), rows)
        assert lengths[rows].max() <= lengths[left].min()
    whole = of_length(split, [2, 2], 1, None, seed=1)
    assert sorted(np.concatenate(whole).tolist()) == list(range(200)), "the last three are the first three"
    assert [rows.tolist() for rows in found] == [rows.tolist() for rows in of_length(split, [2, 2], length, 30, 1)]
    assert [rows.tolist() for rows in found] != [rows.tolist() for rows in of_length(split, [2, 2], length, 30, 2)]
    assert [len(rows) for rows in of_length(split, [12, 3], length, 16, 1)] == [12, 4], (
        "as many as are chosen, at least"
    )
    with pytest.raises(InputError, match=r"class 0 has 0 .* sequence_length: 300 .* its 2 samples; lower one"):
        of_length(split, [2, 2], 300, 30, 1)
    with pytest.raises(InputError, match="candidates: 3 are fewer than the 4 samples"):
        of_length(split, [2, 2], length, 3, 1)


def test_learned_text_begins_as_this_coreset(
    experiment: Callable[..., Path], encoder_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """Token by token, while there are rows of exactly this length."""
    same: dict[str, Any] = {"shots": 3, "candidates": 16, "sequence_length": 7}
    methods = [{"name": "telling", **same}, {"name": "text", **same}]
    path = experiment(
        prepare={"model": str(encoder_folder("bert", pretrained=True))},
        evaluate={"protocol": {"name": "finetune", "steps": 2}},
        grids=[{"distill.method": methods, "distill.seed": [4, 5]}],
    )
    plan, store = load(path), Store(tmp_path / "ck")
    cells = {(cell.source.method.name, cell.source.seed): cell for cell in plan.cells}
    run_stage(stage_cells(plan, store, "prepare"), "prepare", store)
    chosen = [cell for (name, _), cell in cells.items() if name == "telling"]
    wanted = {store.cell(cell.source).folder for cell in chosen}
    made = [cell for cell in stage_cells(plan, store, "distill") if cell.folder in wanted]
    assert not run_stage(made, "distill", store).failed
    sets = {}
    for cell in chosen:
        learned = cells["text", cell.source.seed].source
        assert isinstance(learned.method, Text)
        prepared = Prepared(store.cell(cell.source.source).folder)
        begun = text.begun(learned, learned.method, prepared).learned.token_ids
        found = load_set(store.cell(cell.source).folder / "distilled.h5").token_ids
        assert found is not None
        assert torch.equal(found[:, :7], begun)
        assert (found[:, 7:] < 0).all(), "padding"
        sets[cell.source.seed] = begun
    assert not torch.equal(sets[4], sets[5]), "another seed begins as another set"
