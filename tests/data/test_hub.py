"""Datasets and encoders of the hub: revisions, access, and everything after stage 1 without a network."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from pipeline.data.hub import explained
from pipeline.errors import InputError
from tests.conftest import FILLERS, KEYWORDS, corpus
from tests.hub_session import Answer, Session
from tests.hub_stand_in import TOKEN, HubStandIn

STAGE1 = "pipeline.stage1_prepare"
CARD = b"""---
configs:
- config_name: pairs
  data_files:
  - {split: train, path: pairs/train-*}
  - {split: validation, path: pairs/validation-*}
- config_name: single
  data_files:
  - {split: train, path: single/train-*}
  - {split: test, path: single/test-*}
---
# like nyu-mll/glue today: several subsets, Parquet files, splits of different names
"""


def pairs(rows: int, seed: int) -> list[dict[str, Any]]:
    """A question of fillers and an answer with the keyword."""
    return [
        {
            "question": f"{FILLERS[row % 30]} {FILLERS[(row + 7) % 30]}",
            "answer": sentence["text"],
            "label": sentence["label"],
        }
        for row, sentence in enumerate(corpus(rows, seed))
    ]


def parquet(rows: list[dict[str, Any]]) -> bytes:
    written = io.BytesIO()
    pd.DataFrame(rows).to_parquet(written)
    return written.getvalue()


def dataset_files(seed: int = 1) -> dict[str, bytes]:
    return {
        "README.md": CARD,
        "pairs/train-00000-of-00001.parquet": parquet(pairs(120, seed)),
        "pairs/validation-00000-of-00001.parquet": parquet(pairs(30, seed + 1)),
        "single/train-00000-of-00001.parquet": parquet(corpus(60, seed)),
        "single/test-00000-of-00001.parquet": parquet(corpus(20, seed + 1)),
    }


@pytest.fixture(scope="module")
def hub(encoder_folder: Callable[[str], Path]) -> Iterator[HubStandIn]:
    hub = HubStandIn()
    model = {path.name: path.read_bytes() for path in encoder_folder("bert").iterdir()}
    hub.add("dataset", "acme/sentences", dataset_files())
    hub.add("dataset", "acme/private", dataset_files(), readers="owner")
    hub.add("dataset", "acme/gated", dataset_files(), readers="nobody")
    hub.add("model", "acme/tiny-bert", model)
    hub.add("model", "acme/secret-bert", model, readers="owner")
    hub.add("model", "acme/no-weights", {"README.md": b"nothing"})
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def online(hub: HubStandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    home = tmp_path_factory.mktemp("hf-home")
    session = Session(HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_HOME=str(home))
    yield session
    session.close()


def task(id: str = "acme/sentences", subset: str | None = "pairs", **more: Any) -> dict[str, Any]:
    splits = {"test": "validation"} if subset == "pairs" else {"test": "test"}
    text = ["question", "answer"] if subset == "pairs" else ["text"]
    source = {"kind": "hub", "id": id, "splits": splits} | ({"subset": subset} if subset else {}) | more
    return {"name": "pairs", "source": source, "text": text}


def write(folder: Path, name: str, described: dict[str, Any], model: str | dict[str, Any]) -> Path:
    """An experiment with a DDAL set of sentence pairs and the whole data beside it."""
    method = {
        "name": "ddal",
        "sequence_length": 8,
        "learning_rate": 0.1,
        "outer": {"steps": 2, "batch_size": 8},
        "validation": {"every": 2, "initialisations": 1},
    }
    experiment = {
        "base": {
            "prepare": {"task": described, "model": model, "dev": 20},
            "distill": {"method": method},
            "evaluate": {"protocol": {"name": "ddal"}, "initialisations": 2},
        },
        "report": {"paper": False},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(experiment))
    return path


def manifests(root: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(root.glob("prepare/*/manifest.json"))]


def refused(answer: Answer, root: Path, *words: str) -> None:
    """One sentence with these words, no traceback, nothing prepared."""
    assert answer.status in (1, 2)
    assert "Traceback" not in answer.err
    for word in words:
        assert word in answer.err
    assert not manifests(root)


@pytest.fixture(scope="module")
def prepared(hub: HubStandIn, online: Session, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(experiment, root) after stage 1 of sentence pairs of one subset."""
    folder = tmp_path_factory.mktemp("prepared")
    path, root = write(folder, "pairs", task(), "acme/tiny-bert"), folder / "root"
    answer = online(STAGE1, path, "--root", root)
    assert answer.status == 0, answer.err
    return path, root


