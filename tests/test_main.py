"""The command line as a user meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from pipeline import __main__, launch, release, stage4_aggregate
from pipeline.config import load
from pipeline.config.cluster import JOBS
from pipeline.errors import StageError
from pipeline.launch import command as launch_command
from pipeline.store import Store

Write = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]
HEAVY = ("torch", "transformers", "datasets", "pandas", "sklearn", "scipy", "matplotlib", "h5py", "numpy")
WHAT_IS_IMPORTED = f"""
import sys
from pipeline.__main__ import main
try:
    main()
except SystemExit as end:
    status = end.code or 0
print("imported", [name for name in {HEAVY!r} if name in sys.modules])
sys.exit(status)
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """``python -m pipeline ARGUMENTS`` in this process, in an empty folder: (status, stdout, stderr)."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pipeline", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            __main__.main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return run


@pytest.mark.parametrize("key", ["root", "hub_cache"])
def test_a_folder_of_the_cluster_with_an_unset_variable_is_named_by_its_key(
    run: Run, experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    for name in ("TEXTDD_ROOT", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "SCRATCH_OF_NOBODY"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "site.yaml"
    file.write_text(f"{key}: $SCRATCH_OF_NOBODY/a\n")
    status, _, err = run("status", experiment(), "--cluster-file", file)
    assert status == 2
    assert f"error: {file}: {key}: $SCRATCH_OF_NOBODY/a" in err
    assert "$SCRATCH_OF_NOBODY is not set here" in err


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["verify", "--help"], ["status", "CONFIG"], ["run", "CONFIG", "--dry-run"], ["run", "nowhere.yaml"]],
    ids=" ".join,
)
def test_looking_imports_no_torch(experiment: Write, tmp_path: Path, arguments: list[str]) -> None:
    path = experiment(grids=[{"distill.seed": [1, 2]}])
    done = subprocess.run(
        [sys.executable, "-c", WHAT_IS_IMPORTED, *(str(path) if word == "CONFIG" else word for word in arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.returncode == (2 if "nowhere.yaml" in arguments else 0), done.stderr
    assert done.stdout.splitlines()[-1] == "imported []"
    assert not (tmp_path / "checkpoints").exists()


def test_every_mistake_is_a_sentence_and_status_2(experiment: Write, run: Run, tmp_path: Path) -> None:
    path = experiment(method={"shotss": 2, "labels": "sofft"})
    status, out, err = run("run", path)
    assert (status, out) == (2, "")
    lines = err.splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) == 2
    assert any("distill.method.shotss: unknown key (did you mean 'shots'?)" in line for line in lines)
    assert any("distill.method.labels: 'sofft' is not allowed (did you mean 'soft'?)" in line for line in lines)
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("command", ["run", "status"])
def test_mistakes_on_the_command_line(experiment: Write, run: Run, tmp_path: Path, command: str) -> None:
    path = experiment()
    status, _, err = run(command, path, "--set", "distill.method.sequence_lenght=9")
    assert status == 2
    assert "distill.method.sequence_lenght: unknown key (did you mean 'sequence_length'?)" in err
    status, _, err = run(command, str(path).replace("tiny", "tinny"))
    assert status == 2
    assert "tinny.yaml: no such file (did you mean 'tiny.yaml'?)" in err
    status, _, err = run(command, experiment(prepare={"model": "./no-such-model"}))
    assert status == 2
    assert "./no-such-model: no such file or folder" in err
    assert "Traceback" not in err
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("command", [("run",), ("array", "distill"), ("estimate",), ("retry",)], ids=" ".join)
def test_what_tables_could_not_show_is_refused_before_hours_are_spent(
    experiment: Write, run: Run, tmp_path: Path, command: tuple[str, ...]
) -> None:
    path = experiment(report={"compare": [["HL", "SLL"]]})
    status, out, err = run(command[0], path, *command[1:], "--root", tmp_path / "root")
    assert (status, out) == (2, "nothing\n" if "array" in command else "")
    assert "report.compare: no row is called 'SLL'" in err
    source = {"kind": "files", "train": str(tmp_path / "mine.csv")}
    (tmp_path / "mine.csv").write_text("text,label\ngood,1\nbad,0\n")
    path = experiment(prepare={"task": {"name": "mine", "source": source, "text": ["txt"]}})
    status, _, err = run(command[0], path, *command[1:], "--root", tmp_path / "root")
    assert status == 2
    assert "train has no column 'txt' (did you mean 'text'?)" in err
    assert not (tmp_path / "root").exists()


def test_dry_run_prints_the_cells_and_computes_nothing(experiment: Write, run: Run, tmp_path: Path) -> None:
    path = experiment(grids=[{"distill.seed": [1, 2]}])
    status, out, _ = run("run", path, "--dry-run", "--root", tmp_path / "root")
    assert status == 0
    assert out.splitlines()[0] == "tiny: 2 cells"
    name = Store(tmp_path / "root").cell(load(path).cells[1]).folder.name
    assert ["1", "evaluate", "missing", name] in [line.split() for line in out.splitlines()]
    assert "evaluate: 2 cells left, nothing measured yet" in out
    assert not (tmp_path / "root").exists()


def test_a_failed_cell_is_named_and_the_rest_is_finished(experiment: Write, run: Run, tmp_path: Path) -> None:
    path = experiment(grids=[{"prepare.max_length": [100, 9]}])
    root, results = tmp_path / "root", tmp_path / "results"
    status, out, err = run("run", path, "--root", root, "--out", results)
    assert status == 1
    assert "prepare: 1 done now, 0 done before, 1 failed" in err
    assert "distill: 1 done now, 0 done before, 1 failed" in err
    assert "evaluate: 1 done now, 0 done before, 1 failed" in err
    assert "Traceback" not in err
    sentence = "max_length: 100 is more than the 40 usable positions"
    assert sentence in err
    bad, good = (launch.stage_cells(load(path), Store(root), "prepare")[index] for index in range(2))
    assert sentence in str(bad.failure())
    assert out.count("distilled set: ") == 1
    written = out.split("distilled set: ")[1].strip()
    assert Path(written).is_file()
    assert f"{good.state} {bad.state}" == "done failed"
    assert list(results.glob("tiny*.md"))

    status, out, err = run("status", path, "--root", root)
    assert status == 0, err
    assert sentence in " ".join(out.split())
    status, out, _ = run("status", path, "--root", root, "--json")
    states = {(row["stage"], index): row["state"] for row in json.loads(out)["cells"] for index in row["cells"]}
    assert [states[stage, 1] for stage in launch.MODULES] == ["done", "done", "done"]
    assert [states[stage, 0] for stage in launch.MODULES] == ["failed", "missing", "missing"]

    before = len(bad.attempts())
    status, _, err = run("run", path, "--root", root, "--out", results)
    assert status == 1
    assert "prepare: 0 done now, 1 done before, 1 failed" in err, "only the failed one was tried again"
    assert len(bad.attempts()) == before + 1
    good_only = experiment(grids=[{"prepare.max_length": [9]}])
    assert run("run", good_only, "--root", root, "--out", results)[0] == 0


def test_only_some_cells_are_computed_and_tables_are_of_all(experiment: Write, run: Run, tmp_path: Path) -> None:
    path = experiment(grids=[{"distill.method.labels": ["hard", "soft"]}])
    places = "--root", tmp_path / "root", "--out", tmp_path / "results"
    status, out, err = run("run", path, *places, "--only", "distill.method.labels=soft")
    assert status == 0
    assert "evaluate: 1 done now, 0 done before, 0 failed" in err
    assert "missing" in out, "the table names the row that has no results"
    hard, soft = launch.stage_cells(load(path), Store(tmp_path / "root"), "evaluate")
    assert (hard.state, soft.state) == ("missing", "done")
    _, out, _ = run("status", path, *places[:2], "--only", "distill.method.labels=hard", "--json")
    assert {tuple(row["cells"]) for row in json.loads(out)["cells"]} == {(0,)}
    status, _, err = run("run", path, *places)
    assert "evaluate: 1 done now, 1 done before, 0 failed" in err
    assert {file.name for file in (tmp_path / "results").glob("*.runs.csv")} == {"tiny.runs.csv"}


def test_retry_takes_up_what_failed_and_nothing_else(experiment: Write, run: Run, tmp_path: Path) -> None:
    path = experiment(grids=[{"distill.method.sequence_length": [41, 8]}])
    places = "--root", tmp_path / "root", "--out", tmp_path / "results"
    status, out, _ = run("retry", path, *places, "--set", "evaluate.initialisations=1")
    assert status == 0
    again = f"python -m pipeline run {path} --set evaluate.initialisations=1 --root {tmp_path / 'root'}"
    assert f"nothing failed; {again} does what is missing" in out
    assert run("run", path, *places, "--only", "distill.method.sequence_length=41")[0] == 1
    bad, missing = launch.stage_cells(load(path), Store(tmp_path / "root"), "distill")
    assert (bad.state, missing.state) == ("failed", "missing")
    assert run("retry", path, *places)[0] == 1
    assert (len(bad.attempts()), missing.state) == (2, "missing")
    assert run("retry", path, *places, "--only", "distill.method.sequence_length=8")[0] == 0
    assert (len(bad.attempts()), missing.state) == (2, "missing")


def test_status_says_where_the_tables_are(experiment: Write, run: Run, tmp_path: Path) -> None:
    path = experiment()
    assert run("run", path, "--root", tmp_path / "root", "--out", "analysis/results")[0] == 0
    assert run("status", path, "--root", tmp_path / "root")[1].rstrip().endswith("tables: analysis/results/tiny.*")
    Path("analysis/results/tiny.csv").rename("analysis/results/kept.csv")
    assert "tables: older than the results, or none" in run("status", path, "--root", tmp_path / "root")[1]
    Path("analysis/results").rename("mine")
    Path("mine/kept.csv").rename("mine/tiny.csv")
    assert "none, in analysis/results (--out)" in run("status", path, "--root", tmp_path / "root")[1]
    given = run("status", path, "--root", tmp_path / "root", "--out", "mine")[1]
    assert given.rstrip().endswith("tables: mine/tiny.*")


@pytest.mark.parametrize(
    "command", ["check-grad", "import", "prepare", "distill", "evaluate", "aggregate", "card", "doctor"]
)
def test_every_command_line_looks_for_artifacts_where_the_clusters_file_says(
    experiment: Write, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Each of them up to where it has a store."""

    def looked(*arguments: object, **_: object) -> None:
        store = next(one for one in arguments if isinstance(one, Store))
        raise StageError(f"looked in {store.root}")

    def asked(*root: str) -> str:
        if command == "card":
            return f"looked in {release._store(Path('a.h5'), root[1] if root else None).root}"
        if command not in JOBS:
            words = {"import": ("import", "a.h5", path), "doctor": ("doctor",)}.get(command, (command, path))
            _, out, err = run(*words, *root)
            return out + err
        monkeypatch.setattr(sys, "argv", ["stage", str(path), *root])
        with pytest.raises(StageError) as caught:
            typer.run(stage4_aggregate.main) if command == "aggregate" else launch.stage_command(command)
        return str(caught.value)

    for module in (launch, launch_command):
        monkeypatch.setattr(module, "run_stage", looked)
    monkeypatch.setattr(launch_command, "guarded", lambda command: command())
    monkeypatch.setattr(stage4_aggregate, "run", looked)
    monkeypatch.setenv("TEXTDD_ROOT", "to be put back")
    monkeypatch.delenv("TEXTDD_ROOT")
    path, said = experiment(), "looked in " if command != "doctor" else "artifacts in "
    Path("configs").mkdir()
    Path("configs/cluster.yaml").write_text(f"root: {tmp_path / 'site'}\n")
    assert f"{said}{tmp_path / 'site'}" in asked()
    assert f"{said}{tmp_path / 'given'}" in asked("--root", str(tmp_path / "given"))
    monkeypatch.setenv("TEXTDD_ROOT", str(tmp_path / "set"))
    assert f"{said}{tmp_path / 'set'}" in asked()


