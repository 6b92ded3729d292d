"""Sets that start from other sets, as jobs of a real SLURM: what waits for what, and what a failure ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pipeline.launch.submission import all_of
from tests.slurm.conftest import Tiny, made
from tests.slurm.rig import Slurm

Write = Callable[..., Tiny]
SMALL = {"name": "ddal", "sequence_length": 8, "outer": {"steps": 3, "batch_size": 8}}


def rows(case: Tiny) -> dict[str, list[dict[str, Any]]]:
    """What ``status --json`` says: stage -> rows in the order of the grid."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in json.loads(case.pipeline("status", case.config, "--json"))["cells"]:
        found.setdefault(row["stage"], []).append(row)
    return found


def test_three_sets_of_one_parent_and_a_chain_that_fails(tiny: Write, slurm: Slurm) -> None:
    """The first set is behind one element of an array of two; of the second chain the first cell fails."""
    too_long = SMALL | {"sequence_length": 41}  # the encoder has 40 positions, which stage 2 finds out
    grids = [
        {"distill.parent": [{"method": SMALL, "seed": 7}], "distill.seed": [1, 2, 3]},
        {"distill.parent": [{"method": too_long, "parent": {"method": too_long, "seed": 8}}],
         "distill.method.sequence_length": [41]},
    ]  # fmt: skip
    case = tiny(method={"validation": {"split": "none"}}, grids=grids)
    said = case.pipeline("run", case.config, "--cluster", "slurm", "--no-check")
    assert "distill-0: 2 cells in 2 jobs: " in said
    assert "distill-1: 3 cells in 3 jobs, behind distill-0[0]: " in said
    slurm.wait_gone()  # what waits for the failed chain is gone, too, and the tables' job ran
    found = rows(case)
    assert [(row["state"], row["why"]) for row in found["distill"]][:4] == [("done", "")] * 4
    root, middle, last = found["distill"][4:]
    assert (root["state"], root["reason"]) == ("failed", "InputError")
    assert {(row["state"], row["why"]) for row in (middle, last)} == {("failed", "its parent failed")}
    assert [row["state"] for row in found["evaluate"]] == ["done"] * 3 + ["failed"]
    table = (case.folder / "analysis/results/tiny.table2.md").read_text()
    assert "Without results (1):" in table
    (submission,) = all_of(case.logs, "tiny")
    began = {
        row["name"]: json.loads((case.root / row["name"] / "attempts/001.json").read_text())
        for row in found["distill"][:4]
    }
    parent, *children = began.values()
    assert all(parent["ended"] <= child["began"] for child in children)
    assert len([row for row in submission.rows.values() if row.behind is not None]) >= 1

    case.pipeline(
        "run", case.config, "--root", case.folder / "here", "--out", case.folder / "debug", "--no-check", status=1
    )
    ours, theirs = made(case.root), made(case.folder / "here")
    done = {name.rpartition("/")[0] for name in ours if name.endswith("done.json")}
    assert {name for name in ours if name.rpartition("/")[0] in done and theirs[name] != ours[name]} == set()