def test_revisions_are_resolved_once_and_recorded(
    prepared: tuple[Path, Path], hub: HubStandIn, online: Session
) -> None:
    path, root = prepared
    dataset, model = hub.repositories["dataset", "acme/sentences"], hub.repositories["model", "acme/tiny-bert"]
    first = dataset.main, model.main
    (made,) = manifests(root)
    (config,) = root.glob("prepare/*/config.json")

    def recorded() -> dict[str, str]:
        return {key: entry["revision"] for key, entry in json.loads((root / "revisions.json").read_text()).items()}

    assert recorded() == {"dataset:acme/sentences@main": first[0], "model:acme/tiny-bert@main": first[1]}
    assert made["model"]["name"] == "acme/tiny-bert"
    assert made["model"]["revision"] == first[1]
    assert made["data"]["revision"] == first[0]
    assert json.loads(config.read_text())["task"]["source"]["revision"] == first[0]

    dataset.commit(dataset_files(seed=50))
    model.commit({"README.md": b"another commit"})
    asked = len(hub.requests)
    again = online(STAGE1, path, "--root", root)
    assert "0 done now, 1 done before, 0 failed" in again.err
    assert recorded() == {"dataset:acme/sentences@main": first[0], "model:acme/tiny-bert@main": first[1]}
    assert len(hub.requests) == asked, "what is recorded needs no question"

    # The same root with another draw: a new cell, still of the recorded revisions.
    other = online(STAGE1, path, "--root", root, "--set", "prepare.seed=7")
    assert other.status == 0, other.err
    assert {manifest["model"]["revision"] for manifest in manifests(root)} == {first[1]}
    assert {manifest["data"]["revision"] for manifest in manifests(root)} == {first[0]}
    # A fresh root sees the moved branch, and other rows behind it.
    fresh = root.parent / "fresh"
    assert online(STAGE1, path, "--root", fresh).status == 0
    (moved,) = manifests(fresh)
    assert moved["model"]["revision"] == model.main != first[1]
    assert moved["data"]["revision"] == dataset.main != first[0]
    assert moved["hashes"]["train"] != made["hashes"]["train"]


def test_pairs_are_encoded_as_pairs(prepared: tuple[Path, Path]) -> None:
    from pipeline.data.prepared import Prepared

    (folder,) = {path.parent for path in prepared[1].glob("prepare/pairs.tiny-bert-*/manifest.json")} & {
        path.parent
        for path in prepared[1].glob("prepare/*/manifest.json")
        if '"seed": 42' in (path.parent / "config.json").read_text()
    }
    split = Prepared(folder).split("test")
    row = split.rows[0]
    assert sorted({tuple(row["token_type_ids"][:1]), (row["token_type_ids"][-1],)}) == [(0,), (1,)]
    words = split.tokenizer.decode(row["input_ids"]).split("[SEP]")
    assert len(words) == 3
    assert set(words[1].split()) & {*KEYWORDS[0], *KEYWORDS[1]}
    assert Prepared(folder).manifest["sizes"] == {"train": 100, "dev": 20, "test": 30}


def test_a_pinned_revision_is_used_as_such(hub: HubStandIn, online: Session, tmp_path: Path) -> None:
    dataset, model = hub.repositories["dataset", "acme/sentences"], hub.repositories["model", "acme/tiny-bert"]
    oldest = next(iter(dataset.commits)), next(iter(model.commits))
    newest = dataset.commit(dataset_files(seed=90))
    path = write(tmp_path, "p", task(revision=oldest[0]), {"name": "acme/tiny-bert", "revision": oldest[1]})
    asked = len(hub.requests)
    assert online(STAGE1, path, "--root", tmp_path / "old").status == 0
    assert not any("/main" in request for request in hub.requests[asked:])
    path = write(tmp_path, "p", task(), {"name": "acme/tiny-bert", "revision": oldest[1]})
    assert online(STAGE1, path, "--root", tmp_path / "new").status == 0
    (old,), (new,) = manifests(tmp_path / "old"), manifests(tmp_path / "new")
    assert (old["data"]["revision"], new["data"]["revision"]) == (oldest[0], newest)
    assert old["model"]["revision"] == new["model"]["revision"] == oldest[1]
    assert old["hashes"]["test"] != new["hashes"]["test"]


def test_private_repositories_need_the_token(hub: HubStandIn, online: Session, tmp_path: Path) -> None:
    path, root = write(tmp_path, "private", task("acme/private"), "acme/secret-bert"), tmp_path / "root"
    refused(online(STAGE1, path, "--root", root), root, "dataset acme/private", "private", "set HF_TOKEN")
    # Pinned by hash, nothing is resolved first: the sentence is the same.
    shas = [hub.repositories[key].main for key in (("dataset", "acme/private"), ("model", "acme/secret-bert"))]
    pinned = write(
        tmp_path, "pinned", task("acme/private", revision=shas[0]), {"name": "acme/secret-bert", "revision": shas[1]}
    )
    refused(online(STAGE1, pinned, "--root", root), root, "dataset acme/private", "private", "set HF_TOKEN")
    answer = online(STAGE1, path, "--root", root, HF_TOKEN=TOKEN)
    assert answer.status == 0, answer.err
    assert len(manifests(root)) == 1
    secret = write(tmp_path, "secret", task(), {"name": "acme/secret-bert", "revision": shas[1]})
    other = tmp_path / "other"
    # The files are in the cache by now; asking anew for another revision shows who may.
    hub.repositories["model", "acme/secret-bert"].commit({"README.md": b"newer"})
    newest = hub.repositories["model", "acme/secret-bert"].main
    answer = online(STAGE1, secret, "--root", other, "--set", f"prepare.model.revision={newest}")
    refused(answer, other, "model acme/secret-bert", "private", "set HF_TOKEN")


