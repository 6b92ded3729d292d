"""What was submitted: array index -> cells, and the code as it was, under ``<logs>/<experiment>/submissions/<id>/``.

``submission.json`` is written before the scheduler hears of anything, and every job carries the submission and the
array in its name, so that a submitter that is killed at any moment leaves no job that nobody can explain. ``code/`` is
a copy of the package: jobs run that, whatever happens to the source tree until they start.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

import pipeline
from pipeline.config import Experiment
from pipeline.config.chain import STAGES
from pipeline.errors import StageError
from pipeline.launch.plan import Place, Plan
from pipeline.launch.scheduler import JobState
from pipeline.launch.stages import name_of
from pipeline.store import Cell, Store
from pipeline.store.atomic import read_json, write_json, write_text
from pipeline.store.provenance import code, now

PREFIX = "textdd"
_CONFIGS: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(kind) for name, kind in STAGES.items()}


@dataclass(frozen=True)
class Row:
    """An array as the table has it.

    Attributes:
        name: of the array.
        stage: of its cells.
        elements: names of the cells by index.
        mirrors: see :class:`~.plan.Array`.
        after: likewise.
        behind: likewise.
        together: cells of an element that share its GPU at a time.
        job: its id, once the scheduler gave it one.

    """

    name: str
    stage: str
    elements: tuple[tuple[str, ...], ...]
    mirrors: str | None = None
    after: tuple[str, ...] = ()
    together: int = 1
    job: str | None = None
    behind: int | None = None

    def parent_of(self, index: int) -> tuple[str, int] | None:
        """The element that one element waits for, by the array's name or job id."""
        return None if self.mirrors is None else (self.mirrors, index if self.behind is None else self.behind)

    def job_of(self, index: int) -> str | None:
        """The id of one element; an array of one is a plain job."""
        if self.job is None:
            return None
        return f"{self.job}_{index}" if len(self.elements) > 1 else self.job


@dataclass
class Submission:
    """One folder.

    Attributes:
        folder: where it is.
        experiment: its name.
        root: the store's root, absolute.
        logs: the folder of all logs, absolute.
        out: the folder of tables and figures, absolute.
        check: whether jobs check the gradient before they distil.
        rows: array name -> what it is.

    """

    folder: Path
    experiment: str
    root: Path
    logs: Path
    out: Path
    rows: dict[str, Row] = field(default_factory=dict)
    check: bool = True

    @classmethod
    def new(
        cls, experiment: Experiment, store: Store, logs: Path, planned: Plan, out: Path, *, check: bool = True
    ) -> Submission:
        """Writes the table, the cells' configs, the experiment and the code of a plan."""
        stamp = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        folder = submissions(logs, experiment.name) / stamp
        made = cls(folder.resolve(), experiment.name, store.root.resolve(), logs.resolve(), out.resolve(), check=check)
        _copy_code(folder / "code")
        write_json(folder / "code" / "provenance.json", code() | {"digest": code_digest()})
        write_text(folder / "experiment.json", experiment.model_dump_json())
        for array in planned.arrays:
            configs = {name_of(cell): cell.config.model_dump(mode="json") for cell in array.cells}
            write_text(folder / "cells" / f"{array.name}.json", json.dumps(configs))
            elements = tuple(tuple(name_of(cell) for cell in element) for element in array.elements)
            made.rows[array.name] = Row(
                array.name,
                array.stage,
                elements,
                array.mirrors,
                array.after,
                array.request.cells_per_gpu,
                behind=array.behind,
            )
        made.save()
        return made

    @property
    def whole(self) -> Experiment:
        """The experiment as it was submitted, also the cells that this submission has not."""
        return Experiment.model_validate(read_json(self.folder / "experiment.json"), strict=False)

    @classmethod
    def read(cls, folder: Path) -> Submission:
        """The submission in ``folder``.

        Raises:
            StageError: there is none.

        """
        table = read_json(folder / "submission.json")
        if table is None:
            raise StageError(f"{folder}: no submission is here; its table was removed, so submit again: pipeline run")
        rows = [
            Row(**row | {"elements": tuple(map(tuple, row["elements"])), "after": tuple(row["after"])})
            for row in table["arrays"]
        ]
        return cls(
            folder,
            table["experiment"],
            Path(table["root"]),
            Path(table["logs"]),
            Path(table["out"]),
            {row.name: row for row in rows},
            table["check"],
        )

    def save(self) -> None:
        """Writes the table."""
        arrays = [asdict(row) for row in self.rows.values()]
        head = {"experiment": self.experiment, "check": self.check}
        places = {"root": str(self.root), "logs": str(self.logs), "out": str(self.out)}
        write_json(self.folder / "submission.json", head | places | {"arrays": arrays})

    def record(self, array: str, job: str) -> None:
        """Remembers the job id of an array."""
        self.rows[array] = replace(self.rows[array], job=job)
        self.save()

    def job_name(self, array: str) -> str:
        """What the scheduler calls an array."""
        return f"{PREFIX}.{self.experiment}.{self.folder.name}.{array}"

    def cells(self, array: str, index: int) -> list[Cell]:
        """The cells of one element.

        Raises:
            StageError: a local file that a cell is addressed by has changed since the submission.

        """
        row, store = self.rows[array], Store(self.root)
        names = row.elements[index]
        configs = read_json(self.folder / "cells" / f"{array}.json") if names else {}
        adapter = _CONFIGS[row.stage]
        found = [store.cell(adapter.validate_python(configs[name], strict=False)) for name in names]
        for name, cell in zip(names, found, strict=True):
            if name_of(cell) != name:
                raise StageError(
                    f"{name}: its data or model files changed after it was submitted (now they make "
                    f"{name_of(cell)}); put them back, or submit again: python -m pipeline run"
                )
        return found


