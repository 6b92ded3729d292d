"""card, verify and push, as a user meets them: a set leaves its store, and whether its card holds is found out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

from pipeline import distilled
from pipeline.__main__ import app
from pipeline.config import Evaluate
from pipeline.errors import InputError
from pipeline.launch import run_stage
from pipeline.report.card.facts import card_path, read_facts, read_front_matter
from pipeline.store import Store
from tests.hub_session import Session
from tests.hub_stand_in import TOKEN, HubStandIn

ONE_THREAD = {"threads": 1}


def cells(folder: Path, encoder: Path, **evaluate: Any) -> Evaluate:
    source = {"kind": "files", "train": str(folder / "words.jsonl")}
    method = {
        "name": "ddal",
        "sequence_length": 8,
        "labels": "unrestricted",
        "attention_labels": "cls",
        "initialise": "real",
        "learning_rate": 0.1,
        "outer": {"steps": 4, "batch_size": 8},
        "validation": {"every": 2, "initialisations": 2},
    }
    whole = {
        "source": {
            "source": {
                "task": {"name": "keywords", "source": source, "text": "text"},
                "model": str(encoder),
                "dev": 40,
                "test": 40,
            },
            "method": method,
            "runtime": ONE_THREAD,
        },
        "protocol": {"name": "ddal"},
        "initialisations": 12,
        "splits": ["test"],
        "runtime": ONE_THREAD,
    }
    return Evaluate.model_validate(whole | evaluate)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Callable[..., Path], corpus_file: Path) -> Path:
    """A store in which a set was distilled and evaluated, beside its data: ``root``, ``words.jsonl``."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copyfile(corpus_file, folder / "words.jsonl")
    config, store = cells(folder, encoder_folder("bert", pretrained=True)), Store(folder / "root")
    torch.set_num_threads(1)
    for stage, cell in (("prepare", config.source.source), ("distill", config.source), ("evaluate", config)):
        assert not run_stage([store.cell(cell)], stage, store).failed  # type: ignore[arg-type]
    return folder


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def carded(home: Path) -> Path:
    """The set, with its card."""
    (file,) = (home / "root" / "distill").glob("*/distilled.h5")
    done = command("card", file, "--license", "mit", "--language", "en")
    assert done.exit_code == 0, done.output
    return file


@pytest.fixture
def released(carded: Path, tmp_path: Path) -> Path:
    """The set and its card in another folder under another name, as a reader gets them."""
    (tmp_path / "released").mkdir()
    file = tmp_path / "released" / "words.h5"
    shutil.copyfile(carded, file)
    shutil.copyfile(carded.with_suffix(".md"), file.with_suffix(".md"))
    return file


def edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the facts in a card, and nothing else that follows from them."""
    path = card_path(file)
    _, head, body = path.read_text().split("---\n", 2)
    front = yaml.safe_load(head)
    change(front["textdd"])
    path.write_text(f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n{body}")


def test_the_card_says_what_the_set_is(carded: Path, home: Path) -> None:
    text, facts = carded.with_suffix(".md").read_text(), read_facts(carded)
    assert facts is not None
    front = read_front_matter(text)
    assert (front["license"], front["language"], front["task_categories"]) == ("mit", ["en"], ["text-classification"])
    (metrics,) = [result["metrics"] for result in front["model-index"][0]["results"]]
    rows = (home / "root" / "evaluate").glob("*/results.csv")
    values = [float(line.split(",")[3]) for line in next(rows).read_text().splitlines() if ",test,accuracy," in line]
    mean = sum(values) / 12
    std = (sum((value - mean) ** 2 for value in values) / 11) ** 0.5
    assert metrics[0]["value"] == pytest.approx(mean, abs=5e-5)
    assert f"| test (40 rows) | accuracy | {100 * mean:.1f} ± {100 * std:.1f} | 12 |" in text
    about = distilled.load(carded).about
    digest = about["content"]["task"]["source"]["train"]
    for fact in (
        digest,
        about["data"]["hashes"]["test"],
        about["model"]["embedding_hash"],
        facts.sha256,
        "fresh students",
    ):
        assert fact in text
    for section in ("Use", "Scores", "Made from", "How it was selected", "Recipe", "Audit", "Limits"):
        assert f"\n## {section}\n" in text
    assert "scored by 1 evaluation (12 students)" in text


def test_the_three_lines_of_the_card_run(carded: Path, encoder_folder: Callable[..., Path], tmp_path: Path) -> None:
    text = carded.with_suffix(".md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    namespace: dict[str, Any] = {}
    exec(code.replace('"distilled.h5"', repr(str(carded))), namespace)
    assert namespace["found"].steps == 1


def test_a_true_card_holds(carded: Path) -> None:
    done = command("verify", carded, "--initialisations", 6)
    assert done.exit_code == 0, done.output
    assert "the card's numbers hold" in done.output
    assert "new classifiers of seed 1" in done.output
    assert "(n 12)" in done.output
    assert "(n 6)" in done.output


def lift(points: float) -> Callable[[dict[str, Any]], None]:
    def change(facts: dict[str, Any]) -> None:
        for score in facts["evaluations"][0]["scores"]:
            score["mean"] += points
            score["std"] = 0.01

    return change


def test_scores_that_were_made_up_are_found(released: Path, home: Path) -> None:
    """In facts, table and index alike: the card is whole, and only new students can tell."""
    edit(released, lift(0.4))
    from pipeline.report.card.text import card_text

    facts = read_facts(released)
    assert facts is not None
    card_path(released).write_text(card_text(distilled.load(released), facts))
    done = command("verify", released, "--initialisations", 4, "--root", home / "root")
    assert done.exit_code == 1
    assert "DO NOT hold" in done.output
    assert "contradicts itself" not in done.output
    refused = [line.split()[1:3] for line in done.output.splitlines() if line.endswith("DOES NOT HOLD")]
    assert ["accuracy", "mean"] in refused


def test_a_card_that_was_edited_is_found(released: Path, home: Path) -> None:
    path = card_path(released)
    text = path.read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("| test (40 rows) | accuracy")]
    path.write_text(text.replace(line, line.replace("| 12 |", "| 100 |")))
    done = command("verify", released, "--initialisations", 2, "--root", home / "root")
    assert done.exit_code == 1
    assert f"contradicts itself: not what its front matter (textdd) gives: the line {line!r}" in done.output
    edit(released, lift(0.0))
    assert "model-index" not in command("verify", released, "--initialisations", 2, "--root", home / "root").output
    edit(released, lift(0.1))
    assert (
        "(textdd) gives: model-index"
        in command("verify", released, "--initialisations", 2, "--root", home / "root").output
    )


def test_a_set_that_was_changed_is_found(released: Path) -> None:
    with h5py.File(released, "r+") as file:
        file["labels"][:] = file["labels"][:][::-1]
    with pytest.raises(InputError, match=r"words.md: is the card of another file"):
        CliRunner().invoke(app, ["verify", str(released)], catch_exceptions=False)


def test_a_released_set_needs_no_store(released: Path, home: Path, tmp_path: Path) -> None:
    """Elsewhere, with the data under another name, the set and its card are enough."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "decoy.jsonl").write_text((home / "words.jsonl").read_text().replace("good", "bad"))
    gone = home / "words.jsonl"
    gone.rename(elsewhere / "renamed.jsonl")
    try:
        with pytest.raises(InputError, match=r"words.jsonl: no such data with sha256 .* here; say where"):
            CliRunner().invoke(app, ["verify", str(released), "--root", str(tmp_path / "new")], catch_exceptions=False)
        with pytest.raises(InputError, match=r"looked at .*decoy.jsonl"):
            CliRunner().invoke(
                app,
                ["verify", str(released), "--data", str(elsewhere / "decoy.jsonl"), "--root", str(tmp_path / "new")],
                catch_exceptions=False,
            )
        done = command("verify", released, "--initialisations", 5, "--data", elsewhere, "--root", tmp_path / "new")
        assert done.exit_code == 0, done.output
        before = card_path(released).read_text()
        again = command("card", released, "--root", tmp_path / "empty")
        assert "not audited" in again.stderr
        after = card_path(released).read_text()
        assert after == before.replace("distilled.h5", "words.h5").replace("name: distilled\n", "name: words\n")
        assert (
            command(
                "verify", released, "--initialisations", 5, "--root", tmp_path / "new", "--data", elsewhere
            ).exit_code
            == 0
        )
    finally:
        (elsewhere / "renamed.jsonl").rename(gone)


