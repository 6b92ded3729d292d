"""What a grid will cost, before it is submitted: one measured slice per class of cells, and how often it is in each.

Cells that differ in seeds, step sizes and the number of their steps only are one class. Its slice
(:mod:`pipeline.probe`) says how fast each kind of work is here; how much of each kind a cell is follows from its config
(:mod:`pipeline.work.cells`). Of robust protocols, whose variants are not counted, nothing is predicted. Slices are
kept in the store (``probes/``) and measured anew on another machine or with another thread count. Predictions are kept
too: ``status`` and ``run --dry-run`` use them until cells like that are done, and here they are compared with what
cells then took.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.config import (
    DDAL,
    Composed,
    Coreset,
    Distill,
    Evaluate,
    Experiment,
    FineTune,
    Generated,
    OnVectors,
    Prepare,
    RandomReal,
    Robust,
    RobustOnVectors,
    Stage,
)
from pipeline.errors import StageError
from pipeline.launch.machine import cores
from pipeline.launch.running import run_stage
from pipeline.launch.stages import StageName, name_of, stage_cells
from pipeline.store import Cell, Store
from pipeline.store.atomic import read_json, write_json
from pipeline.store.cost import Cost
from pipeline.store.predictions import Prediction, remember
from pipeline.store.usage import cpu_model

ASSUMED = (
    "Assumed: the machine, its load, threads and device of this measurement ({where}); a process per cell, as with "
    "--cluster slurm (one for all, or one that others are forks of, starts once); FLOPs by formula at the measured "
    "rates; herding, k-centres, k-means and the writing of files take no time. Memory is that of the slice, largest "
    "batch included: on a CPU, where freed memory is kept, cells of many steps were seen to reach 2.3 times as much."
)
_NOT_COST = {"lr": 1e-2, "lr_labels": None, "lr_attention": None, "lr_learning_rates": None, "weight_decay": 0.0}


@dataclass(frozen=True)
class Line:
    """The cells of one class: what is predicted of each (None: ``trouble`` says why), and what those took."""

    stage: StageName
    what: str
    cells: tuple[Cell, ...]
    predicted: tuple[Prediction, ...] | None
    costs: tuple[Cost | None, ...]
    trouble: str = ""


def estimate(experiment: Experiment, store: Store, say: Callable[[str], None], *, again: bool = False) -> list[Line]:
    """Prepares what is not prepared, measures what was not measured, and predicts every cell.

    Args:
        experiment: with hub revisions resolved.
        store: of its artifacts; slices and predictions are kept there.
        say: is told what is being measured.
        again: measure anew what was measured before.

    Raises:
        StageError: a task could not be prepared.

    """
    outcome = run_stage(stage_cells(experiment, store, "prepare"), "prepare", store)
    if outcome.failed:
        raise StageError("; ".join(f"{name}: {why}" for name, why in outcome.failed.items()))
    classes: dict[tuple[StageName, str], list[Cell]] = defaultdict(list)
    stages: tuple[StageName, ...] = ("distill", "evaluate")
    for stage in stages:
        for cell in stage_cells(experiment, store, stage):
            whole = class_of(cell.config)
            classes[stage, whole.model_dump_json()].append(cell)
            if again and not isinstance(whole, Prepare):
                (_folder(whole, store) / "slice.json").unlink(missing_ok=True)
    lines = []
    for number, ((stage, _), cells) in enumerate(classes.items(), 1):
        say(f"slice {number}/{len(classes)}: {stage} {_what(cells)}")
        lines.append(_line(stage, cells, store))
    named = [
        (name_of(cell), one) for line in lines for cell, one in zip(line.cells, line.predicted or (), strict=False)
    ]
    unknown = [name_of(cell) for line in lines if line.predicted is None for cell in line.cells]
    remember(store.root, dict(named), unknown)
    return lines


def class_of(config: Stage) -> Stage:
    """The config with everything at one value that changes neither the pace of the work nor the memory."""
    if isinstance(config, Prepare):
        return config
    if isinstance(config, Distill):
        if isinstance(config.method, Composed):
            parts = [_drawn(class_of(one)) for one in config.made_of]
            return config.model_copy(update={"method": config.method.of(parts), "seed": 0})
        start = config.parent if config.method.parents is not None and config.method.parents.required else None
        return config.model_copy(update={"method": _method_class(config.method), "seed": 0, "parent": start})
    protocol: Any = config.protocol
    if isinstance(protocol, FineTune):
        plain: dict[str, Any] = {"steps": 200, "epochs": None, "lr": 1e-4, "weight_decay": 0.01, "warmup_ratio": 0.5}
        kept = protocol.select is not None  # the pace of scoring dev is that of the splits
        protocol = protocol.model_copy(update=plain | {"epochs": 1 if kept else None, "max_grad_norm": 1.0})
    together = 1
    if isinstance(protocol, OnVectors):
        together = min(config.initialisations, protocol.together)
        plain = {"steps": 1000, "epochs": None, "lr": 1e-3, "weight_decay": 0.01, "select": None}
        protocol = protocol.model_copy(update=plain)
    source = _drawn(class_of(config.source))
    return config.model_copy(update={"source": source, "protocol": protocol, "initialisations": together, "seed": 0})


def _drawn(source: Stage) -> Distill:
    """The set, or a random one: which texts they are does not matter to those who train on them."""
    assert isinstance(source, Distill)
    if not isinstance(source.method, Coreset | Generated):
        return source
    budget = source.method.budget if isinstance(source.method, Coreset) else "uniform"
    drawn = RandomReal(name="random", shots=source.method.shots, budget=budget)
    return source.model_copy(update={"method": drawn, "parent": None})


def _method_class(method: Any) -> Any:
    if not isinstance(method, DDAL):
        return method
    outer = method.outer.model_copy(update={**_NOT_COST, "epochs": 1, "steps": None, "warmup_ratio": 0.1})
    validation = method.validation.model_copy(update={"every": None, "initialisations": 1, "by": "loss"})
    return method.model_copy(
        update={
            **{"labels": "hard", "attention_weight": 1.0, "warm_start": None, "learning_rate": 1e-2},
            **{"outer": outer, "validation": validation},
        }
    )


def _line(stage: StageName, cells: Sequence[Cell], store: Store) -> Line:
    what, costs = _what(cells), tuple(cell.cost() if cell.state == "done" else None for cell in cells)
    config = cells[0].config
    if isinstance(config, Evaluate) and isinstance(config.protocol, Robust | RobustOnVectors):
        why = f"protocol '{config.protocol.name}' trains by some 25 variants per initialisation, which are not counted"
        return Line(stage, what, tuple(cells), None, costs, why)
    try:
        found = measured(stage, class_of(cells[0].config), store)
    except StageError as error:
        return Line(stage, what, tuple(cells), None, costs, str(error))
    return Line(stage, what, tuple(cells), tuple(_predicted(cell.config, found, store) for cell in cells), costs)


def measured(stage: StageName, config: Stage, store: Store) -> dict[str, Any]:
    """The slice of a class: from the store, or measured now.

    Raises:
        StageError: it failed.

    """
    assert isinstance(config, Distill | Evaluate)
    folder = _folder(config, store)
    found: dict[str, Any] | None = read_json(folder / "slice.json")
    if found is not None:
        return found
    if isinstance(config, Evaluate):
        measured("distill", config.source, store)
    parts = config.made_of if isinstance(config, Distill) and isinstance(config.method, Composed) else ()
    for one in parts:
        measured("distill", one, store)
    source = config.source if isinstance(config, Distill) else config.learned
    made = folder if isinstance(config, Distill) else _folder(config.source, store)
    request: dict[str, Any] = {
        "stage": stage,
        "config": config.model_dump(mode="json"),
        "set": str((made / "distilled.h5").absolute()),
    }
    request |= {"time": time.time()}  # from which on the process starts and imports
    request["prepared"] = str(store.cell(source).folder.absolute())
    if isinstance(config, Evaluate):
        request["own"] = str(store.cell(config.source.source).folder.absolute())
    request["parts"] = [str(_folder(one, store).absolute()) for one in parts]
    write_json(folder / "request.json", request)
    paths = [str((folder / name).absolute()) for name in ("request.json", "answer.json")]
    done = subprocess.run([sys.executable, "-m", "pipeline.probe", *paths], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise StageError(f"the slice failed: {last}")
    found = read_json(folder / "answer.json")
    assert found is not None
    write_json(folder / "slice.json", found)
    return found


def _folder(config: Distill | Evaluate, store: Store) -> Path:
    conditions = {
        **{"revision": 1, "cpu": cpu_model(), "cores": int(cores())},
        **{"threads": os.environ.get("OMP_NUM_THREADS"), "runtime": config.runtime.model_dump(mode="json")},
    }
    identity = json.dumps([conditions, store.identity(config)], sort_keys=True)
    return store.root / "probes" / hashlib.sha256(identity.encode()).hexdigest()[:16]


def _predicted(config: Stage, found: dict[str, Any], store: Store) -> Prediction:
    from pipeline import work

    wall, cpu = found["startup"]
    if isinstance(config, Distill):
        whole = work.of_distill(config, store.cell(config.source).folder)
    else:
        assert isinstance(config, Evaluate)
        whole = work.of_evaluate(config, store.cell(config.learned).folder)
    for kind, amount in asdict(whole).items():
        if amount:
            flops, seconds, processor = found["rates"][kind]
            wall, cpu = wall + amount / flops * seconds, cpu + amount / flops * processor
    return Prediction(round(wall, 3), round(cpu, 3), found["usage"]["peak_mb"], found["usage"]["gpu_peak_mb"])


def table(lines: Sequence[Line], at_once: int) -> str:
    """For people: a line per class and a sum per stage; where cells are done, how far the prediction was off.

    Args:
        lines: from :func:`estimate`.
        at_once: processes of ``--cluster local``.

    """
    head = ("stage", "cells", "done", "s each", "hours", "CPU hours", "peak MB", "off", "CPU off")
    rows: list[tuple[str, ...]] = []
    for stage in ("distill", "evaluate"):
        of_stage = [line for line in lines if line.stage == stage]
        rows += [_row(f"  {line.what}", [line]) for line in of_stage]
        rows.append(_row(f"{stage} in all", of_stage))
    rows.append(_row("all", lines))
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    shown = [
        "  ".join(
            f"{text:<{w}}" if not at else f"{text:>{w}}" for at, (text, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    ]
    trouble = [f"not measured: {line.stage} {line.what}: {line.trouble}" for line in lines if line.trouble]
    undone = [one for line in lines for one, cost in _all_pairs(line) if cost is None]
    hours = sum(one.seconds for one in undone) / 3600
    sums = f"left to do: {hours:.2f} hours, one cell after the other; {hours / at_once:.2f} with {at_once} at once, if"
    sums += " they do not slow each other down" + ("; what is not measured comes on top" if trouble else "")
    where = f"{cpu_model()}, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}"
    return "\n".join([*shown, "", *trouble, *([sums] if undone else []), *_errors(lines), ASSUMED.format(where=where)])


def _row(what: str, lines: Sequence[Line]) -> tuple[str, ...]:
    cells = sum(len(line.cells) for line in lines)
    done = sum(cost is not None for line in lines for cost in line.costs)
    found = [one for line in lines for one in line.predicted or ()]
    if not found:
        return what, str(cells), str(done), "?", "?", "?", "?", "", ""
    seconds = [one.seconds for one in found]
    pairs = [pair for line in lines for pair in _pairs(line)]
    wall = _off([(one.seconds, cost.seconds) for one, cost in pairs])
    processor = _off([(one.cpu_seconds, cost.cpu_seconds) for one, cost in pairs if cost.cpu_seconds is not None])
    low, high = min(seconds), max(seconds)
    each = f"{high:.1f}" if high < 1.05 * low + 0.05 else f"{low:.1f} … {high:.1f}"
    hours, cpu = sum(seconds) / 3600, sum(one.cpu_seconds for one in found) / 3600
    peak = max(one.peak_mb for one in found)
    return what, str(cells), str(done), each, f"{hours:.3f}", f"{cpu:.3f}", f"{peak:,.0f}", wall, processor


def _errors(lines: Sequence[Line]) -> Iterator[str]:
    """The error of the prediction over the cells that are done."""
    pairs = [pair for line in lines for pair in _pairs(line)]
    if not pairs:
        return
    yield f"Predicted against what the {len(pairs)} cells that are done took (their ledger):"
    wall = [(one.seconds, cost.seconds) for one, cost in pairs]
    cpu = [(one.cpu_seconds, cost.cpu_seconds) for one, cost in pairs if cost.cpu_seconds is not None]
    peak = [(one.peak_mb, cost.peak_mb) for one, cost in pairs if cost.peak_mb is not None]
    for name, found in (("wall", wall), ("processor", cpu)):
        if _off(found):
            ours, theirs = (sum(values) / 3600 for values in zip(*found, strict=True))
            each = statistics.median(abs(a / b - 1) for a, b in found if b > 0)
            yield (
                f"  {name} time {ours:.3f} h against {theirs:.3f} h: {_off(found)}; "
                f"median of the cells' errors {100 * each:.0f} %"
            )
    if peak:
        worst = max(peak, key=lambda pair: pair[1])
        yield f"  memory: at most {worst[1]:,.0f} MB, where {worst[0]:,.0f} MB were predicted"


def _off(found: Sequence[tuple[float, float]]) -> str:
    """How far sums of (predicted, actual) are apart; empty where nothing was measured."""
    ours, theirs = sum(a for a, _ in found), sum(b for _, b in found)
    return f"{100 * (ours / theirs - 1):+.0f} %" if theirs else ""


def _pairs(line: Line) -> list[tuple[Prediction, Cost]]:
    return [(one, cost) for one, cost in _all_pairs(line) if cost is not None]


def _all_pairs(line: Line) -> list[tuple[Prediction, Cost | None]]:
    return list(zip(line.predicted, line.costs, strict=True)) if line.predicted is not None else []


def _what(cells: Sequence[Cell]) -> str:
    """What the cells of a class have in common."""
    config = cells[0].config
    assert not isinstance(config, Prepare)
    if isinstance(config, Distill):
        beside = f" with {' and '.join(config.encoders[1:])}" if config.others else ""
        return f"{config.source.task.name} {config.method.slug}{beside}"
    other = "" if config.data is None else f" on {config.data.model_slug}"
    return f"{config.source.source.task.name} {config.source.method.slug}, {config.protocol.name}{other}"
