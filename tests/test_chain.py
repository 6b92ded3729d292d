"""A chain of sets and a transfer to another encoder, end to end, in this process and in several."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import BertTokenizerFast

from pipeline import launch
from pipeline.config import load as load_experiment
from pipeline.distilled import load
from pipeline.launch.estimate import estimate
from pipeline.launch.stages import stage_configs
from pipeline.report.card.gather import gather
from pipeline.report.card.text import card_text
from pipeline.store import Store
from tests.conftest import FILLERS, KEYWORDS, encoder, typed

Write = Callable[..., Path]
STILL = {"outer": {"steps": 1, "batch_size": 8, "lr": 1e-12}, "validation": {"split": "none"}}


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A BERT with other weights and the same words at other ids, without one of the fillers."""
    folder = tmp_path / "other-bert"
    folder.mkdir()
    words = [*KEYWORDS[1], *KEYWORDS[0], *FILLERS[:0:-1]]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    encoder("bert").base_model.save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=40).save_pretrained(folder)
    return folder


@pytest.fixture
def chain(experiment: Write, other: Path) -> Path:
    """DDAL that starts from DDAL that starts from DDAL; and real sentences, learned from by both encoders."""
    small = {"name": "ddal", "sequence_length": 8, "learning_rate": 0.1, **STILL}
    learning = {"outer": {"steps": 4, "batch_size": 8}, "validation": {"every": 2, "initialisations": 2}}
    root = {"method": small | learning, "seed": 7, "source": {"max_length": 20}}
    real = {
        "distill.method": [{"name": "random"}],
        "distill.parent": [None],
        "distill.seed": [0, 1],
        "evaluate.protocol": [{"name": "finetune", "steps": 5}],
        "evaluate.data": [None, {"model": str(other)}],
    }
    distill = {"parent": {"method": small, "parent": root}}
    return experiment(method=STILL, distill=distill, grids=[{"distill.seed": [1, 2]}, real])


def numbers(root: Path) -> dict[str, list[list[Any]]]:
    """Of every evaluation, without its seconds."""
    frames = {path.parent.name: pd.read_csv(path) for path in root.glob("evaluate/*/results.csv")}
    return {name: frame.drop(columns="seconds").to_numpy().tolist() for name, frame in frames.items()}


@pytest.mark.usefixtures("forks")
def test_in_this_process_and_in_several(chain: Path, tmp_path: Path) -> None:
    said = typed("run", chain, "--root", tmp_path / "a", "--out", tmp_path / "results", "--no-check")
    assert "prepare: 3 done now" in said
    assert "distill: 7 done now" in said
    assert "evaluate: 6 done now" in said
    for row in ("| random real | ", "| random real, made with bert | "):
        assert row in said
    store, experiment = Store(tmp_path / "a"), load_experiment(chain)

    # a set whose own steps are too small to be seen is the one that it started from
    last = experiment.cells[0].source
    sets = [load(store.cell(one).folder / "distilled.h5") for one in last.chain]
    assert [one.about["seed"] for one in sets] == [1, 1, 7]
    assert sets[0].inputs_embeds is not None
    for later in sets[1:]:
        torch.testing.assert_close(sets[0].inputs_embeds, later.inputs_embeds, rtol=1e-5, atol=1e-6)
    unrelated = torch.randn(sets[0].inputs_embeds.shape)
    assert not torch.allclose(sets[0].inputs_embeds, unrelated, atol=0.1)
    assert sets[0].about["parent"]["parent"]["seed"] == 7

    # the same sentences, scored by two encoders, each a column; what they share was paid for once
    long = pd.read_csv(tmp_path / "results" / "tiny.csv")
    found = long[(long["metric"] == "accuracy") & (long["split"] == "test")].set_index(["row", "model"])
    assert set(found.index) == {
        ("random real", "bert"),
        ("random real, made with bert", "other-bert"),
        ("HL", "bert"),
    }
    assert set(found["n_seed"]) == {2}
    ledger = pd.read_csv(tmp_path / "results" / "tiny.ledger.csv")
    assert list(ledger["stage"].value_counts()[["prepare", "distill", "evaluate"]]) == [3, 7, 6]
    paid = ledger[ledger["cell"].str.contains("ddal") & (ledger["stage"] == "distill")]["cpu_seconds"].sum()
    assert found.loc[("HL", "bert"), "distill_cpu_seconds"] == pytest.approx(paid / 2)

    typed("run", chain, "--root", tmp_path / "b", "--out", tmp_path / "others", "--no-check", "--cluster", "local")
    assert numbers(tmp_path / "b") == numbers(tmp_path / "a")
    rows = json.loads(typed("status", chain, "--root", tmp_path / "b", "--json"))["cells"]
    assert {row["state"] for row in rows} == {"done"}