def test_other_data_under_the_same_name_are_refused(released: Path, home: Path, tmp_path: Path) -> None:
    """A set whose file does not say what its data counted as: their tokens still decide."""
    found = distilled.load(released)
    distilled.save(replace(found, about={key: found.about[key] for key in found.about if key != "content"}), released)
    card_path(released).unlink()
    (tmp_path / "words.jsonl").write_text((home / "words.jsonl").read_text().replace("good", "bad"))
    gone = home / "words.jsonl"
    gone.rename(tmp_path / "kept")
    try:
        done = command("card", released, "--data", tmp_path, "--root", tmp_path / "new")
    finally:
        (tmp_path / "kept").rename(gone)
    assert "the set was made from other data: train" in done.stderr
    assert "verify needs one" in done.stderr


def test_scores_of_a_twin_are_not_taken(released: Path, home: Path) -> None:
    """Another machine's set by the same config is another set."""
    with h5py.File(released, "r+") as file:
        file["labels"][:] = file["labels"][:] + 1e-3
    with pytest.raises(InputError, match=r"is another set \(sha256 differs\), so that scores in .*root are not this"):
        CliRunner().invoke(app, ["card", str(released), "--root", str(home / "root")], catch_exceptions=False)


def test_without_a_card(carded: Path, tmp_path: Path) -> None:
    shutil.copyfile(carded, tmp_path / "bare.h5")
    for arguments in (
        ["verify", str(tmp_path / "bare.h5")],
        ["push", str(tmp_path / "bare.h5"), "me/set", "--dry-run"],
    ):
        with pytest.raises(InputError, match=r"bare.h5: has no card \(bare.md\); write it: python -m pipeline card"):
            CliRunner().invoke(app, arguments, catch_exceptions=False)
    command("card", tmp_path / "bare.h5", "--root", tmp_path / "empty", "--no-audit")
    with pytest.raises(
        InputError, match=r"bare.md: claims no scores that could be verified; .* --root STORE takes them"
    ):
        CliRunner().invoke(app, ["verify", str(tmp_path / "bare.h5")], catch_exceptions=False)


def test_a_dry_run_says_what_would_go(released: Path) -> None:
    done = command("push", released, "me/words", "--dry-run")
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[0] == "would go to https://huggingface.co/datasets/me/words:"
    assert [line.split()[:2] for line in lines[1:3]] == [
        ["distilled.h5", f"{released.stat().st_size:,}"],
        ["README.md", f"{card_path(released).stat().st_size:,}"],
    ]
    assert lines[3].strip() == "card: its front matter is valid"
    with pytest.raises(InputError, match="not a repository's id"):
        CliRunner().invoke(app, ["push", str(released), "me/words/more", "--dry-run"], catch_exceptions=False)
    with pytest.raises(InputError, match=r"words: not a repository's id; give OWNER/NAME"):
        CliRunner().invoke(app, ["push", str(released), "words", "--dry-run"], catch_exceptions=False)


def test_a_card_without_a_licence_does_not_go(released: Path) -> None:
    edit(released, lambda facts: None)
    path = card_path(released)
    path.write_text(path.read_text().replace("license: mit\n", "license: unknown\n", 1))
    assert "license: unknown; say which" in command("push", released, "me/words", "--dry-run").output
    with pytest.raises(InputError, match="license: unknown; say which"):
        CliRunner().invoke(app, ["push", str(released), "me/words"], catch_exceptions=False)


def test_set_and_card_reach_the_hub_and_hold_there(released: Path, home: Path, tmp_path: Path) -> None:
    hub = HubStandIn()
    online = Session(HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path / "hf"), HF_HUB_DISABLE_XET="1")
    try:
        refused = online("pipeline", "push", released, "me/words")
        assert refused.status == 2
        assert refused.err.splitlines()[-1].startswith("error: hub dataset me/words: ")
        assert not hub.repositories
        done = online("pipeline", "push", released, "me/words", "--private", HF_TOKEN=TOKEN)
        assert done.status == 0, done.err
        again = online("pipeline", "push", released, "me/words", HF_TOKEN=TOKEN)
        assert again.status == 0, again.err
    finally:
        online.close()
        hub.close()
    repository = hub.repositories["dataset", "me/words"]
    assert repository.readers == "owner"
    assert done.out.strip().endswith(f"/datasets/me/words/commit/{list(repository.commits)[1]}")
    tree = repository.commits[repository.main]
    assert sorted(tree) == [".gitattributes", "README.md", "distilled.h5"]
    (tmp_path / "clone").mkdir()
    for name, content in tree.items():
        (tmp_path / "clone" / name).write_bytes(content)
    clone = tmp_path / "clone" / "distilled.h5"
    verified = command("verify", clone, "--initialisations", 5, "--root", home / "root")
    assert "the card's numbers hold" in verified.output
