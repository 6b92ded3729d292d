"""Ends of jobs that SLURM explains in a job's own output alone, against a real SLURM without control groups."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.store.attempts import attempts_of
from tests.slurm.conftest import Tiny
from tests.slurm.rig import Slurm

Write = Callable[..., Tiny]
# Python starts this file by itself, in jobs, too: a process that saves takes more memory than its job has, once.
GREEDY = """
import os, pathlib, sys, time
HERE = pathlib.Path(__file__).parent
def take(event, arguments):
    if event != "os.rename" or os.path.basename(os.fsdecode(arguments[1])) != "progress.pt": return
    if not (HERE / "taken").exists():
        (HERE / "taken").touch()
        kept = b"x" * 1_200_000_000
        time.sleep(120)
if "SLURM_JOB_ID" in os.environ: sys.addaudithook(take)
"""


def distillation(case: Tiny) -> dict[str, Any]:
    """The row of the only cell of stage 2."""
    cells = json.loads(case.pipeline("status", case.config, "--json"))["cells"]
    return next(row for row in cells if row["stage"] == "distill")


def run(case: Tiny, command: str = "run", *words: str) -> str:
    return case.pipeline(command, case.config, "--cluster", "slurm", *words)


def test_a_kill_for_memory_asks_for_more(tiny: Write, slurm: Slurm) -> None:
    case = tiny({"slurm": {"distill": {"memory_gb": 1}}}, distill={"runtime": {"threads": 1, "save_seconds": 0}})
    (case.folder / "greedy").mkdir()
    (case.folder / "greedy" / "sitecustomize.py").write_text(GREEDY)
    case.environment["PYTHONPATH"] += f":{case.folder / 'greedy'}"
    run(case, "run", "--no-check")
    slurm.wait_gone()
    row = distillation(case)
    assert (row["state"], row["reason"]) == ("failed", "out of memory")
    assert "--mem=2G" in run(case, "retry")
    slurm.wait_gone()
    assert distillation(case)["state"] == "done"
    assert [one.reason for one in attempts_of(case.root / row["name"])] == ["out of memory", None]


def test_a_job_without_its_interpreter_says_so_and_is_given_up(tiny: Write, slurm: Slurm) -> None:
    case = tiny({"python": "/nosuch/bin/python", "attempts": 2})
    for _ in range(2):
        assert "distill-0: 1 cells in 1 job" in run(case)
        slurm.wait_for(lambda: distillation(case)["state"] == "failed", what="the end of the distillation", every=1)
    row = distillation(case)
    assert "its job ended before it began: exit 127" in row["why"]
    assert "/nosuch/bin/python" in row["why"]
    assert "/nosuch/bin/python" in Path(row["log"]).read_text()
    said = run(case)
    assert f"left alone: {row['name']}: failed 2 times in the same way: its job ended before it began: exit 127" in said
    assert "distill-0" not in said
