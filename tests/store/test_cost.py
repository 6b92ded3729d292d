"""Attempts and ranks added up by hand."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pipeline.store import usage
from pipeline.store.aides import aides_of, aiding
from pipeline.store.attempts import Attempt
from pipeline.store.cost import cost_of
from pipeline.store.usage import Usage


def attempt(number: int, **facts: object) -> Attempt:
    return Attempt(number, "n1", 1, "2026-01-01T00:00:00", **facts)  # type: ignore[arg-type]


def test_sums_of_time_and_the_highest_memory() -> None:
    found = cost_of(
        [
            attempt(1, seconds=10.0, cpu_seconds=19.5, gpu_seconds=10.0, peak_mb=900.0, gpu="H200", threads=2, cpu="A"),
            attempt(2, seconds=2.5, cpu_seconds=0.5, gpu_seconds=0.0, peak_mb=100.0, threads=1, cpu="B"),
        ],
        [Usage(4.0, 2000.0, 2, "A", "H200", 9.0, 70.0, 60.0)],
    )
    assert found is not None
    assert (found.seconds, found.cpu_seconds, found.gpu_seconds) == (12.5, 24.0, 19.0)
    assert (found.peak_mb, found.gpu_peak_mb, found.attempts) == (2000.0, 70.0, 2)
    assert (found.threads, found.cpus, found.gpus) == ((1, 2), ("A", "B"), ("H200",))
    assert cost_of([]) is None


def test_another_rank_writes_beside_the_last_attempt(tmp_path: Path) -> None:
    (tmp_path / "attempts").mkdir()
    for number in (9, 10):
        (tmp_path / "attempts" / f"{number:03}.json").write_text("{}")
    with contextlib.suppress(ValueError), aiding(tmp_path, 3):
        sum(range(3_000_000))
        raise ValueError("it failed")
    assert {path.name for path in (tmp_path / "attempts").iterdir()} == {"009.json", "010.json", "010.rank3.json"}
    (found,) = aides_of(tmp_path)
    assert 0.01 < found.cpu_seconds < 5
    assert found.cpu == usage.cpu_model()


def test_a_cell_that_nobody_holds_gets_no_record(tmp_path: Path) -> None:
    with aiding(tmp_path, 1):
        pass
    assert list(tmp_path.iterdir()) == []
    assert aides_of(tmp_path) == []