def test_a_position_of_stage_2_is_a_set_with_its_parents(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, cell = Store(tmp_path / "ck"), load_experiment(chain).cells[1]
    stages: dict[launch.StageName, int] = {"prepare": 2, "distill": 3, "evaluate": 1}
    for stage, done in stages.items():
        monkeypatch.setattr(sys, "argv", ["stage", str(chain), "--index", "1", "--root", str(store.root)])
        with pytest.raises(SystemExit) as end:
            launch.stage_command(stage)
        assert end.value.code == 0
        assert f"{done} done now, 0 done before" in capsys.readouterr().err
    file = store.cell(cell.source).folder / "distilled.h5"
    made = load(file)
    facts = gather(made, file, store, [], None, None)
    assert [evaluation.protocol.name for evaluation in facts.evaluations] == ["ddal"]
    text = card_text(made, facts)
    assert text.count("It goes back to what `ddal` made with") == 2
    assert "(ddal-hard-none.1shot.1step, seed 7); its config is in that of the set." in text


@pytest.mark.usefixtures("forks")
def test_chains_and_transfers_are_estimated(chain: Path, tmp_path: Path) -> None:
    """One slice for sets that are learned alike, wherever they start; one more for the other encoder's students."""
    lines = estimate(load_experiment(chain), Store(tmp_path / "ck"), lambda _: None)
    assert [line.trouble for line in lines] == [""] * 6
    assert [len(line.cells) for line in lines] == [1, 4, 2, 2, 2, 2]
    assert lines[-1].what.endswith("random.1shot, finetune on other-bert")
    assert all(one.seconds > 0 for line in lines for one in line.predicted or ())


def test_a_card_keeps_transfers_apart(chain: Path, tmp_path: Path) -> None:
    """Scores written by hand: 0.5 and 0.75 on the own encoder, 0.25 and 0.5 on the other one."""
    experiment, store = load_experiment(chain), Store(tmp_path / "ck")
    own, transferred = experiment.cells[2:4]
    for stage in ("prepare", "distill"):
        assert not launch.run_stage([store.cell(c) for c in stage_configs(own, stage)], stage, store).failed
    for cell, values in ((own, (0.5, 0.75)), (transferred, (0.25, 0.5))):
        with store.cell(cell).claim() as out:
            assert out is not None
            lines = [f"{index},test,accuracy,{value},1.0" for index, value in enumerate(values)]
            (out / "results.csv").write_text("\n".join(["initialisation,split,metric,value,seconds", *lines]) + "\n")
    file = store.cell(own.source).folder / "distilled.h5"
    facts = gather(load(file), file, store, [], None, None)
    ((score,),) = (evaluation.scores for evaluation in facts.evaluations)
    assert (score.mean, score.n) == (0.625, 2)
    (said,) = facts.transfers
    assert "other-bert, finetune" in said
    assert said.endswith(": 37.5 ± 17.7 (n 2)")
    assert facts.test_reads is not None
    assert facts.test_reads.evaluations == 2
    assert "students of other encoders" in card_text(load(file), facts)
