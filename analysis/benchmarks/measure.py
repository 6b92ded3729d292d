"""Measuring in fresh processes: what a child reports, what a parent forbids, and the CSV that it ends in.

A child prints one JSON object per line: ``ready`` (model and data are loaded), ``warm``, one ``step`` after another,
``done`` with the memory it took. The parent reads them and ends a child that takes too much memory or too long.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

GIB = 2**30
RSS_LIMIT = 18 * GIB
STEP_LIMIT = 300.0  # seconds a step may take
START_LIMIT = 900.0  # seconds that loading, compiling and warming up may take
LEAST_FREE = GIB  # what the machine must have left, whoever took the rest
RESULTS = Path(__file__).resolve().parent / "results"


# In the child ------------------------------------------------------------------------------------------------------


def report(event: str, **facts: Any) -> None:
    """One line to the parent."""
    print(json.dumps({"event": event, **facts}), flush=True)


class Peak:
    """Highest memory from now on: of this process, or of the GPU it uses.

    Args:
        device: a torch device.

    """

    def __init__(self, device: Any) -> None:
        self._device = device
        if device.type == "cuda":
            import torch

            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            self._base = torch.cuda.memory_allocated(device)
        else:
            self._base = _process_memory("VmRSS")
            with contextlib.suppress(OSError):  # Linux: the high-water mark starts again from what is held now
                Path("/proc/self/clear_refs").write_text("5")

    def found(self) -> dict[str, float]:
        """MB: ``base_mb`` at the start, ``absolute_mb`` at the highest, ``peak_mb`` their difference."""
        if self._device.type == "cuda":
            import torch

            highest = torch.cuda.max_memory_allocated(self._device)
        else:
            highest = _process_memory("VmHWM")
        sizes = {"base_mb": self._base, "absolute_mb": highest, "peak_mb": highest - self._base}
        return {name: round(size / 1e6, 1) for name, size in sizes.items()}


def _process_memory(field_name: str, process: int | str = "self") -> int:
    """Bytes, from /proc; for this process, where there is no /proc, the highest so far."""
    try:
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(f"{field_name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if process != "self":
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def time_steps(step: Callable[[], object], steps: int, seconds: float = float("inf")) -> None:
    """Reports ``steps`` timed steps, fewer where they have taken ``seconds``; ``step`` must end what it started."""
    spent = 0.0
    for _ in range(steps):
        began, cpu = time.perf_counter(), time.process_time()
        step()
        took = time.perf_counter() - began
        report("step", seconds=took, cpu=time.process_time() - cpu)
        spent += took
        if spent > seconds:
            return


# In the parent -----------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What fresh processes of one contender at one row found.

    Attributes:
        seconds: of every timed step, by the clock.
        cpu: the same in seconds of CPU time, over all threads: what other work on the machine disturbs least.
        warmups: of every process's first step, compilation in it.
        facts: what the children reported beside, of the last one.
        peaks: MB per process.
        status: ``measured``, ``skipped`` (over a limit), ``failed``, or ``disturbed`` (the machine was short of memory
            through no fault of this row's; not written down).
        reason: why it is not ``measured``.
        on_cpu: CPU time says whether the clock can be trusted: a step that was given its CPU for less than 80 % of the
            time by the clock was disturbed, and counts only where all were.

    """

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    warmups: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    status: str = "measured"
    reason: str = ""
    on_cpu: bool = True

    def median(self) -> float | None:
        """Seconds per step, by the clock."""
        counted = [wall for wall, _ in self._counted()]
        return statistics.median(counted) if self.status == "measured" and counted else None

    def _counted(self) -> list[tuple[float, float]]:
        """(clock, CPU) seconds of the steps that nothing disturbed, or of all where there is none."""
        steps = list(zip(self.seconds, self.cpu, strict=True))
        calm = [(wall, cpu) for wall, cpu in steps if not self.on_cpu or cpu >= 0.8 * wall]
        return calm or steps

    def peak(self) -> float | None:
        """MB above what model and data take: the highest of all processes."""
        return max(self.peaks) if self.status == "measured" and self.peaks else None

    def columns(self) -> dict[str, Any]:
        """The columns that both benchmarks have."""
        measured, counted = self.status == "measured", self._counted()
        return {
            "seconds": self.median(),
            "cpu_seconds": statistics.median(cpu for _, cpu in counted) if measured and counted else None,
            "peak_mb": self.peak(),
            "base_mb": self.facts.get("base_mb"),
            "absolute_mb": self.facts.get("absolute_mb"),
            "status": self.status,
            "reason": self.reason,
            "steps": len(counted),
            "disturbed": len(self.seconds) - len(counted),
            "warmup_seconds": max(self.warmups, default=None),
        }

    def __str__(self) -> str:
        if self.status != "measured":
            return f"{self.status} ({self.reason})"
        if not self.seconds:
            return "done"
        wall, cpu = self.seconds[-1], self.cpu[-1]
        waited = f" (only {cpu:.2f} s of CPU time: disturbed)" if self.on_cpu and cpu < 0.8 * wall else ""
        return f"{wall:.2f} s, {self.peaks[-1]:.0f} MB{waited}"

    def run(self, module: str, request: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        """One more fresh process, unless one before it did not end well."""
        if self.status == "measured":
            _fresh(self, module, request, environment)


def _fresh(outcome: Outcome, module: str, request: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen(
            [sys.executable, "-m", module, "--child", json.dumps(request)],
            stdout=out,
            stderr=err,
            env={**os.environ, **environment},
        )
        try:
            outcome.status, outcome.reason = _watch(child, out.fileno(), RSS_LIMIT if outcome.on_cpu else None)
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
        for event in _events(out.fileno()):
            _note(outcome, event)
        if outcome.status == "measured" and child.returncode:
            err.seek(0)
            last = (err.read().strip() or f"exit status {child.returncode}").splitlines()[-1]
            full = "out of memory" in last.lower()
            outcome.status, outcome.reason = "skipped" if full else "failed", last[:200]


def _watch(child: subprocess.Popen[bytes], out: int, most: int | None) -> tuple[str, str]:
    """Waits for the child's end; status and reason where it had better not go on."""
    latest, heard, started = time.monotonic(), 0, False
    while child.poll() is None:
        time.sleep(0.05)
        size = os.fstat(out).st_size
        if size != heard:
            latest, heard = time.monotonic(), size
            started = started or any(event["event"] == "warm" for event in _events(out))
        waited, limit = time.monotonic() - latest, STEP_LIMIT if started else START_LIMIT
        if waited > limit:
            return "skipped", f"over {limit:.0f} s " + ("per step" if started else "before the first timed step")
        if most is not None and _process_memory("VmRSS", child.pid) > most:
            return "skipped", f"over {most // GIB} GiB"
        if _available() < LEAST_FREE:
            return "disturbed", "the machine ran short of memory"
    return "measured", ""


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 2**60
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def _events(out: int) -> list[dict[str, Any]]:
    text = os.pread(out, os.fstat(out).st_size, 0).decode(errors="replace")
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.startswith('{"event"') and "\n" in line]


def _note(outcome: Outcome, event: dict[str, Any]) -> None:
    kind = event.pop("event")
    if kind == "step":
        outcome.seconds.append(event["seconds"])
        outcome.cpu.append(event["cpu"])
        if event["seconds"] > STEP_LIMIT and outcome.status == "measured":
            outcome.status, outcome.reason = "skipped", f"over {STEP_LIMIT:.0f} s per step"
    elif kind == "warm":
        outcome.warmups.append(event["seconds"])
    elif kind == "done":
        outcome.peaks.append(event["peak_mb"])
    outcome.facts |= event


@contextlib.contextmanager
def one_machine(threads: int) -> Iterator[dict[str, str]]:
    """Environment of the children of one row: their threads, and a compile cache of their own that starts empty."""
    with tempfile.TemporaryDirectory() as cache:
        count = str(threads)
        yield {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "TORCHINDUCTOR_CACHE_DIR": cache}


def ratio(over: float | None, under: float | None) -> float | None:
    """Nothing where one of them was not measured."""
    return None if over is None or not under else over / under


def hardware(device: str) -> str:
    """The GPU's name, or the CPU's with its cores and memory."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB"


def versions() -> str:
    """Of what decides the numbers."""
    return f"python {platform.python_version()}, torch {version('torch')}, transformers {version('transformers')}"


class Table:
    """A CSV that grows row by row; what is in it is not measured again.

    Args:
        path: the file; made with its folder at the first row.
        columns: in order.
        key: the columns that name a row; lines of one key are replaced together.

    """

    def __init__(self, path: Path, columns: Sequence[str], key: Sequence[str]) -> None:
        self.path, self.columns, self._key = path, list(columns), list(key)
        self.lines: list[dict[str, str]] = []
        if path.exists():
            with path.open(newline="") as file:
                self.lines = list(csv.DictReader(file))

    def at(self, key: Mapping[str, Any]) -> list[dict[str, str]]:
        """The lines of one key."""
        return [line for line in self.lines if all(line[name] == str(key[name]) for name in self._key)]

    def put(self, key: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> None:
        """Replaces the lines of one key and writes the file, whole or not at all."""
        gone = self.at(key)
        kept = [line for line in self.lines if line not in gone]
        self.lines = kept + [{name: _text({**key, **line}.get(name)) for name in self.columns} for line in lines]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(".partial")
        with aside.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.lines)
        os.replace(aside, self.path)


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
