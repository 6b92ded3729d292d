"""Stages in processes of their own, each of which gets a signal in the middle of a given call of a given function."""

from __future__ import annotations

import importlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline import __main__ as command
from pipeline.launch import stage_command
from tests.forked import Forked


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

    def begin(self) -> None:
        """From now on the calls are counted."""
        module, _, path = self.where.partition(":")
        owner = importlib.import_module(module)
        *holders, function = path.split(".")
        for holder in holders:
            owner = getattr(owner, holder)
        true, calls = getattr(owner, function), []

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == self.count:
                os.kill(os.getpid(), getattr(signal, self.name))
                time.sleep(self.pause)
                if self.again:
                    os.kill(os.getpid(), getattr(signal, self.name))
            return true(*args, **kwargs)

        setattr(owner, function, counted)


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


def disturbed(stage: str, disturbances: Sequence[Disturbance]) -> None:
    """A stage's command line (or that of all stages: ``run``) in this process, which the signals come to."""
    for disturbance in disturbances:
        disturbance.begin()
    command.main() if stage == "run" else stage_command(stage)  # type: ignore[arg-type]


def launch(
    stage: str, config: Path, root: Path, disturbances: Sequence[Disturbance | None], *more: object
) -> tuple[list[Ended], str]:
    """Launches a stage (or ``run``) once for every disturbance, one after the other; how each ended, and what was said.

    ``None`` leaves a launch alone.
    """
    words = [*["run"] * (stage == "run"), config, *more, "--root", root]
    ended, said = [], ""
    for disturbance in disturbances:
        began = time.monotonic()
        process = Forked(partial(disturbed, stage, [disturbance] if disturbance else []), *words)
        said += process.communicate()[1]
        (saved,) = list(root.glob("distill/*/progress.pt")) or [None]
        step = saved and torch.load(saved, weights_only=True)["step"]
        ended.append(Ended(process.wait(), time.monotonic() - began, step))
    return ended, said
