"""What is free: never more than the control groups of a scheduler leave."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.bilevel import memory

CPU = torch.device("cpu")


def limited(folder: Path, limit: str, used: int, names: tuple[str, str] = ("memory.max", "memory.current")) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip(names, (limit, str(used)), strict=True):
        (folder / name).write_text(text + "\n")


def test_what_is_free_here_is_plausible() -> None:
    assert 2**20 < memory.free_memory(CPU) < 2**50


def test_the_tightest_group_counts(tmp_path: Path) -> None:
    limited(tmp_path / "slurm" / "job", "max", 10)
    limited(tmp_path / "slurm", "1000", 300)
    limited(tmp_path, "5000", 4700)
    assert memory._left(tmp_path, "slurm/job") == [700, 300]
    assert memory._left(tmp_path, "another/namespace") == [300], "a path that this container does not show"
    assert memory._left(tmp_path / "nothing", "") == []


def test_version_one_groups(tmp_path: Path) -> None:
    limited(tmp_path / "job", "900", 100, ("memory.limit_in_bytes", "memory.usage_in_bytes"))
    assert memory._left(tmp_path, "job") == [800]


def test_a_group_limits_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(tmp_path, "5000", 4700)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    groups = [line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.split(":")[1] == ""]
    if not groups:
        pytest.skip("no control groups of version 2 here")
    assert memory.free_memory(CPU) == 300
    limited(tmp_path, "5000", 6000)
    assert memory.free_memory(CPU) == 0