@pytest.mark.parametrize(
    ("described", "model", "words"),
    [
        (task("acme/sentencez"), "acme/tiny-bert", ["dataset acme/sentencez", "no such repository", "check the id"]),
        (task(), "acme/tiny-berd", ["model acme/tiny-berd", "no such repository", "check the id"]),
        (
            task(revision="0.9"),
            "acme/tiny-bert",
            ["dataset acme/sentences", "no such revision '0.9'", "leave `revision` out"],
        ),
        (
            task(revision="0" * 40),
            "acme/tiny-bert",
            ["dataset acme/sentences", f"no such revision '{'0' * 40}'", "leave `revision` out"],
        ),
        (task("acme/gated"), "acme/tiny-bert", ["dataset acme/gated", "gated", "accept its terms", "HF_TOKEN"]),
        (task(subset="pears"), "acme/tiny-bert", ["no subset 'pears'", "did you mean 'pairs'", "pairs, single"]),
        (task(subset=None), "acme/tiny-bert", ["several subsets", "source.subset", "pairs, single"]),
        (task(), "acme/no-weights", ["model acme/no-weights", "config.json", "give an encoder"]),
    ],
    ids=["dataset", "model", "tag", "hash", "gated", "subset", "no-subset", "no-model"],
)
def test_what_the_hub_does_not_have(
    online: Session, tmp_path: Path, described: dict[str, Any], model: str, words: list[str]
) -> None:
    path, root = write(tmp_path, "wrong", described, model), tmp_path / "root"
    refused(online(STAGE1, path, "--root", root), root, *words)


def test_after_stage_1_nothing_needs_the_hub(prepared: tuple[Path, Path], tmp_path: Path, hub: HubStandIn) -> None:
    path, root = prepared
    asked = len(hub.requests)
    # Nobody listens at this address, the cache is empty, and the library is told to stay offline.
    closed = HubStandIn()
    closed.close()
    offline = Session(HF_ENDPOINT=closed.url, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "empty"))
    answer = offline("pipeline", "run", path, "--root", root, "--out", tmp_path / "results")
    assert answer.status == 0, answer.err
    assert "prepare: 0 done now, 1 done before, 0 failed" in answer.err
    assert "distill: 1 done now, 0 done before, 0 failed" in answer.err
    assert "evaluate: 1 done now, 0 done before, 0 failed" in answer.err
    assert list((tmp_path / "results").glob("pairs.*.md"))
    assert not any(child.is_file() for child in (tmp_path / "empty").rglob("*"))
    fresh = tmp_path / "fresh"
    refused(
        offline(STAGE1, path, "--root", fresh),
        fresh,
        "hub dataset acme/sentences: not reachable",
        "run stage 1 on a machine with network",
        "local path",
    )
    offline.close()
    assert len(hub.requests) == asked


def test_a_hub_that_is_down(tmp_path: Path) -> None:
    closed = HubStandIn()
    closed.close()
    down = Session(HF_ENDPOINT=closed.url, HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path / "home"))
    path, root = write(tmp_path, "down", task(), "acme/tiny-bert"), tmp_path / "root"
    refused(down(STAGE1, path, "--root", root), root, "hub dataset acme/sentences: not reachable", "with network")
    down.close()


def test_only_the_hub_s_own_errors_are_explained() -> None:
    """A name that cannot be resolved is an HTTP library's error, not a ConnectionError; a bug stays a bug."""
    from huggingface_hub import errors

    with (
        pytest.raises(InputError, match=r"hub model a/b: not reachable .* run stage 1 on a machine with network"),
        explained("model", "a/b"),
    ):
        raise errors.HTTPError("Name or service not known")
    with (
        pytest.raises(InputError, match=r"or give a local path \(there is no file or folder models/mine here\)$"),
        explained("model", "models/mine"),
    ):
        raise errors.HTTPError("Name or service not known")
    for other in (ZeroDivisionError("x"), OSError(28, "No space left on device"), InputError("said already")):
        with pytest.raises(type(other), match=str(other).replace("[", r"\[")), explained("model", "a/b"):
            raise other
