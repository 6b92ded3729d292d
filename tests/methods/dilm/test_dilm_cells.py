"""The three cells: lm -> dilm -> generated, killed anywhere and resumed, on single texts and on pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import Distill, language_source
from pipeline.distilled import DistilledSet, load
from pipeline.errors import InputError
from pipeline.methods.dilm import pretrain, sampling, trajectory, tuning
from pipeline.methods.dilm.generator import Generator
from pipeline.methods.dilm.sequences import Sequences
from pipeline.stage2_distill import run as distill
from pipeline.store import Store
from tests.conftest import table
from tests.methods.dilm.conftest import prepared

Chain = Callable[..., Distill]


class Killed(BaseException):
    """Stands for kill -9: nobody handles it."""


def cells(config: Distill) -> Iterator[Distill]:
    """A chain from its beginning."""
    if config.parent is not None:
        yield from cells(config.parent)
    yield config


def made(config: Distill, store: Store) -> Path:
    """Runs a chain; the folder of its last cell."""
    for source in {one.source.model_dump_json(): one.source for one in cells(config)}.values():
        prepared(source, store)
    for cell in cells(config):
        folder = store.cell(cell).folder
        if not (folder / "distilled.h5").exists() and not (folder / "generator").exists():
            folder.mkdir(parents=True, exist_ok=True)
            distill(cell, folder)
    return folder


def log(folder: Path) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in table(folder / "log.csv")]


def weights(folder: Path) -> bytes:
    return (folder / "generator" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("begin", [None, ["word1 word2 bad", "good"]], ids=["as published", "prompts"])
def test_end_to_end(chain: Chain, store: Store, begin: list[str] | None) -> None:
    config = chain({"begin": begin})
    folder = made(config, store)
    found = load(folder / "distilled.h5")
    assert found.label_ids.tolist() == [0, 1, 0, 1]
    assert found.recipe.name == "finetune"
    texts = [text for (text,) in found.about["texts"]]
    assert len({(text, label) for text, label in zip(texts, found.label_ids.tolist(), strict=True)}) == 4
    tokenizer = prepared(config.source, store).tokenizer
    assert found.token_ids is not None
    decoded = tokenizer.batch_decode([row[row >= 0] for row in found.token_ids], skip_special_tokens=True)
    assert decoded == texts
    lines = [json.loads(line) for line in (folder / "texts.jsonl").read_text().splitlines()]
    assert lines == [
        {"text": text, "label": str(label)} for text, label in zip(texts, found.label_ids.tolist(), strict=True)
    ]
    assert found.about["generated"]["candidates"] == 8
    assert config.parent is not None
    tuned = store.cell(config.parent).folder
    assert Generator.load(tuned / "generator", 2, "cpu").prompt_length == (0 if begin is None else 3)
    rows = log(tuned)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5]
    assert all(0 < float(row["loss"]) < 2 for row in rows)
    assert all(float(row["gradient_norm"]) > 0 for row in rows)


def test_pretraining_lowers_the_loss_and_keeps_the_best(chain: Chain, store: Store) -> None:
    validation = {"every": 10, "keep": "best"}
    config = chain({"steps": 40, "begin": ["bad", "good"], "validation": validation}, matched=False).parent
    assert config is not None
    folder = made(config, store)
    losses = [float(row["loss"]) for row in log(folder)]
    assert sum(losses[-5:]) / 5 < 0.7 * losses[0]
    scored = {int(row["step"]): float(row["validation_loss"]) for row in log(folder) if row["validation_loss"]}
    assert list(scored) == [10, 20, 30, 40]
    generator = Generator.load(folder / "generator", 2, "cpu")
    dev = generator.sequences(prepared(config.source, store).split("dev"))
    tokens = dev.lengths - 1
    loss = float((generator.mean_losses(dev) * tokens).sum() / tokens.sum())
    assert loss == pytest.approx(min(scored.values()), rel=1e-5)
    told = {int(row["step"]): float(row["validation_accuracy"]) for row in log(folder) if row["validation_loss"]}
    right = 0
    for index, label in enumerate(dev.labels.tolist()):
        text = dev.row(index)[1:]
        rows = Sequences.of([[generator.begin[0], *text], [generator.begin[1], *text]], [0, 1])
        right += int(generator.mean_losses(rows).argmin() == label)
    assert told[min(scored, key=scored.__getitem__)] == pytest.approx(right / len(dev))


def test_prompts_that_leave_no_room_for_a_row_are_refused(chain: Chain, store: Store) -> None:
    config = chain({"begin": ["word1 " * 38, "good"]}, matched=False)
    with pytest.raises(InputError, match=r"lm\.begin: with its prompt a row has \d+ tokens, and .* reads 40; give sho"):
        made(config, store)


def test_the_mean_over_tokens_is_that_of_the_library(chain: Chain, store: Store, language_model: Path) -> None:
    generator = Generator.fresh(language_model, 2, 3, "cpu")
    train = generator.sequences(prepared(language_source(chain()), store).split("train"))
    rows = torch.arange(6)
    ids, mask = train.batch(rows, generator.pad, "cpu")
    expected = generator.model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
    assert pretrain.language_modelling(generator, train, rows).item() == pytest.approx(expected.item(), rel=1e-5)


# One after the other; counted from the resumption on.
MOMENTS = [
    (pretrain.Pretraining, "advance", 3),
    (pretrain.Pretraining, "advance", 2),
    (sampling, "_batch", 2),  # the first pool
    (tuning.Tuning, "_of_class", 4),  # the second class of the second step
    (trajectory.Trajectory, "at", 2),  # just after the second pool
    (sampling, "_batch", 1),  # in it
    (tuning.Tuning, "_of_class", 3),
    (sampling, "_batch", 2),
    (sampling, "_batch", 4),  # in the set, or of pairs, of which many are unusable, in the last pool
]


@pytest.mark.parametrize("pairs", [False, True], ids=["texts", "pairs"])
def test_killed_anywhere_it_ends_bit_for_bit_where_an_unbroken_run_ends(
    chain: Chain, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs: bool
) -> None:
    config = chain({"validation": {"every": 3, "keep": "best"}}, {"lm_weight": 0.25, "lm_batch_size": 4}, pairs=pairs)
    folder = made(config, store)
    again = Store(tmp_path / "again")
    for source in {one.source.model_dump_json(): one.source for one in cells(config)}.values():
        prepared(source, again)
    for owner, name, count in MOMENTS:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, dying(getattr(owner, name), count))
            with pytest.raises(Killed):
                made(config, again)
    assert made(config, again).name == folder.name
    for one, other in zip(cells(config), cells(config), strict=True):
        here, there = store.cell(one).folder, again.cell(other).folder
        if one is not config:
            assert weights(here) == weights(there)
            assert log(here) == log(there)
    same(load(folder / "distilled.h5"), load(again.cell(config).folder / "distilled.h5"))
    assert load(folder / "distilled.h5").about["selection"] == {"split": "dev"}, "by which the language model was kept"


def dying(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """The function until its ``count``-th call, which kills; in a fresh process counting starts anew."""
    calls: list[None] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == count:
            raise Killed
        return function(*args, **kwargs)

    return counted


def same(one: DistilledSet, other: DistilledSet) -> None:
    assert one.about["texts"] == other.about["texts"]
    assert one.token_ids is not None
    assert other.token_ids is not None
    assert torch.equal(one.token_ids, other.token_ids)


def test_a_run_that_was_killed_after_its_last_step_has_nothing_left_to_do(
    chain: Chain, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = chain(matched=False).parent
    assert config is not None
    folder = made(config, store)
    assert not (folder / "progress.pt").exists()
    before = weights(folder)
    monkeypatch.setattr(pretrain.Pretraining, "advance", dying(pretrain.Pretraining.advance, 1))
    distill(config, folder)
    assert weights(folder) == before


def test_a_student_that_does_not_read_its_first_token(chain: Chain, store: Store) -> None:
    with pytest.raises(InputError, match="write pooling: mean"):
        made(chain(family="gpt2"), store)
    mean = {"name": "k_centres", "pooling": "mean"}
    folder = made(chain(dilm={"pooling": "mean"}, generated={"selection": mean}, family="gpt2"), store)
    assert len(load(folder / "distilled.h5")) == 4
