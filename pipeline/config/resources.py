"""What a job asks the scheduler for: one level of it as a file has it, and the merged whole."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pipeline.config.schema import Count, Frozen

NOTICE = 90  # seconds between the warning and the time limit: an outer step and a save
_EARLY = 60  # seconds by which SLURM may send the warning too early
UNBOUNDED = 1_000_000  # submitit has no word for an array without a bound
# options of sbatch that have a key of their own, in the order in which they are written
KEYS = {
    "account": "account",
    "partition": "partition",
    "qos": "qos",
    "constraint": "constraint",
    "reservation": "reservation",
    "nodes": "nodes",
    "ntasks-per-node": "tasks",
    "gpus-per-node": "gpus",
    "gres": "gres",
    "cpus-per-task": "cpus",
    "mem": "memory_gb",
    "time": "minutes",
    "mail-user": "mail_user",
    "mail-type": "mail_type",
}
OURS = ("array", "dependency", "error", "job-name", "no-requeue", "open-mode", "output", "requeue", "signal", "wrap")
# what submitit has no argument for goes to it as `additional_parameters`
_SUBMITIT = KEYS.keys() - {"reservation"}


def _one_line(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError(f"{text!r} is not one line of text without blanks around it")
    return text


def _minutes(value: Any) -> Any:
    if isinstance(value, str) and ":" in value:
        raise ValueError(f"{value} is a time of day or a duration; write the number of minutes, such as 720")
    if isinstance(value, str):
        raise ValueError(f"'{value}' is not a number; write the number of minutes alone, such as 720 for 12 hours")
    return value


def _gibibytes(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(f"'{value}' is not a number; write the number of GiB alone, such as 4")
    return value


def _joined(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _lines(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _options(value: Any) -> Any:
    """A mapping of names to values as sorted pairs, whose values are text or ``True``; or ``None`` to take one back."""
    if not isinstance(value, dict):
        return value
    found, pairs = [], []
    for name, given in sorted((str(name), given) for name, given in value.items()):
        if problem := _problem(name):
            found.append(f"{name}: {problem}")
        elif isinstance(given, list | dict) or not str(given).strip() or not str(given).isprintable():
            found.append(f"{name}: {given!r} is not a value; allowed: one line of text, a number, true, false")
        plain = None if given is False else given
        pairs.append((name, plain if plain is None or plain is True else str(plain)))
    if found:
        raise ValueError("\n".join(found))
    return tuple(pairs)


def _problem(name: str) -> str | None:
    """What is wrong with the name of an option of sbatch."""
    bare = name.strip("-").replace("_", "-").lower()
    if bare in OURS:
        return f"set for every job by the pipeline; the options {', '.join(OURS)} are not allowed"
    if bare in KEYS:
        return f"has a key of its own; write {KEYS[bare]}"
    if name != bare:
        return f"write it as {bare}: the long name of an option of sbatch, in lower case and without leading dashes"
    if not re.fullmatch(r"[a-z][a-z0-9]+(-[a-z0-9]+)*", name):
        return "not the long name of an option of sbatch, such as mem-per-gpu or exclude"
    return None


Text = Annotated[str, Field(min_length=1), AfterValidator(_one_line)]
Listed = Annotated[Text | None, BeforeValidator(_joined)]
Minutes = Annotated[Count, BeforeValidator(_minutes)]
Gibibytes = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_gibibytes)]
Some = Annotated[int, Field(ge=0)]
Options = Annotated[tuple[tuple[str, str | bool | None], ...], BeforeValidator(_options)]


class Resources(Frozen):
    """One level of a request; what it does not give is an earlier level's to say.

    Attributes:
        nodes: machines per job.
        tasks: processes per node; several processes share one cell (data-parallel).
        gpus: per node, of the type ``gpu_type``; or ``gres`` in place of both, where a site wants ``--gres``.
        cpus: per process.
        memory_gb: per node, in GiB.
        minutes: time limit; what is not finished by then is saved and queued again.
        at_once: elements of one array that run at the same time.
        cells_per_job: cells that one job of the Python launcher works through.
        cells_per_gpu: cells of one such job that run side by side on a GPU.
        setup: lines of shell before Python starts.
        options: any other option of sbatch: its long name and its value, or ``True`` where it takes none.

    """

    account: Text | None = None
    partition: Listed = None
    qos: Text | None = None
    constraint: Text | None = None
    reservation: Text | None = None
    mail_user: Text | None = None
    mail_type: Listed = None
    nodes: Count | None = None
    tasks: Count | None = None
    gpus: Some | None = None
    gpu_type: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] | None = None
    gres: Text | None = None
    cpus: Count | None = None
    memory_gb: Gibibytes | None = None
    minutes: Minutes | None = None
    at_once: Count | None = None
    cells_per_job: Count | None = None
    cells_per_gpu: Count | None = None
    setup: Annotated[tuple[Text, ...], BeforeValidator(_lines)] = ()
    options: Options = ()

    @model_validator(mode="after")
    def _either(self) -> Resources:
        if self.gres and (self.gpus or self.gpu_type):
            raise ValueError(f"gres: {self.gres} takes the place of gpus and gpu_type; remove it, or those two")
        return self


class Request(Resources):
    """What one job asks for, all levels merged. Hashable: cells with equal requests share an array."""

    nodes: Count = 1
    tasks: Count = 1
    cells_per_job: Count = 1
    cells_per_gpu: Count = 1

    @classmethod
    def merged(cls, levels: Iterable[Resources]) -> Request:
        """The request that ``levels`` make, the later one winning key by key.

        Raises:
            ValueError: they contradict each other.

        """
        total: dict[str, Any] = {}
        options: dict[str, str | bool | None] = {}
        setup: tuple[str, ...] = ()
        for level in levels:
            given = {name: getattr(level, name) for name in level.model_fields_set & Resources.model_fields.keys()}
            if given.get("gres") is not None:
                total = {name: value for name, value in total.items() if name not in ("gpus", "gpu_type")}
            if given.get("gpus") is not None or given.get("gpu_type") is not None:
                total.pop("gres", None)
            setup += given.pop("setup", ())
            options.update(given.pop("options", ()))
            total |= given
        wanted = {name: value for name, value in total.items() if value is not None}
        return cls(**wanted, setup=setup, options={name: value for name, value in options.items() if value is not None})

    @model_validator(mode="after")
    def _possible(self) -> Request:
        if self.gpu_type and self.gpus is None:
            raise ValueError(f"gpu_type: {self.gpu_type} without gpus; say how many")
        if 0 < (self.gpus or 0) < self.tasks:
            raise ValueError(f"tasks: {self.tasks} processes on gpus: {self.gpus}; give each its own, or gpus: 0")
        if self.cells_per_gpu > self.cells_per_job:
            raise ValueError(
                f"cells_per_gpu: {self.cells_per_gpu} is more than a job has; set cells_per_job to at least that"
            )
        if self.cells_per_gpu > 1 and self.processes > 1:
            raise ValueError("cells_per_gpu: cells side by side have one process each; set tasks and nodes to 1")
        return self

    @property
    def processes(self) -> int:
        """Of the whole job; more than one share a cell."""
        return self.nodes * self.tasks

    @property
    def notice(self) -> int:
        """Seconds between the warning and the time limit; less where the whole slot is short."""
        return NOTICE if self.minutes is None else min(NOTICE, 30 * self.minutes)

    @property
    def too_short(self) -> str | None:
        """Why a job that resumes gets nothing done in its slot, or ``None`` where it has the time."""
        if self.minutes is None or 60 * self.minutes > self.notice + _EARLY:
            return None
        return (
            f"minutes: {self.minutes} leaves no time to work: a job is told to save {self.notice} s before its limit, "
            f"and SLURM may tell it a minute too early; give it 5 or more"
        )

    def resources(self) -> dict[str, str | int | bool]:
        """What is asked for, as options of sbatch in the order in which they are written; ``True`` takes no value."""
        written: dict[str, str | int | None] = {name: getattr(self, key) for name, key in KEYS.items()}
        written["gpus-per-node"] = (
            (f"{self.gpu_type}:{self.gpus}" if self.gpu_type else self.gpus) if self.gpus else None
        )
        if self.memory_gb is not None:
            whole = self.memory_gb == int(self.memory_gb)
            written["mem"] = f"{int(self.memory_gb)}G" if whole else f"{math.ceil(self.memory_gb * 1024)}M"
        asked: dict[str, str | int | bool] = {name: value for name, value in written.items() if value is not None}
        return asked | {name: value for name, value in self.options if value is not None}

    def sbatch_lines(self, name: str, output: str, *, warned: bool = True) -> list[str]:
        """The ``#SBATCH`` lines of a script, in a fixed order.

        Args:
            name: of the job.
            output: the log's path with sbatch's patterns, relative to the folder of submission; its folder must exist.
            warned: send SIGUSR2, to the script alone, ahead of the time limit.

        """
        options = {"job-name": name, **self.resources(), "requeue": True, "open-mode": "append", "output": output}
        if warned:
            options["signal"] = f"B:USR2@{self.notice}"
        return [f"#SBATCH {written(option, value)}" for option, value in options.items()]

    def submitit_parameters(self) -> dict[str, Any]:
        """The arguments of submitit's ``SlurmExecutor.update_parameters`` (1.5), all but the job's name."""
        asked = self.resources()
        return {
            **{name.replace("-", "_"): value for name, value in asked.items() if name in _SUBMITIT},
            "additional_parameters": {
                **{name: value for name, value in asked.items() if name not in _SUBMITIT},
                "requeue": True,
            },
            "array_parallelism": self.at_once or UNBOUNDED,
            "setup": list(self.setup),
            "signal_delay_s": self.notice,
            "wckey": None,  # by default submitit's own, which sites that check it refuse
        }


def written(option: str, value: str | int | bool) -> str:
    """An option as a command line has it, quoted for a shell."""
    return f"--{option}" if value is True else f"--{option}={shlex.quote(str(value))}"
