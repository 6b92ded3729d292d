"""``show``, ``export`` and ``import`` as they are typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from datasets import load_from_disk
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.distilled import load, save
from tests.conftest import carried_out, typed
from tests.distilled.test_published import ddal_folder

Write = Callable[..., Path]


def made(path: Path, root: Path) -> Path:
    """The set of the only cell."""
    plan, store = carried_out(path, root, "distill")
    return store.cell(plan.cells[0].source).folder / "distilled.h5"


@pytest.fixture
def real(experiment: Write, tmp_path: Path) -> Path:
    """Two random sentences of each class."""
    method = {"name": "random", "shots": 2}
    return made(
        experiment(distill={"method": method}, evaluate={"protocol": {"name": "finetune"}}), tmp_path / "checkpoints"
    )


def test_text_is_shown(real: Path) -> None:
    lines = typed("show", real).splitlines()
    assert lines[0].startswith("4 samples of 2 classes (keywords): text of ")
    heads = [line for line in lines if line and line[0].isdigit() and "samples" not in line]
    assert heads == ["0  class 0", "1  class 1", "2  class 0", "3  class 1"]
    texts = [line.strip() for line in lines if line.startswith("    ")]
    keywords = [{"bad", "dull", "weak"}, {"good", "bright", "strong"}]
    assert len(texts) == 4
    assert all(keywords[number % 2] & set(text.split()) for number, text in enumerate(texts))


def test_embeddings_are_shown_by_their_nearest_tokens(experiment: Write, tmp_path: Path) -> None:
    path = experiment(method={"initialise": "real", "labels": "unrestricted", "outer": {"steps": 1, "batch_size": 4}})
    shown = typed("show", made(path, tmp_path / "checkpoints"))
    assert "A sample is 8 vectors. Below each sample stand the tokens nearest to them, which are not the set" in shown
    assert "[CLS]" in shown
    assert "label [" in shown
    assert "mean cosine" in shown


def test_a_set_whose_encoder_is_elsewhere_says_what_it_is(experiment: Write, tmp_path: Path) -> None:
    """Alone in a folder, as somebody has it to whom it was sent."""
    path = experiment(method={"labels": "unrestricted", "outer": {"steps": 1, "batch_size": 4}})
    found = load(made(path, tmp_path / "checkpoints"))
    about = found.about | {"model": found.about["model"] | {"name": "package:no_such_encoder/model"}}
    save(replace(found, about=about), tmp_path / "sent.h5")
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "sent.h5")])
    assert shown.output.startswith(
        "2 samples of 2 classes (keywords): input embeddings of package:no_such_encoder/model"
    )
    assert "1  class 1, label [" in shown.output
    assert "pip install no-such-encoder" in str(shown.exception)


def test_export(real: Path, tmp_path: Path) -> None:
    """Three forms of the same rows, which are the set's."""
    rows = pd.read_csv(typed("export", real, "--to", "csv").strip())
    assert list(rows.columns) == ["text", "label", "class"]
    assert rows["label"].tolist() == load(real).label_ids.tolist()
    file = Path(typed("export", real, "--to", "jsonl", "--out", tmp_path / "set.jsonl").strip())
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["text"] for line in lines] == rows["text"].tolist()
    folder = typed("export", real, "--to", "datasets", "--out", tmp_path / "folder").strip()
    assert load_from_disk(folder)["text"][:] == rows["text"].tolist()
    shown = [line.strip() for line in typed("show", real).splitlines() if line.startswith("    ")]
    assert rows["text"].tolist() == shown


def test_embeddings_are_not_exported(experiment: Write, tmp_path: Path) -> None:
    file = made(experiment(method={"outer": {"steps": 1, "batch_size": 4}}), tmp_path / "checkpoints")
    found = CliRunner().invoke(app, ["export", str(file), "--to", "csv"])
    assert "this set is no text" in str(found.exception)


def test_import(experiment: Write, tmp_path: Path) -> None:
    ddal_folder(tmp_path / "best-ckpt")
    words = ["import", tmp_path / "best-ckpt", experiment(), "--out", tmp_path / "set.h5", "--root", tmp_path / "ck"]
    assert typed(*words).splitlines()[-1].endswith("4 samples of 0, 1")
    assert load(tmp_path / "set.h5").steps == 3
