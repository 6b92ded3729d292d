"""Embeddings to text: by hand, deterministic, framed as the tokenizer frames, with what is lost on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import Project
from pipeline.config import load as load_experiment
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet, load
from pipeline.errors import InputError
from pipeline.methods.projection import framed, projected
from tests.conftest import VOCABULARY, build_tokenizer, carried_out

Write = Callable[..., Path]
PAD, CLS, SEP = (VOCABULARY.index(token) for token in ("[PAD]", "[CLS]", "[SEP]"))
GOOD, BAD = VOCABULARY.index("good"), VOCABULARY.index("bad")


def by_hand() -> tuple[torch.Tensor, torch.Tensor]:
    """A table in the plane, all at (0, -1) but five tokens, and a sample of three positions."""
    matrix = torch.tensor([[0.0, -1.0]]).repeat(len(VOCABULARY), 1)
    matrix[PAD] = torch.tensor([-1.0, 0.0])
    matrix[GOOD] = torch.tensor([1.0, 0.0])
    matrix[BAD] = torch.tensor([3.0, 3.0])
    return matrix, torch.tensor([[[2.0, 1.9], [-0.9, 0.1], [1.0, 0.2]]])


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        # (2, 1.9) is 1.48 from (3, 3) and 2.15 from (1, 0); by its direction, too, it is bad
        ({}, [CLS, BAD, GOOD, SEP]),
        ({"measure": "l2"}, [CLS, BAD, GOOD, SEP]),
        ({"special": "kept"}, [BAD, PAD, GOOD]),
        # without [PAD], (-0.9, 0.1) is 1.42 from (0, -1), 1.90 from (1, 0); its cosine with (0, -1) is -0.11, of
        # the others -0.62 and -0.99, so the first of all that lie there: word0
        ({"special": "barred"}, [CLS, BAD, 5, GOOD, SEP]),
        ({"special": "barred", "measure": "l2"}, [CLS, BAD, 5, GOOD, SEP]),
    ],
)
def test_by_hand(tmp_path: Path, options: dict[str, Any], ids: list[int]) -> None:
    matrix, embeddings = by_hand()
    tokenizer, method = build_tokenizer(tmp_path), Project.model_validate({"name": "project", **options})
    nearest = projected(embeddings, matrix, tokenizer, method)
    assert framed(nearest.ids, tokenizer, method, 40) == [ids]


def test_distances_by_hand(tmp_path: Path) -> None:
    matrix, embeddings = by_hand()
    tokenizer = build_tokenizer(tmp_path)
    l2 = projected(embeddings, matrix, tokenizer, Project(name="project", measure="l2")).distances
    assert l2[0].tolist() == pytest.approx([(1 + 1.1**2) ** 0.5, (0.1**2 + 0.1**2) ** 0.5, 0.2])
    cosine = projected(embeddings, matrix, tokenizer, Project(name="project")).distances
    assert cosine[0, 2].item() == pytest.approx(1 - 1 / 1.04**0.5)


def test_no_more_tokens_than_the_encoder_reads(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path)
    ids = torch.tensor([[GOOD] * 9])
    assert framed(ids, tokenizer, Project(name="project"), 5) == [[CLS, GOOD, GOOD, GOOD, SEP]]
    assert framed(ids, tokenizer, Project(name="project", special="kept"), 5) == [[GOOD] * 5]


@pytest.fixture
def chain(experiment: Write) -> Path:
    return experiment(
        distill={
            "method": {"name": "project", "shots": 2},
            "parent": {
                "method": {
                    "name": "ddal",
                    "shots": 2,
                    "batch_shots": 2,
                    "sequence_length": 8,
                    "initialise": "real",
                    "labels": "unrestricted",
                    "outer": {"steps": 3, "batch_size": 8, "lr": 0.3},
                    "validation": {"every": 2, "initialisations": 2},
                }
            },
        },
        evaluate={"protocol": {"name": "finetune", "steps": 2}, "initialisations": 2},
    )


def made(path: Path, root: Path) -> tuple[DistilledSet, DistilledSet, Path]:
    """The projected set, its parent, and where the data are."""
    plan, store = carried_out(path, root)
    config = plan.cells[0].source
    assert config.parent is not None
    folders = [store.cell(each).folder for each in (config, config.parent, config.source)]
    return load(folders[0] / "distilled.h5"), load(folders[1] / "distilled.h5"), folders[2]


def test_a_learned_set_becomes_text(chain: Path, tmp_path: Path) -> None:
    """Labels and selection are the parent's; what is lost is said; the same again."""
    found, parent, folder = made(chain, tmp_path / "a")
    assert found.token_ids is not None
    assert parent.inputs_embeds is not None
    assert torch.equal(found.labels, parent.labels)
    assert found.about["selection"] == parent.about["selection"]
    facts, tokenizer = found.about["projection"], Prepared(folder).tokenizer
    assert facts["distance"] == pytest.approx(sum(facts["distance_per_sample"]) / 4)
    assert facts["distance"] > 0
    written = [
        tokenizer.decode([t for t in row if t >= 0], skip_special_tokens=True) for row in found.token_ids.tolist()
    ]
    assert facts["tokens"] == sum(len(text.split()) for text in written)
    assert facts["tokens_read_back"] == facts["tokens"]  # words of this vocabulary are read as themselves
    again, _, _ = made(chain, tmp_path / "b")
    assert torch.equal(found.token_ids, again.token_ids)
    assert again.about["projection"] == facts


def test_it_needs_embeddings(experiment: Write) -> None:
    path = experiment(distill={"method": {"name": "project"}, "parent": {"method": {"name": "random"}}})
    with pytest.raises(InputError, match=r"takes none by 'random'.*allowed: ddal"):
        load_experiment(path)