def submissions(logs: Path, experiment: str) -> Path:
    """The folder of an experiment's submissions."""
    return logs / experiment / "submissions"


def all_of(logs: Path, experiment: str, root: Path | None = None) -> Iterator[Submission]:
    """Every submission of an experiment, the oldest first; with ``root`` those whose artifacts are below it."""
    for table in sorted(submissions(logs, experiment).glob("*/submission.json")):
        found = Submission.read(table.parent)
        if root is None or found.root == root.resolve():
            yield found


@dataclass(frozen=True)
class Queued:
    """A job in the scheduler's queue and, by its name, what it was submitted as.

    Attributes:
        job: what the scheduler says of it.
        experiment: its name.
        stamp: the name of the submission's folder.
        array: of the array, or ``sweep`` or ``aggregate``.

    """

    job: JobState
    experiment: str
    stamp: str
    array: str

    @property
    def finishes(self) -> bool:
        """Whether it is one of a submission's last two jobs, which have no cells."""
        return self.array in ("sweep", "aggregate")

    @property
    def stage(self) -> str:
        """Of its cells."""
        return self.array.partition("-")[0]

    @property
    def place(self) -> Place:
        """The element that it is."""
        array, _, index = self.job.id.partition("_")
        return Place(array, int(index or 0))


def queued(logs: Path, jobs: Iterable[JobState]) -> list[Queued]:
    """The jobs that submissions below ``logs`` explain, of whatever experiment; no others are ours."""
    found = []
    for job in jobs:
        name = re.fullmatch(rf"{PREFIX}\.(.+)\.([^.]+)\.([^.]+)", job.name)  # an experiment's name may have dots
        if name is not None and (submissions(logs, name[1]) / name[2] / "submission.json").exists():
            found.append(Queued(job, *name.groups()))
    return found


def jobs_of(submitted: Iterable[Submission]) -> dict[str, list[str]]:
    """Cell name -> ids of all jobs that ever had it, the oldest first."""
    found: dict[str, list[str]] = {}
    for submission in submitted:
        for row in submission.rows.values():
            for index, names in enumerate(row.elements):
                job = row.job_of(index)
                for name in names if job is not None else ():
                    found.setdefault(name, []).append(str(job))
    return found


def code_digest() -> str:
    """SHA-256 over the package's source files."""
    root = Path(pipeline.__file__).parent
    digest = hashlib.sha256()
    for file in _sources(root):
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def note_code(root: Path, experiment: str) -> None:
    """Remembers which code an experiment's plain ``sbatch`` jobs are meant to run: that of now."""
    write_json(_noted(root, experiment), code() | {"digest": code_digest(), "time": now()})


def check_code(root: Path, experiment: str, noting: str = "python -m pipeline array CONFIG STAGE") -> None:
    """Whether the code is still the one that was noted; ``noting`` is the command that would note it.

    Raises:
        StageError: it was edited since.

    """
    noted = read_json(_noted(root, experiment))
    if noted is not None and noted["digest"] != code_digest():
        revision = f" (git revision {noted['git_revision']})" if noted["git_revision"] else ""
        raise StageError(
            f"the code has changed since this job was submitted, {noted['time']}{revision}; put it back, or accept the "
            f"code as it is now: {noting} notes it, then scontrol requeue this job"
        )


def _noted(root: Path, experiment: str) -> Path:
    return root / "submitted" / f"{experiment}.json"


def _sources(root: Path) -> list[Path]:
    return sorted(file for file in root.rglob("*") if file.suffix in (".py", ".yaml", ".csv", ".j2", ".typed"))


def _copy_code(target: Path) -> None:
    root = Path(pipeline.__file__).parent
    for file in _sources(root):
        place = target / "pipeline" / file.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
