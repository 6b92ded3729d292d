"""Time and memory of one outer step: every estimator against the two baselines of ``published.py``, side by side.

    python -m analysis.benchmarks.hypergradient --threads 1,2     # the whole table: days; stop and go on at any time
    python -m analysis.benchmarks.hypergradient --short           # two rows with a target: minutes (make bench)
    python -m analysis.benchmarks.hypergradient --errors          # relative errors, float64 and float32

Run from the repository root. Every number is from fresh processes that take turns, so that a drift of the machine
hits all contenders alike: the median over all timed steps, after one that compiles and warms up (``warmup_seconds``:
of the slowest process; the compile cache is empty at first). Memory is the peak minus what the process held when model
and data were loaded. A row above 5 minutes per step or 18 GiB is ``skipped``. Rows go to ``results/hypergradient.csv``
as they are measured, one line per contender and baseline; ``--again`` measures what is there once more.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.benchmarks.floor import step_flop
from analysis.benchmarks.measure import (
    GIB,
    RESULTS,
    RSS_LIMIT,
    STEP_LIMIT,
    Outcome,
    Peak,
    Table,
    hardware,
    one_machine,
    ratio,
    report,
    time_steps,
    versions,
)
from analysis.benchmarks.targets import BASELINES, FLOOR, GROWTH, OURS, REAL, SHORT, SIZES, Row, rows, verdicts
from pipeline.students.flops import Sizes

MODULE = "analysis.benchmarks.hypergradient"
GRAPHS = (*BASELINES, "unroll")  # keep the graph of all T steps
PRECISIONS = ("fp32", "tf32", "fp32+bf16", "tf32+bf16")
WARMUP_STEPS = 3  # inner steps of the warm-up: first, middle and last occur, and nothing else has a shape of its own
KEY = ("model", "threads", "M", "S", "T", "precision", "hardware")
COLUMNS = (
    *("model", "threads", "M", "S", "T", "precision", "estimator", "baseline", "seconds", "cpu_seconds", "peak_mb"),
    *(
        "time_ratio",
        "memory_ratio",
        "status",
        "reason",
        "steps",
        "disturbed",
        "warmup_seconds",
        "base_mb",
        "absolute_mb",
    ),
    *("gflop", "gflop_per_second", "floor_seconds", "above_floor", "hardware", "versions"),
)


# In the child ------------------------------------------------------------------------------------------------------


def child(request: dict[str, Any]) -> None:
    """Measures one contender at one row and reports."""
    import torch

    from analysis.benchmarks.floor import gemm_rate, synchronise
    from analysis.benchmarks.problem import LearnedTensors, load, outer_step, real_batch

    device = torch.device(request["device"])
    torch.set_num_threads(request["threads"])
    row, contender = Row(request["model"], *request["size"]), request["contender"]
    sizes = SIZES[row.model]
    if contender == "gemm":
        torch.backends.cuda.matmul.allow_tf32 = request["precision"].startswith("tf32")
        report("done", rate=gemm_rate(sizes, row.M * row.S, device), peak_mb=0.0)
        return
    model = load(row.model, device)
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (sizes.layers, sizes.hidden)
    real = real_batch(model)
    learned = LearnedTensors.draw(model, row.size).to(torch.float32)
    short = LearnedTensors.draw(model, (row.M, row.S, min(row.T, WARMUP_STEPS))).to(torch.float32)
    synchronise(device)
    peak = Peak(device)
    report("ready")
    step = outer_step(contender, model, real, request["precision"])

    def once(tensors: LearnedTensors) -> None:
        for leaf in tensors.named().values():
            leaf.grad = None
        loss = step(tensors)
        synchronise(device)
        assert math.isfinite(loss.item()), "the outer loss is not finite"

    began = time.perf_counter()
    once(short)
    report("warm", seconds=time.perf_counter() - began)
    time_steps(lambda: once(learned), request["steps"], request["budget"])
    report("done", **peak.found())


# In the parent -----------------------------------------------------------------------------------------------------


def measure(row: Row, contenders: Sequence[str], options: argparse.Namespace, threads: int, table: Table) -> None:
    """All contenders at one row, taking turns; writes its lines and prints them."""
    key = _key(row, threads, options)
    outcomes = {name: Outcome(on_cpu=options.device == "cpu") for name in contenders}
    for name, outcome in outcomes.items():
        outcome.reason = hopeless(name, key, table.lines) if options.device == "cpu" else ""
        outcome.status = "skipped" if outcome.reason else "measured"
    gemm = Outcome()
    with one_machine(threads) as environment:
        for _ in range(options.rounds):
            for name, outcome in [("gemm", gemm), *outcomes.items()]:
                request = {"contender": name, "model": row.model, "size": row.size, "threads": threads}
                request |= {"device": options.device, "precision": options.precision}
                outcome.run(MODULE, request | {"steps": options.steps, "budget": options.budget}, environment)
                print(f"  {name}: {outcome}", flush=True)
    if any(outcome.status == "disturbed" for outcome in outcomes.values()):
        print(f"{row}: the machine ran short of memory; not written down, run again")
        return
    rate = gemm.facts.get("rate")
    lines = list(_lines(row, outcomes, rate))
    table.put(key, lines)
    for line in table.at(key):
        if line["baseline"] == BASELINES[0]:
            print(_sentence(line))


def _lines(row: Row, outcomes: Mapping[str, Outcome], rate: float | None) -> Sequence[dict[str, Any]]:
    """One line per contender and baseline."""
    flop = step_flop(SIZES[row.model], row.size, REAL)
    floor = flop / rate if rate else None
    common: dict[str, Any] = {"gflop": flop / 1e9, "gflop_per_second": rate and rate / 1e9, "floor_seconds": floor}
    common["versions"] = versions()
    lines = []
    for name, outcome in outcomes.items():
        mine = {**outcome.columns(), "estimator": name, "above_floor": ratio(outcome.median(), floor)}
        for baseline in BASELINES:
            other = outcomes.get(baseline, Outcome())
            ratios = {
                "time_ratio": ratio(other.median(), outcome.median()),
                "memory_ratio": ratio(other.peak(), outcome.peak()),
            }
            lines.append({**common, **mine, "baseline": baseline, **ratios})
    return lines


def hopeless(contender: str, key: Mapping[str, Any], lines: Sequence[Mapping[str, str]]) -> str:
    """Why this row need not be tried, or nothing. Only ever used to skip."""
    row = Row(key["model"], key["M"], key["S"], key["T"])
    sizes = SIZES[row.model]
    if contender in GRAPHS:
        expected = graph_bytes(sizes, row.size)
        if expected > 1.25 * RSS_LIMIT:
            return f"about {expected / GIB:.0f} GiB by the formula, over {RSS_LIMIT // GIB} GiB"
    for line in lines:
        if any(line[name] != str(key[name]) for name in ("model", "precision", "hardware")):
            continue
        smaller = all(int(line[name]) <= key[name] for name in ("M", "S", "T"))
        if line["estimator"] != contender or not smaller:
            continue
        there = f"M = {line['M']}, S = {line['S']}, T = {line['T']}"
        if line["status"] == "skipped" and "GiB" in line["reason"]:
            return f"over {RSS_LIMIT // GIB} GiB at {there} already"
        if line["threads"] != str(key["threads"]):
            continue
        if line["status"] == "skipped":
            return f"over {STEP_LIMIT:.0f} s per step at {there} already"
        same = (line["M"], line["S"]) == (str(row.M), str(row.S))
        if same and line["seconds"] and float(line["seconds"]) * row.T / int(line["T"]) > 1.3 * STEP_LIMIT:
            return f"{float(line['seconds']):.0f} s per step at {there}: over {STEP_LIMIT:.0f} s here"
    return ""


def graph_bytes(sizes: Sizes, size: tuple[int, int, int]) -> float:
    """What the graph through T inner steps of the stock module keeps, roughly.

    Per step, fitted to measurements: 25 hidden-sized values per token and layer, 3.4 attention maps per layer and head,
    and four copies of the parameters.
    """
    M, S, T = size
    tokens = 25.0 * sizes.layers * M * S * sizes.hidden
    maps = 3.4 * sizes.layers * M * sizes.heads * S * S
    return 4.0 * T * (tokens + maps + 4 * sizes.layers * sizes.layer)


def _key(row: Row, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    place = {"threads": threads, "precision": options.precision, "hardware": options.hardware}
    return {"model": row.model, "M": row.M, "S": row.S, "T": row.T, **place}


def _sentence(line: Mapping[str, str]) -> str:
    place = f"{line['model']} M={line['M']} S={line['S']} T={line['T']} threads {line['threads']} {line['precision']}"
    if line["status"] != "measured":
        return f"{place}  {line['estimator']:<15} {line['status']}: {line['reason']}"
    taken = f"{line['seconds']:>7} s {line['peak_mb']:>7} MB"
    ratios = f"{line['time_ratio'] or '-':>6} x speed, {line['memory_ratio'] or '-':>6} x memory"
    floor = f"{line['above_floor'] or '-'} x floor"
    return f"{place}  {line['estimator']:<15} {taken}  published / this: {ratios}  {floor}  {line['steps']} steps"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is missing, prints the verdicts and draws the figures."""
    options = _options(arguments)
    if options.child:
        child(json.loads(options.child))
        return
    options.hardware = hardware(options.device)
    if options.errors:
        import torch

        from analysis.benchmarks import errors

        torch.set_num_threads(int(options.threads.partition(",")[0]))
        estimators = [name for name in options.estimators.split(",") if name != "unroll"]
        written = Table(options.out / "errors.csv", errors.COLUMNS, errors.KEY)
        errors.measure(estimators, written, torch.device(options.device), options.hardware)
        return
    table = Table(options.out / "hypergradient.csv", COLUMNS, KEY)
    wanted = [Row.parse(text) for text in options.rows.split(",")] if options.rows else rows(options.device)
    if options.short:
        wanted, options.rounds, options.budget = list(SHORT), 1, 10.0
    for row in wanted:
        for threads in map(int, options.threads.split(",")):
            contenders = [*BASELINES, *options.estimators.split(",")]
            if row in GROWTH and "fused" in contenders and not options.short:
                contenders += [name for name in OURS if name not in contenders]
            found = {line["estimator"] for line in table.at(_key(row, threads, options)) if line["status"] != "failed"}
            if options.again or not found.issuperset(contenders):
                measure(row, contenders, options, threads, table)
    here = [line for line in table.lines if line["hardware"] == options.hardware]
    print(*verdicts(here, options.device.partition(":")[0]), sep="\n")
    aims = [float(line["above_floor"]) for line in here if line["above_floor"] and line["estimator"] == "fused"]
    if aims:
        print(f"fused above the floor: {min(aims):.2f} x to {max(aims):.2f} x (aim: at most {FLOOR} x)")
    from analysis.benchmarks.figures import draw

    draw(here, options.out)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description="time and memory of one outer step")
    parser.add_argument("--short", action="store_true", help="two rows with a target, one round")
    parser.add_argument("--errors", action="store_true", help="relative errors instead of time and memory")
    parser.add_argument("--rows", help="model:M:S:T,… instead of the whole table")
    parser.add_argument("--threads", default="1", help="1,2: every row at each")
    parser.add_argument("--estimators", default="unroll,adjoint,fused")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS, help="of every contender; +bf16: real batch")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes per contender")
    parser.add_argument("--steps", type=int, default=3, help="timed steps per process, at most")
    parser.add_argument(
        "--budget", type=float, default=30.0, help="seconds after which a process times no further step"
    )
    parser.add_argument("--again", action="store_true", help="measure what is there too")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
