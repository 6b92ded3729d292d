"""card and verify of a set of sentence vectors, its prefixes among the claims; the three lines of its card."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer
from typer.testing import CliRunner, Result

from pipeline import distilled
from pipeline.__main__ import app
from pipeline.config import Evaluate
from pipeline.data.prepared import Prepared
from pipeline.errors import InputError
from pipeline.launch import run_stage
from pipeline.report.card.audit import audit
from pipeline.report.card.facts import read_facts
from pipeline.store import Store


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module", params=[False, True], ids=["raw", "centred"])
def cell(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    encoder_folder: Callable[..., Path],
    corpus_file: Path,
) -> tuple[Evaluate, Path]:
    """Two vectors per class, distilled in a few steps, and evaluated whole and by its first sample per class."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copyfile(corpus_file, folder / "words.jsonl")
    task = {"name": "keywords", "source": {"kind": "files", "train": str(folder / "words.jsonl")}, "text": "text"}
    prepare = {"task": task, "model": str(encoder_folder("bert", pretrained=True)), "dev": 40, "test": 40}
    method = {
        **{"name": "bptt", "student": {"name": "mlp", "width": 8}, "shots": 2, "steps": 5, "learning_rate": 0.01},
        **{"outer": {"steps": 3, "batch_size": 32}, "validation": {"every": 3, "initialisations": 2}},
    }
    distill = {"source": prepare | {"vectors": {"centred": request.param}}, "method": method, "runtime": {"threads": 1}}
    protocol = {"name": "vectors", "steps": 20, "lr": 0.01}
    whole = {"source": distill, "protocol": protocol, "initialisations": 12, "splits": ["test"]}
    config = Evaluate.model_validate(whole)
    first, store = config.model_copy(update={"prefix": 1}), Store(folder / "root")
    torch.set_num_threads(1)
    plan = (("prepare", config.source.source), ("distill", config.source), ("evaluate", config), ("evaluate", first))
    for stage, each in plan:
        assert not run_stage([store.cell(each)], stage, store).failed  # type: ignore[arg-type]
    file = store.cell(config.source).folder / "distilled.h5"
    done = command("card", file, "--license", "mit")
    assert done.exit_code == 0, done.output
    return config, file


def test_the_card_says_what_the_vectors_are(cell: tuple[Evaluate, Path]) -> None:
    _, file = cell
    text, facts = file.with_suffix(".md").read_text(), read_facts(file)
    assert facts is not None
    assert "keywords, distilled: Full-BPTT (T 5)" in text
    found = distilled.load(file)
    kind = "first-token" if found.vector_mean is None else "first-token, less the mean of the training rows"
    assert f"4 synthetic sentence vectors (width 32, {kind}): no text" in text
    assert ("| `vector_mean` | [32] |" in text) == (found.vector_mean is not None)
    assert "| `vectors` | [4, 32] |" in text
    assert "Distilled by Full-BPTT (T 5) (Feng, Vedantam and Kempe, ICLR 2024) for the student mlp, width 8: " in text
    assert sorted(each.prefix or 2 for each in facts.evaluations) == [1, 2]
    assert any(
        each.how.startswith("the first 1 per class; vectors (revision 1: mlp, width 8") for each in facts.evaluations
    )
    assert all(score.n == 12 for each in facts.evaluations for score in each.scores)
    assert "cosine distance to the nearest row of test" in text
    assert "The first samples as text (the nearest training row by cosine):" in text


def test_its_numbers_hold_and_others_do_not(cell: tuple[Evaluate, Path], tmp_path: Path) -> None:
    _, file = cell
    done = command("verify", file, "--initialisations", 8)
    assert done.exit_code == 0, done.output
    assert done.output.count("new classifiers of seed 1") == 2
    assert "the card's numbers hold" in done.output


def test_the_set_brings_the_mean_of_its_training_rows_where_they_are_centred(cell: tuple[Evaluate, Path]) -> None:
    config, file = cell
    prepared = Prepared(Store.of(file.parent).cell(config.source.source).folder)
    found, rows = distilled.load(file), prepared.vectors("train").vectors
    vectors = config.source.source.vectors
    assert vectors is not None
    assert (rows.mean(dim=0).abs().max() < 1e-5) == vectors.centred
    assert (found.vector_mean is not None) == vectors.centred
    with pytest.raises(InputError, match="mean over train is subtracted"):
        audit(replace(found, vector_mean=None if vectors.centred else torch.zeros(32)), prepared)


def test_the_three_lines_of_the_card_classify(cell: tuple[Evaluate, Path]) -> None:
    config, file = cell
    prepared = Prepared(Store.of(file.parent).cell(config.source.source).folder)
    found, encoder = distilled.load(file), AutoModel.from_pretrained(prepared.model_folder)
    model = found.classifier(encoder)
    split, tokenizer = prepared.split("test"), AutoTokenizer.from_pretrained(prepared.model_folder)
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in split.rows["input_ids"]]
    names = found.predict(model, texts, tokenizer)
    right = sum(name == prepared.classes[label] for name, label in zip(names, split.labels.tolist(), strict=True))
    vectors = prepared.vectors("test").vectors
    by_student = model.student(vectors).argmax(dim=1)
    assert right == int((by_student == split.labels).sum())


def test_a_test_row_in_the_set_is_flagged(cell: tuple[Evaluate, Path]) -> None:
    config, file = cell
    prepared = Prepared(Store.of(file.parent).cell(config.source.source).folder)
    found = distilled.load(file)
    vectors = found.vectors.clone()  # type: ignore[union-attr]
    assert not any(each.flagged for each in audit(found, prepared).findings if "nearest row" in each.about)
    vectors[1] = 3 * prepared.vectors("test").vectors[17]
    leaked = audit(replace(found, vectors=vectors), prepared)
    (flagged,) = [each for each in leaked.findings if each.flagged and "nearest row" in each.about]
    assert flagged.about == "cosine distance to the nearest row of test"
    assert "1 of 4 are rows" in flagged.measured
    other = replace(found, about=found.about | {"vectors": found.about["vectors"] | {"encoder_hash": "0"}})
    with pytest.raises(InputError, match="those of another encoder"):
        audit(other, prepared)
