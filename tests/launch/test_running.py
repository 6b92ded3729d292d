"""Cells x stages: who runs, who is skipped, what a failure does to the others."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import launch, stage1_prepare, stopping
from pipeline.config import load
from pipeline.errors import InputError, StageError
from pipeline.launch import running
from pipeline.store import Store

Write = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, store: Store) -> Callable[..., int]:
    """``python -m pipeline.stageN_… ARGUMENTS`` in this process; its exit status."""

    def command(stage: launch.StageName, *arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["stage", *map(str, arguments), "--root", str(store.root)])
        with pytest.raises(SystemExit) as end:
            launch.stage_command(stage)
        return int(end.value.code or 0)

    return command


def cells(path: Path, store: Store, stage: launch.StageName) -> list[Any]:
    return launch.stage_cells(load(path), store, stage)


def test_every_artifact_is_listed_once_in_the_order_of_the_grid(experiment: Write, store: Store) -> None:
    path = experiment(grids=[{"distill.seed": [1, 2], "evaluate.seed": [5, 6, 7]}])
    assert [len(cells(path, store, stage)) for stage in launch.MODULES] == [1, 2, 6]
    assert [cell.config.seed for cell in cells(path, store, "distill")] == [1, 2]
    assert [(cell.config.source.seed, cell.config.seed) for cell in cells(path, store, "evaluate")] == [
        (1, 5), (1, 6), (1, 7), (2, 5), (2, 6), (2, 7)
    ]  # fmt: skip


def test_index_is_a_position_in_the_full_grid(
    experiment: Write, store: Store, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    path = experiment(grids=[{"prepare.seed": [1, 2, 3]}])
    for _ in range(2):  # the second time cell 1 is done, and index 1 still means it
        assert command("prepare", path, "--index", 1) == 0
        assert [cell.state for cell in cells(path, store, "prepare")] == ["missing", "done", "missing"]
    assert "prepare: 0 done now, 1 done before, 0 failed" in capsys.readouterr().err


def test_a_gradient_is_checked_by_stage_2_alone_unless_told_not_to(
    experiment: Write,
    store: Store,
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in jobs of plain sbatch, which nothing has checked before."""

    def wrong(cell: Any, *_: object) -> None:
        raise StageError(f"the hypergradient of {cell.folder.name} is wrong")

    monkeypatch.setattr(running, "check_gradient", wrong)
    path = experiment(method={"outer": {"steps": 1, "batch_size": 8}, "validation": {"split": "none"}})
    assert command("prepare", path) == 0
    assert command("distill", path) == 1
    assert " is wrong" in capsys.readouterr().err
    assert [cell.state for cell in cells(path, store, "distill")] == ["failed"]
    assert command("distill", path, "--no-check") == 0
    assert command("evaluate", path) == 0


@pytest.mark.parametrize("index", [3, -1, 100])
def test_an_index_out_of_range(
    experiment: Write, store: Store, command: Callable[..., int], capsys: pytest.CaptureFixture[str], index: int
) -> None:
    path = experiment(grids=[{"prepare.seed": [1, 2, 3]}])
    assert command("prepare", path, "--index", index) == 2
    said = capsys.readouterr().err
    assert said == f"error: --index {index}: this grid has the positions 0 to 2\n"
    assert not store.root.exists()