def test_an_error_that_no_one_foresaw_keeps_its_traceback(
    experiment: Write, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("pipeline.stage1_prepare.run", broken)
    status, _, err = run("run", experiment(), "--root", tmp_path / "root", "--out", tmp_path / "results")
    assert status == 1
    assert "Traceback" in err
    assert "ZeroDivisionError: by zero" in err


def test_the_root_may_come_from_the_environment(
    experiment: Write, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = experiment()
    with Store(tmp_path / "elsewhere").cell(load(path).cells[0].source.source).claim():
        pass
    monkeypatch.setenv("TEXTDD_ROOT", str(tmp_path / "elsewhere"))
    _, out, _ = run("status", path)
    assert "prepare      1 done" in out
    _, out, _ = run("status", path, "--root", tmp_path / "nowhere")
    assert "prepare      1 missing" in out


@pytest.mark.parametrize(
    "words",
    [("status",), ("cancel",), ("run", "--cluster", "slurm", "--dry-run"), ("array", "distill"), ("run", "--dry-run")],
)
@pytest.mark.parametrize("there", [True, False])
def test_a_command_about_a_cluster_says_where_no_file_of_one_is(
    run: Run, experiment: Write, tmp_path: Path, words: tuple[str, ...], there: bool
) -> None:
    """In another folder it would be about another store, without a word."""
    if there:
        Path("configs").mkdir()
        Path("configs/cluster.yaml").write_text("{}")
    _, _, said = run(words[0], experiment(), *words[1:])
    here = Path.cwd()
    note = f"note: no configs/cluster.yaml in {here}; its defaults are taken, artifacts are in {here}/checkpoints\n"
    assert (note in said) == (not there and words != ("run", "--dry-run")), "the last one has no cluster"
    assert note not in run(words[0], experiment(), *words[1:], "--cluster-file", str(tmp_path / "site.yaml"))[2]
