"""What the pages say: commands parse, configs validate, snippets compile, and every file that is named is there."""

from __future__ import annotations

import ast
import glob
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
import yaml

from pipeline.__main__ import app
from pipeline.config import load

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    Path(name)
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*README.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()
)  # fmt: skip
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"(?:pipeline|configs|tests|analysis|sbatch|checkpoints|logs)/[\w./*-]*[\w*/]")


def fences(language: str) -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        yield from ((page, body) for kind, body in FENCE.findall((ROOT / page).read_text()) if kind == language)


def commands() -> Iterator[tuple[Path, str]]:
    """Calls of Python in fences without a language: continued lines as one, no comments, no optional parts."""
    for page, body in fences(""):
        for line in body.replace("\\\n", " ").splitlines():
            found = re.search(r"python -m (?:pipeline|analysis)[.\w]*(?: ?[^\s#)]+)*", line)
            if found is not None:
                yield page, re.sub(r"\[[^]]*\]", "", found[0])


def test_there_is_something_to_look_at() -> None:
    assert Path("README.md") in PAGES
    assert len(list(commands())) > 30
    assert len(list(fences("yaml"))) > 6


@pytest.mark.parametrize(("page", "line"), list(commands()))
def test_commands_parse(page: Path, line: str) -> None:
    _, _, module, *arguments = shlex.split(line)
    if module == "pipeline":
        known = vars(typer.main.get_command(app))["commands"]
        if arguments:
            known[arguments[0]].make_context(arguments[0], arguments[1:])
    else:
        assert (ROOT / Path(*module.split("."))).with_suffix(".py").is_file()


@pytest.mark.parametrize(("page", "body"), list(fences("yaml")))
def test_configs_validate(page: Path, body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each on top of a task and a model, where it does not name its own."""
    monkeypatch.chdir(ROOT)
    shown = yaml.safe_load(body)
    whole = shown if {"base", "grids"} & set(shown) else {"base": shown}
    base = whole.setdefault("base", {})
    base["prepare"] = {"task": "sst2", "model": "google-bert/bert-base-uncased"} | base.get("prepare", {})
    base.setdefault("distill", {"method": {"name": "random", "shots": 5}})
    base.setdefault("evaluate", {"protocol": {"name": "finetune"}})
    file = tmp_path / "shown.yaml"
    file.write_text(yaml.safe_dump(whole))
    assert load(file).cells


@pytest.mark.parametrize(("page", "body"), list(fences("python")))
def test_snippets_compile(page: Path, body: str) -> None:
    for node in ast.walk(ast.parse(body)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("pipeline"):
            names = {alias.name for alias in node.names}
            found = __import__(str(node.module), fromlist=sorted(names))
            assert all(hasattr(found, name) or (ROOT / "pipeline" / name).exists() for name in names)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_what_is_named_is_there(page: Path) -> None:
    text = re.sub(r"^```diff\n.*?^```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]*)?\)", text):
        assert (ROOT / page.parent / link).exists(), link
    for name in NAMED.findall(re.sub(r"\]\([^)]*\)", "", text)):
        if not re.search(r"checkpoints/(prepare|distill|evaluate|revisions)|logs/|figures/", name):
            assert glob.glob(str(ROOT / name)) or glob.glob(str(ROOT / f"{name}*")), name


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_to_sections_are_true(page: Path) -> None:
    for link, anchor in re.findall(r"\]\(([^)#:]*)#([\w-]+)\)", (ROOT / page).read_text()):
        target = ROOT / page.parent / link if link else ROOT / page
        heads = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, anchor


def test_every_experiment_is_listed() -> None:
    listed = (ROOT / "configs" / "README.md").read_text()
    for file in (ROOT / "configs").glob("*.yaml"):
        if file.name != "cluster.yaml":
            assert f"`{file.name}`" in listed, file.name
