"""Vectors of sentences: what the encoder alone gives for each, whatever they are batched with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

from pipeline.config import Distill
from pipeline.config import load as load_experiment
from pipeline.data.prepared import Prepared
from pipeline.errors import InputError
from pipeline.launch import run_stage, stage_cells
from pipeline.methods.coresets.vectors import Vectors
from pipeline.store import Store

Write = Callable[..., Path]
Ready = Callable[..., tuple[Distill, Prepared]]
FIRST = ["bert", "roberta", "electra", "albert", "mpnet", "distilbert"]


@pytest.fixture
def ready(experiment: Write, encoder_folder: Callable[..., Path], tmp_path: Path) -> Ready:
    """A prepared task with an encoder of the family, and a cell that chooses from it."""

    def ready(family: str = "bert", vectors: str | None = None, **method: Any) -> tuple[Distill, Prepared]:
        grids = [{"distill.method": [{"name": "herding", **method}], "evaluate.protocol": [{"name": "finetune"}]}]
        path = experiment(prepare={"model": str(encoder_folder(family)), "vectors": vectors}, grids=grids)
        plan, store = load_experiment(path), Store(tmp_path / "ck")
        run_stage(stage_cells(plan, store, "prepare"), "prepare", store)
        config = plan.cells[0].source
        return config, Prepared(store.cell(config.source).folder)

    return ready


@torch.no_grad()
def alone(prepared: Prepared, rows: list[int], pooling: str) -> np.ndarray:
    """By the library's own model, each sentence in a batch of its own, without padding."""
    body = AutoModel.from_pretrained(prepared.model_folder, attn_implementation="eager").eval()
    train = prepared.split("train")
    found = []
    for row in rows:
        given = {name: torch.tensor([ids]) for name, ids in train.rows[row].items() if name not in ("label", "length")}
        hidden = body(**given).last_hidden_state[0]
        found.append(hidden[0] if pooling == "first" else hidden.mean(dim=0))
    return torch.stack(found).numpy()


@pytest.mark.parametrize(
    ("family", "pooling"), [(name, "first") for name in FIRST] + [(n, "mean") for n in [*FIRST, "gpt2", "xlnet"]]
)
def test_vectors_are_those_of_the_encoder(ready: Ready, family: str, pooling: str) -> None:
    config, prepared = ready(family, pooling=pooling)
    rows = [5, 3, 99, 40, 7, 150]
    train = prepared.split("train")
    assert len(set(train.lengths[rows])) > 2, "they need padding"
    found = Vectors(config, prepared, train).of(np.array(rows))
    np.testing.assert_allclose(found, alone(prepared, rows, pooling), rtol=0, atol=2e-5)


def test_both_poolings_differ(ready: Ready) -> None:
    found = []
    for pooling in ("first", "mean"):
        config, prepared = ready(pooling=pooling)
        found.append(Vectors(config, prepared, prepared.split("train")).of(np.arange(4)))
    assert np.abs(found[0] - found[1]).min(axis=1).max() > 1e-3


def test_many_batches_come_back_in_the_order_that_was_asked_for(ready: Ready) -> None:
    config, prepared = ready()
    vectors, rows = Vectors(config, prepared, prepared.split("train")), np.arange(160)[::-1]
    found = vectors.of(rows)
    for place in (0, 70, 159):
        np.testing.assert_allclose(found[place], vectors.of(rows[place : place + 1])[0], rtol=0, atol=1e-5)


def test_a_trained_encoder_gives_other_vectors_by_the_seed(ready: Ready) -> None:
    training = {"steps": 3, "lr": 1e-3}

    def found(seed: int) -> np.ndarray:
        config, prepared = ready(training=training)
        config = config.model_copy(update={"seed": seed})
        return Vectors(config, prepared, prepared.split("train")).of(np.arange(3))

    config, prepared = ready()
    frozen = Vectors(config, prepared, prepared.split("train")).of(np.arange(3))
    assert np.abs(found(1) - frozen).max() > 1e-2
    assert np.array_equal(found(1), found(1))
    assert np.abs(found(1) - found(2)).max() > 1e-4


@pytest.mark.parametrize("family", ["gpt2", "xlnet"])
def test_the_first_token_of_an_encoder_that_does_not_read_it_is_refused(ready: Ready, family: str) -> None:
    config, prepared = ready(family)
    with pytest.raises(InputError, match=r"does not read its first token.*pooling: mean"):
        Vectors(config, prepared, prepared.split("train"))


@pytest.mark.parametrize(("pooling", "stored"), [("first", "cls"), ("mean", "mean")])
def test_stage_1s_vectors_are_used_where_they_are_the_same(ready: Ready, pooling: str, stored: str) -> None:
    rows = np.asarray([5, 0, 17])
    config, prepared = ready(vectors=stored, pooling=pooling)
    train = prepared.split("train")
    found = Vectors(config, prepared, train).of(rows)
    assert np.array_equal(found, prepared.vectors("train").vectors[rows].numpy())
    np.testing.assert_allclose(found, alone(prepared, rows.tolist(), pooling), rtol=1e-4, atol=1e-5)
    other, prepared = ready(vectors=stored, pooling="mean" if pooling == "first" else "first")
    assert not np.allclose(Vectors(other, prepared, prepared.split("train")).of(rows), found, atol=1e-2)
