"""Text learned for tasks of pairs: both texts stay, students see which is which, and so do those who read the set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset

from pipeline.config import Text
from pipeline.config import load as load_experiment
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Split
from pipeline.distilled import load
from pipeline.distilled.text import texts
from pipeline.errors import InputError
from pipeline.launch import run_stage, stage_cells
from pipeline.methods.text import method as text
from pipeline.methods.text.run import TextState
from pipeline.methods.text.set import Vocabulary
from pipeline.methods.text.start import _cut, _dealt, put_together
from pipeline.store import Store
from pipeline.students.vocabulary import frame
from tests.conftest import VOCABULARY, build_tokenizer, corpus

CLS, SEP = VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")
SMALL: dict[str, Any] = {
    "name": "text",
    "shots": 2,
    "sequence_length": 8,
    "candidates": 40,
    "steps": 2,
    "learning_rate": 0.01,
    "outer": {"steps": 2, "batch_size": 16},
    "validation": {"every": 2, "initialisations": 1, "training": {"steps": 4, "lr": 1e-2}},
}


@pytest.fixture
def path(experiment: Callable[..., Path], encoder_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """An experiment on 120 pairs of keyword sentences, with a tiny BERT."""

    def path(**method: Any) -> Path:
        rows = [
            {"one": a["text"], "other": b["text"], "label": a["label"]}
            for a, b in zip(corpus(120, seed=5), corpus(120, seed=6), strict=True)
        ]
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = {"kind": "files", "train": str(tmp_path / "pairs.jsonl")}
        return experiment(
            prepare={
                "task": {"name": "pairs", "source": source, "text": ["one", "other"]},
                "model": str(encoder_folder("bert", pretrained=True)),
                "dev": 24,
                "test": 24,
            },
            distill={"method": SMALL | method, "runtime": {"threads": 1}},
            evaluate={"protocol": {"name": "finetune", "steps": 4, "lr": 1e-2}},
        )

    return path


@pytest.fixture
def begun(path: Callable[..., Path], tmp_path: Path) -> Callable[..., TextState]:
    """The state before the first outer step."""

    def begun(**options: Any) -> TextState:
        plan, store = load_experiment(path(**options)), Store(tmp_path / "ck")
        assert not run_stage(stage_cells(plan, store, "prepare"), "prepare", store).failed
        config = plan.cells[0].source
        assert isinstance(config.method, Text)
        return text.begun(config, config.method, Prepared(store.cell(config.source).folder))

    return begun


def test_the_marks_around_texts(tmp_path: Path) -> None:
    """BERT's, RoBERTa's, and a tokenizer's that puts nothing between the texts."""
    bert = build_tokenizer(tmp_path)
    assert frame(bert) == [[CLS], [SEP]]
    assert frame(bert, 2) == [[CLS], [SEP], [SEP]]

    def tokenizer(*texts: str, mask: list[int], **_: Any) -> dict[str, list[int]]:
        return {"input_ids": list(range(len(mask))), "special_tokens_mask": mask}

    assert frame(lambda *a, **k: tokenizer(*a, mask=[1, 0, 1, 1, 0, 1], **k), 2) == [[0], [2, 3], [5]]  # type: ignore[arg-type]
    with pytest.raises(InputError, match="puts nothing between the two texts of a pair"):
        frame(lambda *a, **k: tokenizer(*a, mask=[0, 0, 1], **k), 2)  # type: ignore[arg-type]


def test_rows_are_cut_by_hand() -> None:
    """The longer text gives up tokens until the row has eight; two marks between, as RoBERTa's."""
    marks = [[0], [2, 2], [2]]
    rows = [[0, 11, 12, 13, 14, 15, 2, 2, 21, 22, 2], [0, 11, 2, 2, 21, 22, 23, 24, 25, 2]]
    split = Split(Dataset.from_dict({"input_ids": rows}), SimpleNamespace())  # type: ignore[arg-type]
    assert _cut(split, torch.arange(2).numpy(), 8, marks).tolist() == [
        [0, 11, 12, 2, 2, 21, 22, 2],
        [0, 11, 2, 2, 21, 22, 23, 2],
    ]
    assert put_together(_dealt([5, 6, 7], 2), marks) == [0, 5, 6, 2, 2, 7, 2]


