"""Cells mirrored to MLflow while they run: off unless ``TEXTDD_TRACKING=mlflow``, and never what counts.

A run is a copy of the cell's files: its config as parameters, ``log.csv`` and the results as metrics (steps are outer
steps, or numbers of initialisations), its folder as a tag. The run's id lies beside the artifact, so that a resumed
cell goes on with the same run, from the last step that is there. Whatever goes wrong here is one line on standard
error; the cell goes on.

MLflow's own variables say where: ``MLFLOW_TRACKING_URI`` (by default ``sqlite:///mlflow.db``, see it with ``mlflow
server``) and ``MLFLOW_EXPERIMENT_NAME`` (by default the task's name).
"""

from __future__ import annotations

import contextlib
import csv
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import fmean, stdev
from types import TracebackType
from typing import Any, TypeVar, cast

from pipeline.config import Distill, Evaluate
from pipeline.parallel import Ranks
from pipeline.stopping import Stopped
from pipeline.store.atomic import read_json, write_json

ASKED = "TEXTDD_TRACKING"
EVERY = 30.0  # seconds between two looks at the files
_DEFAULTS = {  # a server that is away costs seconds, not minutes; nothing about use is sent to anybody
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_BATCH = 100  # parameters that MLflow takes at once; of metrics it takes more
Point = tuple[str, int, float]
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., None])


def tracked(run: F) -> F:
    """A stage's ``run``, mirrored where the environment asks for it; of several ranks only the first one's."""

    @functools.wraps(run)
    def mirrored(config: Distill | Evaluate, out: Path, *rest: Any) -> None:
        follows = any(isinstance(each, Ranks) and not each.first for each in rest)
        with contextlib.nullcontext() if follows or not os.environ.get(ASKED) else _Mirror(config, out):
            run(config, out, *rest)

    return cast(F, mirrored)


class _Mirror:
    """The run of one cell, brought up to date every now and then by a thread of its own."""

    def __init__(self, config: Distill | Evaluate, out: Path) -> None:
        self._config, self._out = config, out
        self._client: Any = None
        self._run = ""
        self._seen: dict[str, set[int]] = {}
        self._resumed, self._broken = False, False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        self._attempt(self._begin)
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        stopped = isinstance(error, Stopped | KeyboardInterrupt)
        self._attempt(self._copy)
        if error is None:
            self._attempt(self._summarise)
        self._attempt(lambda: self._end("FINISHED" if error is None else "KILLED" if stopped else "FAILED"))

    def _attempt(self, action: Callable[[], None]) -> None:
        """Does it, unless something went wrong before."""
        if self._broken:
            return
        try:
            action()
        except Exception as error:
            self._broken = True
            reason = (str(error).strip().splitlines() or [""])[0]
            print(f"not tracked from here on: {type(error).__name__}: {reason}", file=sys.stderr)

    def _follow(self) -> None:
        while not self._over.wait(EVERY):
            self._attempt(self._copy)

    def _begin(self) -> None:
        if os.environ[ASKED] != "mlflow":
            raise ValueError(f"{ASKED}={os.environ[ASKED]} is not known; allowed: mlflow")
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow.tracking import MlflowClient
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"{error}; type: pip install 'textdd[tracking]'") from error
        self._client = MlflowClient()
        known, where = read_json(self._out / "tracking.json"), self._client.tracking_uri
        if known is not None and known["uri"] == where:
            self._run, self._resumed = known["run"], True
            self._client.update_run(self._run, status="RUNNING")
            return
        stage = "distill" if isinstance(self._config, Distill) else "evaluate"
        tags = {"textdd.stage": stage, "textdd.folder": str(self._out.resolve())}
        self._run = self._client.create_run(self._experiment(), run_name=self._out.name, tags=tags).info.run_id
        write_json(self._out / "tracking.json", {"uri": where, "run": self._run})
        self._parameters()

    def _experiment(self) -> str:
        prepare = self._config.source if isinstance(self._config, Distill) else self._config.source.source
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or prepare.task.name
        found = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name) if found is None else found.experiment_id)

    def _parameters(self) -> None:
        from mlflow.entities import Param

        found = [Param(name, str(value)) for name, value in parameters(self._config).items()]
        for some in _batches(found):
            self._client.log_batch(self._run, params=some)

    def _copy(self) -> None:
        """Every point of the files that the run does not have yet."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        fresh = [point for point in points(self._out) if point[1] not in self._steps(point[0])]
        for some in _batches(fresh):
            self._client.log_batch(self._run, metrics=[Metric(key, value, now, step) for key, step, value in some])
            for key, step, _ in some:
                self._seen[key].add(step)

    def _steps(self, key: str) -> set[int]:
        """The steps of a metric that the run has."""
        if key not in self._seen:
            history = self._client.get_metric_history(self._run, key) if self._resumed else []
            self._seen[key] = {metric.step for metric in history}
        return self._seen[key]

    def _summarise(self) -> None:
        """Mean and sample std over initialisations, of an evaluation."""
        if isinstance(self._config, Distill):
            return
        values: dict[str, list[float]] = {}
        for key, _, value in points(self._out):
            values.setdefault(key, []).append(value)
        for key, found in values.items():
            self._client.log_metric(self._run, f"mean/{key}", fmean(found))
            if len(found) > 1:
                self._client.log_metric(self._run, f"std/{key}", stdev(found))

    def _end(self, status: str) -> None:
        names = sorted(path.name for path in self._out.glob("[!.]*.*"))  # not the lease
        self._client.set_tag(self._run, "textdd.files", ", ".join(names))
        self._client.set_terminated(self._run, status)


def parameters(config: Distill | Evaluate) -> dict[str, Any]:
    """Dotted key, as in an experiment's YAML, -> value."""
    whole = config.model_dump(mode="json")
    if isinstance(config, Distill):
        sections = {"distill": whole, "prepare": whole.pop("source")}
    else:
        sections = {"evaluate": whole, "distill": whole.pop("source")}
        sections["prepare"] = sections["distill"].pop("source")
    return {key: value for name, section in sections.items() for key, value in _flat(section, name)}


def _batches(values: list[T]) -> Iterator[list[T]]:
    return (values[start : start + _BATCH] for start in range(0, len(values), _BATCH))


def _flat(values: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}.{name}")
        else:
            yield f"{path}.{name}", value


def points(out: Path) -> Iterator[Point]:
    """Name, step and value of everything that the files of a cell have measured, in their order."""
    for row in _rows(out / "log.csv"):
        yield from (
            (key, int(row["step"]), float(row[key])) for key in row if key not in ("step", "epoch") and row[key]
        )
    for name in ("results.csv", "robustness.csv"):
        for row in _rows(out / name):
            # MLflow allows no = in names
            variant = f"{row['variant'].replace('=', '.')}/" if "variant" in row else ""
            yield f"{variant}{row['split']}/{row['metric']}", int(row["initialisation"]), float(row["value"])


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows that are whole: the last one may be on its way."""
    if path.exists():
        text = path.read_text()
        yield from csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
