"""What references were resolved to is remembered, whoever else remembers something at the same time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.store import Store, locate
from pipeline.store.places import Places

RECORD = """
import sys
from pipeline.store import Store
sys.stdin.readline()
for number in range(10):
    Store(sys.argv[1]).places.record("model", f"a/{sys.argv[2]}-{number}", None, sys.argv[2] * 40)
print(Store(sys.argv[1]).places.record("model", "a/shared", None, sys.argv[2] * 40))
"""


def test_first_prepares_at_once_lose_nothing(tmp_path: Path) -> None:
    """Four processes, eleven references each; the one that all of them resolve counts as the first one said."""
    names = "abcd"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RECORD, str(tmp_path / "root"), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        for name in names
    ]
    said = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        said.append(process.communicate(timeout=60)[0].strip())
        assert process.returncode == 0
    known = json.loads((tmp_path / "root" / "revisions.json").read_text())
    assert len(known) == 41
    places = Store(tmp_path / "root").places
    assert all(
        places.revision("model", f"a/{name}-{number}", None) == name * 40 for name in names for number in range(10)
    )
    assert set(said) == {places.revision("model", "a/shared", None)}
    assert {path.name for path in (tmp_path / "root").iterdir()} == {"revisions.json"}


def test_what_was_recorded_first_counts(tmp_path: Path) -> None:
    places = Places(tmp_path)
    assert places.record("model", "a/b", None, "1" * 40) == "1" * 40
    assert places.record("model", "a/b", None, "2" * 40) == "1" * 40
    assert places.revision("model", "a/b", None) == "1" * 40
    assert places.record("model", "a/b", "v2", "2" * 40) == "2" * 40


def test_a_folders_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    """The order is that of the parts of the paths: ``a/b`` comes before ``a-b``."""
    folder = tmp_path / "folder"
    for name in ("a/b", "a-b", "a/__pycache__/c", ".hidden", "x/y/z"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "link").symlink_to("a-b")
    (folder / "broken").symlink_to("nowhere")
    digest = Places(tmp_path).digest(folder)
    assert digest == "fba1369a89faf15abc4f010b2948bd1cbb405ae780ca9ed2055ddf035c309450"
    assert Places(tmp_path).digest(folder) == digest, "from what is remembered"
    (folder / "a" / "__pycache__" / "c").write_text("changed")
    assert Places(tmp_path).digest(folder) == digest
    (folder / "a-b").write_text("b-a")
    assert Places(tmp_path).digest(folder) != digest


def test_a_package_that_is_installed_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="pip install late-comer"):
        locate("package:late_comer/model")
    (tmp_path / "late_comer" / "model").mkdir(parents=True)
    (tmp_path / "late_comer" / "__init__.py").write_text("")
    assert locate("package:late_comer/model") == tmp_path / "late_comer" / "model"


@pytest.mark.parametrize(
    "name", ["facebook/opt-2.7b", "Qwen/Qwen2.5-0.5B", "BAAI/bge-small-en-v1.5", "distilgpt2.5", "bert-base-uncased"]
)
def test_a_dot_does_not_make_a_hub_id_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate(name) is None
    (tmp_path / name).mkdir(parents=True)
    assert locate(name) == Path(name), "what exists is meant"


@pytest.mark.parametrize(
    "name", ["data/train.csv", "train.TSV", "rows.jsonl.gz", "sets/all.zip", "set.h5", "./opt-2.7b", "a/b/opt-2.7b"]
)
def test_a_file_or_a_path_that_is_missing_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no such file or folder, seen from .*; give an existing path"):
        locate(name)
