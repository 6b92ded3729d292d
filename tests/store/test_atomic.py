"""Files are whole or absent, also on a full disk."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import Prepare
from pipeline.errors import StageError
from pipeline.store import Store
from pipeline.store.atomic import read_json, replacing, write_json, write_text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 KiB, where the machine lets us have one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_whole_file_or_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_json(path, {"é": [1, None]})
    assert read_json(path) == {"é": [1, None]}
    seen = []

    def half_way() -> None:
        with replacing(path) as aside:
            aside.write_text("half")
            seen.append(read_json(path))
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        half_way()
    assert seen == [{"é": [1, None]}], "nobody sees half a file"
    assert read_json(path) == {"é": [1, None]}
    assert list(path.parent.iterdir()) == [path]
    assert read_json(tmp_path / "absent.json") is None


def test_the_mode_is_that_of_an_ordinary_file(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    write_text(tmp_path / "atomic", "")
    assert stat.S_IMODE((tmp_path / "atomic").stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, where: str) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"pipeline.store.atomic.os.{where}", full)
    with pytest.raises(StageError) as stopped:
        write_text(path, "new")
    assert f"{path}: no space left on the disk" in str(stopped.value)
    assert "what was there is unchanged: free some and run again" in str(stopped.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_errors_are_not_called_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr("pipeline.store.atomic.os.fsync", refused)
    with pytest.raises(PermissionError):
        write_text(tmp_path / "file", "new")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(small_disk: Path) -> None:
    path = small_disk / "file"
    write_text(path, "old")
    with pytest.raises(StageError, match="no space left on the disk; what was there is unchanged"):
        write_text(path, "x" * 2**20)
    assert path.read_text() == "old"
    assert list(small_disk.iterdir()) == [path]
    write_text(path, "new")
    assert path.read_text() == "new"


def test_a_cell_on_a_full_disk(small_disk: Path) -> None:
    task = {"name": "t", "source": {"kind": "hub", "id": "a/b"}, "text": ["x"]}
    cell = Store(small_disk).cell(Prepare.model_validate({"task": task, "model": "c/d"}))
    big = cell.folder / "big"
    with pytest.raises(StageError) as stopped, cell.claim():
        big.write_bytes(b"x" * 2**20)  # not through `replacing`: as a library would
    assert f"{cell.folder}: no space left on the disk; free some and run again" in str(stopped.value)
    assert cell.state in ("failed", "partial")
    big.unlink()
    with cell.claim():
        pass
    assert cell.state == "done"


def test_a_file_is_made_without_touching_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The umask is the whole process's: two threads that set it aside to read it may leave it at nothing."""
    mask = os.umask(0)
    os.umask(mask)
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was changed"))
    write_text(tmp_path / "a", "b")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask


def test_a_folder_of_somebody_else_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root writes anywhere, so that the system's answer is given here."""

    def refuses(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "mkstemp", refuses)
    with pytest.raises(
        StageError, match=r"theirs cannot be written from here \(Permission denied\); ask its owner .*--root"
    ):
        write_json(tmp_path / "theirs" / "b.json", {})