def test_which_text_a_token_is_of_by_hand() -> None:
    vocabulary = Vocabulary(torch.zeros(9, 2), [], [1, 2], separator=2)
    numbers = vocabulary.segments(torch.tensor([[1, 5, 2, 6, 2], [1, 2, 5, 6, 2]]))
    assert numbers is not None
    assert numbers.tolist() == [[0, 0, 0, 1, 1], [0, 0, 1, 1, 1]]
    assert Vocabulary(torch.zeros(9, 2), [], [1, 2]).segments(torch.ones(1, 4)) is None


@pytest.mark.parametrize("initialise", ["telling", "centres", "words"])
def test_students_see_which_text_is_which(begun: Callable[..., TextState], initialise: str) -> None:
    """Input embeddings give the outputs that the encoder has for the token ids with their segments."""
    run = begun(initialise=initialise)
    made, seen = run.learned.text(), run.learned.view().inputs_embeds
    assert made.token_ids is not None
    assert made.token_type_ids is not None
    assert seen is not None
    assert (made.token_ids == SEP).sum(dim=1).tolist() == [2] * 4
    module = run.student._module.eval()
    with torch.no_grad():
        whole = module(input_ids=made.token_ids, token_type_ids=made.token_type_ids).logits
        ours = module(inputs_embeds=seen).logits
        without = module(input_ids=made.token_ids).logits
    torch.testing.assert_close(ours, whole)
    assert not torch.allclose(ours, without, atol=1e-4)


def test_a_proposal_is_seen_with_its_own_texts(begun: Callable[..., TextState]) -> None:
    """A pair whose first text ends elsewhere: the same loss before and after it is put in."""
    run = begun()
    (real, _), now = run.real(), run.learned.token_ids
    moved = now.clone()
    moved[0] = torch.tensor([CLS, 5, SEP, 6, 7, 8, 9, SEP])
    assert not torch.equal(moved[0] == SEP, now[0] == SEP)
    before = run.loss_of(moved, real)
    run.learned.put(moved)
    assert run.loss_of(moved, real) == before
    seen = run.learned.view().detached()
    theirs = run.learned.of(run.learned.embedded(moved), run.learned.labels, now).detached()
    assert seen.inputs_embeds is not None
    assert theirs.inputs_embeds is not None
    assert not torch.equal(seen.inputs_embeds, theirs.inputs_embeds)


@pytest.mark.parametrize("relaxation", [{"name": "swaps", "tokens": 2, "sentences": 3}, {"name": "mixture"}])
def test_from_start_to_scores(path: Callable[..., Path], tmp_path: Path, relaxation: dict[str, Any]) -> None:
    """Both texts of every pair, numbered as the tokenizer numbers them."""
    plan, store = load_experiment(path(relaxation=relaxation)), Store(tmp_path / "ck")
    for stage in ("prepare", "distill", "evaluate"):
        outcome = run_stage(stage_cells(plan, store, stage), stage, store)
        assert not outcome.failed, outcome.failed
    made = load(store.cell(plan.cells[0].source).folder / "distilled.h5")
    tokenizer = Prepared(store.cell(plan.cells[0].source.source).folder).tokenizer
    written = texts(made, tokenizer)
    assert [len(pair) for pair in written] == [2] * 4
    again = tokenizer(*map(list, zip(*written, strict=True)))
    assert made.token_ids is not None
    assert made.token_type_ids is not None
    assert again["input_ids"] == made.token_ids.tolist()
    assert again["token_type_ids"] == made.token_type_ids.tolist()


def test_there_has_to_be_room_for_both(begun: Callable[..., TextState]) -> None:
    with pytest.raises(InputError, match=r"sequence_length: 4 has no room for a word in every text; give at least 5"):
        begun(sequence_length=4)
