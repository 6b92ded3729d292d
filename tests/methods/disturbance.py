"""Stages in processes of their own, each of which gets a signal in the middle of a given call of a given function."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Torch is imported once; every launch is a fork of a process that has computed nothing.
SCRIPT = """
import importlib, json, os, pathlib, signal, sys, time
import datasets, torch, torch._dynamo, transformers, typer.main
import pipeline.stage1_prepare, pipeline.stage2_distill, pipeline.stage3_evaluate, pipeline.methods.ddal
from pipeline import __main__, launch, parallel

def disturb(where, count, name, pause, again):
    module, _, path = where.partition(":")
    owner = importlib.import_module(module)
    *holders, function = path.split(".")
    for holder in holders:
        owner = getattr(owner, holder)
    true, calls = getattr(owner, function), []
    def disturbed(*args, **kwargs):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), getattr(signal, name))
            time.sleep(pause)
            if again:
                os.kill(os.getpid(), getattr(signal, name))
        return true(*args, **kwargs)
    setattr(owner, function, disturbed)

def launched(stage, disturbance):
    pid = os.fork()
    if pid == 0:
        if disturbance:
            disturb(*disturbance)
        launch.stage_command(stage) if stage != "run" else __main__.main()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def saved_step():
    (found,) = list(pathlib.Path(sys.argv[-1]).glob("distill/*/progress.pt")) or [None]
    return found and torch.load(found, weights_only=True)["step"]

stage, disturbances = sys.argv[1], json.loads(sys.argv[2])
sys.argv[1:] = ["run"] * (stage == "run") + sys.argv[3:]
for disturbance in disturbances:
    began = time.monotonic()
    status, seconds = launched(stage, disturbance), time.monotonic() - began
    print(json.dumps([status, seconds, saved_step()]), flush=True)
"""


@dataclass(frozen=True)
class Disturbance:
    """A signal to the process itself.

    Attributes:
        where: ``module:function`` or ``module:Class.method``.
        count: in which call of it.
        name: of the signal.
        pause: seconds that the call then takes longer, unless the signal ends it.
        again: whether the signal comes once more after that.

    """

    where: str
    count: int
    name: str
    pause: float = 0.0
    again: bool = False


@dataclass(frozen=True)
class Ended:
    """How a launch ended.

    Attributes:
        status: its exit status, or minus the signal that killed it.
        seconds: how long it took.
        step: the last saved step of the only distillation in the store.

    """

    status: int
    seconds: float
    step: int | None


def launch(
    stage: str, config: Path, root: Path, disturbances: Sequence[Disturbance | None], *more: object
) -> tuple[list[Ended], str]:
    """Launches a stage (or ``run``) once for every disturbance, one after the other; how each ended, and what was said.

    ``None`` leaves a launch alone.
    """
    plain = [disturbance and astuple(disturbance) for disturbance in disturbances]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, stage, json.dumps(plain), str(config), *map(str, more), "--root", str(root)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(lines) == len(disturbances), done.stderr
    return [Ended(*json.loads(line)) for line in lines], done.stderr
