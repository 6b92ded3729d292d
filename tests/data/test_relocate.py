"""Data that moved: found by content, and nothing else taken for them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Prepare
from pipeline.data.relocate import relocated
from pipeline.errors import InputError


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes() if path.is_file() else path.name.encode()).hexdigest()


def config(source: dict[str, Any], model: str = "acme/bert") -> Prepare:
    return Prepare.model_validate({"task": {"name": "t", "source": source, "text": "text"}, "model": model})


def files(tmp_path: Path, **splits: str) -> tuple[Prepare, dict[str, Any]]:
    """Splits whose files are gone, and what they counted as."""
    source = {"kind": "files", **{name: str(tmp_path / "gone" / f"{name}.csv") for name in splits}}
    content = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in splits.items()}
    return config(source), {"task": {"source": {"kind": "files", **content}}}


def test_files_are_found_by_content_whatever_their_names(tmp_path: Path) -> None:
    made, content = files(tmp_path, train="a", test="b")
    here = tmp_path / "here" / "deep"
    here.mkdir(parents=True)
    for name, text in (("train.csv", "other"), ("one.csv", "b"), ("two.csv", "a")):
        (here / name).write_text(text)
    found = relocated(made, content, [tmp_path / "here"], None, digest)
    assert found.task.source.model_dump() == {
        "kind": "files",
        "train": str(here / "two.csv"),
        "dev": None,
        "test": str(here / "one.csv"),
    }
    same = {"task": {"source": made.task.source}}
    assert found.model_copy(update={"task": found.task.model_copy(update=same["task"])}) == made


def test_what_is_still_there_stays_as_it_is_written(tmp_path: Path) -> None:
    made, content = files(tmp_path, train="a")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "train.csv").write_text("a")
    assert relocated(made, content, [], None, digest) == made


def test_another_content_under_the_old_path_is_refused(tmp_path: Path) -> None:
    made, content = files(tmp_path, train="a")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "train.csv").write_text("changed")
    with pytest.raises(InputError, match=r"train.csv: no such data with sha256 ca978112ca1b… here; looked at .*--data"):
        relocated(made, content, [], None, digest)
    (tmp_path / "kept.csv").write_text("a")
    found = relocated(made, content, [tmp_path / "kept.csv"], None, digest)
    assert found.task.source.model_dump()["train"] == str(tmp_path / "kept.csv")


def test_without_a_recorded_digest_the_name_decides(tmp_path: Path) -> None:
    made, _ = files(tmp_path, train="a")
    (tmp_path / "other.csv").write_text("a")
    with pytest.raises(InputError, match=r"train\.csv: no such data here"):
        relocated(made, {}, [tmp_path / "other.csv"], None, digest)
    (tmp_path / "train.csv").write_text("anything")
    assert relocated(made, {}, [tmp_path], None, digest).task.source.model_dump()["train"] == str(
        tmp_path / "train.csv"
    )


def test_saved_folders_and_the_hub(tmp_path: Path) -> None:
    saved = config({"kind": "saved", "folder": str(tmp_path / "gone")})
    (tmp_path / "new").mkdir()
    content = {"task": {"source": {"kind": "saved", "digest": digest(tmp_path / "new")}}}
    found = relocated(saved, content, [tmp_path], None, digest)
    assert found.task.source.model_dump()["folder"] == str(tmp_path / "new")
    hub = config({"kind": "hub", "id": "acme/sentences", "revision": "0" * 40})
    assert relocated(hub, {}, [], None, digest) == hub
    with pytest.raises(InputError, match=r"the data are of the hub, acme/sentences at 0+; leave --data out"):
        relocated(hub, {}, [tmp_path], None, digest)


def joined(*sources: dict[str, Any]) -> Prepare:
    tasks = [{"name": f"t{number}", "source": source, "text": "text"} for number, source in enumerate(sources)]
    whole = {"name": "both", "source": {"kind": "joined", "tasks": tasks}, "text": "text"}
    return Prepare.model_validate({"task": whole, "model": "acme/bert"})


def test_of_joined_tasks_only_the_files_move(tmp_path: Path) -> None:
    hub, gone = {"kind": "hub", "id": "acme/sentences"}, {"kind": "files", "train": str(tmp_path / "gone" / "a.csv")}
    (tmp_path / "a.csv").write_text("a")
    content = {"task": {"source": {"kind": "joined", "tasks": [{}, {"source": {"train": digest(tmp_path / "a.csv")}}]}}}
    with pytest.raises(InputError, match=r"a\.csv: no such data .*say where they are: --data"):
        relocated(joined(hub, gone), content, [], None, digest)
    found = relocated(joined(hub, gone), content, [tmp_path], None, digest)
    first, second = found.task.parts
    assert first.source.model_dump() == joined(hub, gone).task.parts[0].source.model_dump()
    assert second.source.model_dump()["train"] == str(tmp_path / "a.csv")
    pinned = {"kind": "hub", "id": "acme/news", "revision": "1" * 40}
    with pytest.raises(InputError, match=r"of the hub, acme/sentences and acme/news at 1{40}; leave --data out"):
        relocated(joined(hub, pinned), {}, [tmp_path], None, digest)


def test_the_encoder_is_where_the_user_says(tmp_path: Path) -> None:
    hub = {"kind": "hub", "id": "acme/sentences"}
    with pytest.raises(InputError, match=r"\./bert: no such file or folder.*--model FOLDER"):
        relocated(config(hub, "./bert"), {}, [], None, digest)
    found = relocated(config(hub, "./bert"), {}, [], tmp_path, digest)
    assert (found.model.name, found.model.revision) == (str(tmp_path), None)
    with pytest.raises(InputError, match=r"--model .*nowhere: no such folder"):
        relocated(config(hub), {}, [], tmp_path / "nowhere", digest)
    with pytest.raises(InputError, match=r"--data .*nowhere: no such file or folder"):
        relocated(files(tmp_path, train="a")[0], {}, [tmp_path / "nowhere"], None, digest)
