"""Embeddings to text: by hand, deterministic, framed as the tokenizer frames, with what is lost on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline.config import Project
from pipeline.config import load as load_experiment
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet, load
from pipeline.distilled.text import texts
from pipeline.errors import InputError
from pipeline.methods.learned import real_tokens
from pipeline.methods.projection import framed, projected
from tests.conftest import VOCABULARY, build_tokenizer, carried_out, corpus

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


def test_kept_special_tokens_make_no_pairs_of_single_texts(chain: Path, tmp_path: Path) -> None:
    """A separator inside says nothing of where a first text would end: there is one text."""
    whole = yaml.safe_load(chain.read_text())
    whole["base"]["distill"]["method"]["special"] = "kept"
    parent = whole["base"]["distill"]["parent"]["method"]
    parent["sequence_length"], parent["outer"]["lr"] = 24, 1e-6  # tokens stay what they began as, with their end
    chain.write_text(yaml.safe_dump(whole))
    found, _, folder = made(chain, tmp_path / "a")
    assert found.token_ids is not None
    assert found.token_ids.eq(SEP).any(dim=1).all()
    tokenizer = Prepared(folder).tokenizer
    words = [[token for token in row if token not in (-1, CLS, SEP, PAD)] for row in found.token_ids.tolist()]
    assert texts(found, tokenizer) == [(tokenizer.decode(row).strip(),) for row in words]


def test_pairs_keep_their_separator_by_hand(tmp_path: Path) -> None:
    """It stands where it began, whatever is nearest there; of one that was cut off before, the second text is empty."""
    tokenizer = build_tokenizer(tmp_path)
    rows = torch.tensor([[PAD, GOOD, BAD, GOOD, PAD, BAD], [CLS, BAD, SEP, GOOD, GOOD, GOOD]])
    dropped, kept = Project(name="project"), Project(name="project", special="kept")
    assert framed(rows, tokenizer, dropped, 40, [3, 6]) == [
        [CLS, GOOD, BAD, SEP, BAD, SEP],
        [CLS, BAD, GOOD, GOOD, GOOD, SEP, SEP],
    ]
    assert framed(rows, tokenizer, kept, 40, [3, 6])[0] == [PAD, GOOD, BAD, SEP, PAD, BAD]
    assert framed(rows[1:], tokenizer, dropped, 5, [1])[0] == [CLS, SEP, GOOD, GOOD, SEP]  # none left of the first


@pytest.fixture
def pairs(experiment: Write, tmp_path: Path) -> Callable[..., Path]:
    """A projection of embeddings that were learned on a task of pairs."""

    def pairs(method: dict[str, Any], start: dict[str, Any] | None = None, **options: Any) -> Path:
        rows = [
            {"one": a["text"], "other": b["text"], "label": a["label"]}
            for a, b in zip(corpus(120, seed=5), corpus(120, seed=6), strict=True)
        ]
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = {"kind": "files", "train": str(tmp_path / "pairs.jsonl")}
        plain = {"name": "ddal", "shots": 2, "batch_shots": 2, "sequence_length": 12, "initialise": "real"}
        parent: dict[str, Any] = {"method": plain | {"outer": {"steps": 2, "batch_size": 8}} | method}
        if start is not None:
            parent["parent"] = {"method": parent["method"] | start, "seed": 9}
        return experiment(
            prepare={"task": {"name": "pairs", "source": source, "text": ["one", "other"]}},
            distill={"method": {"name": "project", "shots": 2, **options}, "parent": parent},
            evaluate={"protocol": {"name": "finetune", "steps": 2}},
        )

    return pairs


@pytest.mark.parametrize("start", [None, {"outer": {"steps": 1, "batch_size": 8, "lr": 1e-9}}])
def test_pairs_that_were_hardly_moved_are_the_real_ones(
    pairs: Callable[..., Path], tmp_path: Path, start: dict[str, Any] | None
) -> None:
    """Cut to the length of the samples, and numbered as the tokenizer numbers them; also through a warm start."""
    found, _, folder = made(pairs({"outer": {"steps": 2, "batch_size": 8, "lr": 1e-9}}, start), tmp_path / "a")
    prepared = Prepared(folder)
    seed = 42 if start is None else 9
    rows = real_tokens(torch.arange(4) % 2, 12, prepared, seed)
    assert found.token_ids is not None
    assert found.token_type_ids is not None
    written = texts(found, prepared.tokenizer)
    for row, (first, second) in zip(rows.tolist(), written, strict=True):
        end = row.index(SEP)
        assert first == prepared.tokenizer.decode(row[1:end])
        assert second == prepared.tokenizer.decode([t for t in row[end + 1 :] if t not in (SEP, PAD)])
    again = prepared.tokenizer(*map(list, zip(*written, strict=True)))
    lengths = [len(ids) for ids in again["input_ids"]]
    assert [row[:n] for row, n in zip(found.token_ids.tolist(), lengths, strict=True)] == again["input_ids"]
    assert [row[:n] for row, n in zip(found.token_type_ids.tolist(), lengths, strict=True)] == again["token_type_ids"]
    assert "where it stood" in found.about["projection"]["pairs"]


def test_learned_pairs_stay_pairs_and_noise_is_one_text(pairs: Callable[..., Path], tmp_path: Path) -> None:
    steep = {"outer": {"steps": 4, "batch_size": 8, "lr": 3.0, "optimizer": "sgd"}}
    found, _, folder = made(pairs(steep, special="barred"), tmp_path / "a")
    tokenizer = Prepared(folder).tokenizer
    assert [len(text) for text in texts(found, tokenizer)] == [2] * 4
    noise, _, _ = made(pairs(steep | {"initialise": "noise"}), tmp_path / "b")
    assert [len(text) for text in texts(noise, tokenizer)] == [1] * 4
    assert noise.token_type_ids is None
    assert noise.about["projection"]["pairs"].startswith("one text, without separator: ")


def test_it_needs_embeddings(experiment: Write) -> None:
    path = experiment(distill={"method": {"name": "project"}, "parent": {"method": {"name": "random"}}})
    with pytest.raises(InputError, match=r"takes none by 'random'.*allowed: ddal"):
        load_experiment(path)