def test_a_later_stage_says_what_it_needs(
    experiment: Write, store: Store, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    path = experiment()
    assert command("evaluate", path) == 1
    (source,) = cells(path, store, "distill")
    said = capsys.readouterr().err
    assert f"needs {source.folder}, which is missing" in said
    assert "run it first: python -m pipeline.stage2_distill CONFIG" in said
    assert "Traceback" not in said
    assert not store.root.exists()


def test_a_later_stage_names_the_failure_that_it_goes_back_to(
    experiment: Write, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise InputError("train has no column 'subjct'")

    monkeypatch.setattr(stage1_prepare, "run", refuse)
    loaded = load(experiment())
    (first,) = launch.stage_cells(loaded, store, "prepare")
    launch.run_stage([first], "prepare", store)
    (reason,) = launch.run_stage(launch.stage_cells(loaded, store, "evaluate"), "evaluate", store).failed.values()
    assert reason == f"needs {first.folder}, which is failed; it failed: train has no column 'subjct'"


def test_a_failing_cell_does_not_stop_the_others_and_is_run_again(
    experiment: Write, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = experiment(grids=[{"prepare.seed": [1, 2, 3, 4]}])
    real = stage1_prepare.run
    broken = {2: InputError("the second was wrong"), 3: ZeroDivisionError("by zero")}

    def run(config: Any, out: Path) -> None:
        if config.seed in broken:
            raise broken[config.seed]
        (real if config.seed == 1 else lambda *_: None)(config, out)

    monkeypatch.setattr(stage1_prepare, "run", run)
    outcome = launch.run_stage(cells(path, store, "prepare"), "prepare", store)
    assert (outcome.ran, outcome.found, len(outcome.failed)) == (2, 0, 2)
    assert list(outcome.failed.values()) == ["the second was wrong", "ZeroDivisionError: by zero"]
    made = cells(path, store, "prepare")
    assert [cell.state for cell in made] == ["done", "failed", "failed", "done"]
    assert made[1].failure() == "the second was wrong"
    assert "pid" in made[1].attempts()[0].who
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said
    assert said.count("Traceback") == 1, "a bug has a traceback, a user's mistake has none"

    broken.clear()
    outcome = launch.run_stage(cells(path, store, "prepare"), "prepare", store)
    assert (outcome.ran, outcome.found, outcome.failed) == (2, 2, {})
    assert [cell.state for cell in cells(path, store, "prepare")] == ["done"] * 4
    assert [attempt.outcome for attempt in made[1].attempts()] == ["failed", "done"]


def test_a_held_cell_and_what_reads_it_are_passed_by(
    experiment: Write, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    path = experiment(grids=[{"prepare.seed": [1]}])
    (cell,) = cells(path, store, "prepare")
    said = []
    with cell.claim():
        for stage in ("prepare", "distill"):
            outcome = launch.run_stage(cells(path, store, stage), stage, store)
            said += [*outcome.failed.values(), str(outcome)]
    held = "0 done now, 0 done before, 0 failed, 1 left to other processes: run again after them"
    assert said[1::2] == [held, held]
    assert "held by" in said[0]
    assert "which is running" in said[2]
    assert ": failed" not in capsys.readouterr().err


def test_a_done_cell_of_another_default_is_not_reused(experiment: Write, store: Store) -> None:
    path = experiment()
    (cell,) = cells(path, store, "prepare")
    with cell.claim():
        pass
    stored = json.loads((cell.folder / "config.json").read_text())
    (cell.folder / "config.json").write_text(json.dumps(stored | {"max_length": 7}))
    outcome = launch.run_stage([cell], "prepare", store)
    assert outcome.found == 0
    (reason,) = outcome.failed.values()
    assert "prepare.max_length = 7, but that default is now None" in reason


def test_pinning_without_a_network_says_so_and_leaves_nothing(experiment: Write, store: Store) -> None:
    path = experiment(prepare={"model": "acme/never-heard-of"})
    with pytest.raises(InputError) as refusal:
        launch.pin(load(path), store)
    for word in ("hub model acme/never-heard-of: not reachable", "run stage 1 on a machine with network", "local path"):
        assert word in str(refusal.value)
    assert not store.root.exists()


def test_pinning_uses_the_record_and_reaches_every_cell(experiment: Write, store: Store) -> None:
    store.places.record("model", "acme/bert", None, "a" * 40)
    store.places.record("dataset", "acme/data", "v2", "b" * 40)
    task = {"name": "t", "source": {"kind": "hub", "id": "acme/data", "revision": "v2"}, "text": ["x"]}
    path = experiment(
        prepare={"task": task, "model": "acme/bert"}, grids=[{"prepare.seed": [1, 2], "distill.seed": [1, 2]}]
    )
    pinned = launch.pin(load(path), store)
    assert len(pinned.cells) == 4
    for before, after in zip(load(path).cells, pinned.cells, strict=True):
        prepare = after.source.source
        assert (prepare.model.revision, prepare.task.source.revision) == ("a" * 40, "b" * 40)
        assert prepare.seed == before.source.source.seed
        assert store.cell(before).digest == store.cell(after).digest, "pinned or not, the same address"


@pytest.mark.parametrize(("error", "status"), [(InputError("x"), 2), (StageError("x"), 2)])
def test_a_sentence_and_a_status(error: Exception, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        stopping.guarded(command)
    assert end.value.code == status
    assert capsys.readouterr().err == "error: x\n"


# --- stage 1 on its own --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        ({"max_length": 41}, ["max_length: 41 is more than the 40 usable positions", "give at most 40"]),
        ({"dev": 1}, ["prepare.dev: 1 gives 1 rows for the 2 classes", "give at least 2"]),
        ({"test": None}, ["has no test split", "prepare.test: 0.1"]),
    ],
    ids=["max_length", "dev", "test"],
)
def test_what_stage_1_refuses(experiment: Write, store: Store, prepare: dict[str, Any], words: list[str]) -> None:
    (cell,) = cells(experiment(prepare=prepare), store, "prepare")
    outcome = launch.run_stage([cell], "prepare", store)
    (reason,) = outcome.failed.values()
    for word in words:
        assert word in reason
    assert {path.name for path in cell.folder.iterdir()} == {"config.json", "attempts"}


def test_max_length_knows_the_padding_offset_of_roberta(
    experiment: Write, store: Store, encoder_folder: Callable[[str], Path]
) -> None:
    model = str(encoder_folder("mpnet"))
    (cell,) = cells(experiment(prepare={"model": model, "max_length": 39}), store, "prepare")
    (reason,) = launch.run_stage([cell], "prepare", store).failed.values()
    assert f"max_length: 39 is more than the 38 usable positions of {model}; give at most 38" in reason
    (cell,) = cells(experiment(prepare={"model": model}), store, "prepare")
    assert launch.run_stage([cell], "prepare", store).ran == 1
    assert json.loads((cell.folder / "manifest.json").read_text())["max_length"] == 38


def test_what_stage_1_writes_is_deterministic(experiment: Write, store: Store, tmp_path: Path) -> None:
    path = experiment(prepare={"max_length": 9})
    manifests = []
    for root in ("one", "other"):
        other = Store(tmp_path / root)
        (cell,) = cells(path, other, "prepare")
        assert launch.run_stage([cell], "prepare", other).ran == 1
        manifests.append(json.loads((cell.folder / "manifest.json").read_text()))
    assert manifests[0] == manifests[1]
    made = manifests[0]
    assert made["sizes"] == {"train": 160, "dev": 40, "test": 40}
    assert made["class_counts"] == {"train": [80, 80], "dev": [20, 20], "test": [20, 20]}
    assert made["classes"] == ["0", "1"]
    assert made["max_length"] == 9
    assert len({made["hashes"][split] for split in ("train", "dev", "test")}) == 3
    assert made["data"]["kind"] == "files"


@pytest.mark.parametrize(
    ("family", "method", "words"),
    [
        ("mpnet", {"sequence_length": 39}, ["sequence_length: 39 is more than the 38 usable positions", "at most 38"]),
        ("bert", {"sequence_length": 41}, ["sequence_length: 41 is more than the 40 usable positions", "at most 40"]),
        ("gpt2", {}, ["GPT2ForSequenceClassification does not classify by its first token", "{name: finetune}"]),
        ("bert", {"validation": {"examples": 1}}, ["validation on 1 dev rows for 2 classes", "give more rows"]),
    ],
    ids=["roberta-like", "bert", "causal", "validation"],
)
def test_what_stage_2_refuses_before_it_computes(
    experiment: Write,
    store: Store,
    encoder_folder: Callable[[str], Path],
    family: str,
    method: dict[str, Any],
    words: list[str],
) -> None:
    path = experiment(prepare={"model": str(encoder_folder(family))}, method=method)
    assert launch.run_stage(cells(path, store, "prepare"), "prepare", store).ran == 1
    (cell,) = cells(path, store, "distill")
    (reason,) = launch.run_stage([cell], "distill", store).failed.values()
    for word in words:
        assert word in reason
    assert {path.name for path in cell.folder.iterdir()} == {"config.json", "attempts"}
