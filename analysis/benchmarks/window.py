"""Time and memory of one outer step on sentence vectors: what a window of W steps costs as the horizon T grows.

    python -m analysis.benchmarks.window                # minutes; stop and go on at any time

Run from the repository root. The MLP (384 -> 256 -> 4), M = 40 vectors in every step, Adam, one student, 1,024 real
rows, all random: what they are changes neither time nor memory. Contenders:

``adjoint``, ``unroll``             W = 40 differentiated steps at the end of T, the others without a graph
``full-adjoint``, ``full-unroll``   all T steps differentiated (Full-BPTT)
``published``                       as the public NLP code: the graph of all T steps, data detached outside the window
``before``                          the T - W steps without a graph alone, with which a window may grow

Fresh processes take turns; numbers are the median over timed steps after a first one. Memory is the peak minus what the
process held before. Rows go to ``results/window.csv`` as they are measured; ``--again`` measures what is there anew.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.benchmarks.measure import (
    RESULTS,
    Outcome,
    Peak,
    Table,
    hardware,
    one_machine,
    report,
    time_steps,
    versions,
)

MODULE = "analysis.benchmarks.window"
CONTENDERS = ("adjoint", "unroll", "full-adjoint", "full-unroll", "published", "before")
M, D, C, REAL, W = 40, 384, 4, 1024, 40
HORIZONS = (100, 200, 400)
KEY = ("student", "threads", "M", "W", "T", "hardware")
COLUMNS = (
    *("student", "threads", "M", "W", "T", "contender", "seconds", "cpu_seconds", "peak_mb", "status", "reason"),
    *("steps", "disturbed", "warmup_seconds", "base_mb", "absolute_mb", "hardware", "versions"),
)


# In the child ------------------------------------------------------------------------------------------------------


def child(request: dict[str, Any]) -> None:
    """Measures one contender at one horizon and reports."""
    import torch

    from pipeline.students.device import keep_freed_memory

    torch.set_num_threads(request["threads"])
    keep_freed_memory()  # as stage 2 does
    step = outer_step(request["contender"], request["student"], request["T"])
    peak = Peak(torch.device("cpu"))
    report("ready")
    began = time.perf_counter()
    step()
    report("warm", seconds=time.perf_counter() - began)
    time_steps(step, request["steps"])
    report("done", **peak.found())


def outer_step(contender: str, student: str, T: int) -> Callable[[], object]:
    """One hypergradient, or what comes before its window."""
    import torch

    from pipeline.bilevel import Adam, InnerBatch, descend, hypergradient
    from pipeline.config import Mlp, Transformer
    from pipeline.students.vectors import VectorStudent

    config = Mlp(name="mlp") if student == "mlp" else Transformer(name="transformer", dropout=0.0)
    model = VectorStudent(config, D, C, "cpu")
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(M, D, generator=generator).requires_grad_()
    real = {"vectors": torch.randn(REAL, D, generator=generator), "labels": torch.arange(REAL) % C}
    batch = InnerBatch(vectors, torch.eye(C)[torch.arange(M) % C], None, 0.0, torch.tensor(1e-3))
    batches, theta = [batch] * T, model.initial(0, [0])
    if contender == "before":
        return lambda: descend(model, theta, batches[: T - W], optimiser=Adam())
    estimator: Any = contender.removeprefix("full-")
    window = None if contender.startswith("full-") else W
    if contender == "published":
        estimator, window = "unroll", None
        batches = [replace(batch, inputs=vectors.detach())] * (T - W) + batches[T - W :]

    def once() -> torch.Tensor | None:
        vectors.grad = None
        hypergradient(estimator, model, theta, batches, [real], optimiser=Adam(), window=window)
        return vectors.grad

    return once


# In the parent -----------------------------------------------------------------------------------------------------


def measure(T: int, options: argparse.Namespace, table: Table) -> None:
    """All contenders at one horizon, taking turns; writes their lines."""
    outcomes = {name: Outcome() for name in CONTENDERS}
    with one_machine(options.threads) as environment:
        for _ in range(options.rounds):
            for name, outcome in outcomes.items():
                request = {"contender": name, "student": options.student, "T": T, "threads": options.threads}
                outcome.run(MODULE, request | {"steps": options.steps}, environment)
                print(f"  T = {T} {name}: {outcome}", flush=True)
    if any(outcome.status == "disturbed" for outcome in outcomes.values()):
        print(f"T = {T}: the machine ran short of memory; not written down, run again")
        return
    lines = [{"contender": name, "versions": versions()} | outcome.columns() for name, outcome in outcomes.items()]
    table.put(_key(T, options), lines)


def verdicts(lines: Sequence[Mapping[str, str]]) -> list[str]:
    """From the shortest horizon to the longest: how step time, without that of the steps before, and memory grew."""
    found = []
    for contender in CONTENDERS[:-1]:
        by_horizon = {int(line["T"]): line for line in lines if line["contender"] == contender and line["seconds"]}
        before = {int(line["T"]): line for line in lines if line["contender"] == "before" and line["seconds"]}
        known = sorted(by_horizon.keys() & before.keys())
        if len(known) < 2:
            continue
        first, last = known[0], known[-1]
        inside = contender in ("adjoint", "unroll")
        times = [
            float(by_horizon[T]["cpu_seconds"]) - (float(before[T]["cpu_seconds"]) if inside else 0)
            for T in (first, last)
        ]
        peaks = [float(by_horizon[T]["peak_mb"]) for T in (first, last)]
        found.append(
            f"{contender}: T = {first} -> {last}: {times[0]:.2f} -> {times[1]:.2f} s of CPU per step"
            f"{' beyond the steps before the window' if inside else ''} ({times[1] / times[0]:.2f} x), "
            f"{peaks[0]:.0f} -> {peaks[1]:.0f} MB ({peaks[1] / peaks[0]:.2f} x)"
        )
    return found


def _key(T: int, options: argparse.Namespace) -> dict[str, Any]:
    place = {"threads": options.threads, "hardware": options.hardware}
    return {"student": options.student, "M": M, "W": W, "T": T, **place}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is missing and prints how it grows."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description="time and memory of a window")
    parser.add_argument("--student", default="mlp", choices=("mlp", "transformer"))
    parser.add_argument("--horizons", default=",".join(map(str, HORIZONS)))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2, help="fresh processes per contender")
    parser.add_argument("--steps", type=int, default=5, help="timed steps per process")
    parser.add_argument("--again", action="store_true", help="measure what is there too")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        child(json.loads(options.child))
        return
    options.hardware = hardware("cpu")
    table = Table(options.out / "window.csv", COLUMNS, KEY)
    for T in map(int, options.horizons.split(",")):
        there = {line["contender"] for line in table.at(_key(T, options)) if line["status"] != "failed"}
        if options.again or not there.issuperset(CONTENDERS):
            measure(T, options, table)
    own = {"student": options.student, "threads": str(options.threads), "hardware": options.hardware}
    print(*verdicts([line for line in table.lines if own.items() <= line.items()]), sep="\n")


if __name__ == "__main__":
    main()
