"""The cluster's file, by default ``configs/cluster.yaml``: the requests of every stage, and where files lie there.

A request is made of levels, the later one winning key by key: :data:`DEFAULTS`, ``slurm.all``, ``slurm.<stage>``, then
every entry of ``cells`` whose ``where`` fits the cell, in the order of the file. ``setup`` lines add up, ``options``
merge by name, ``null`` asks for nothing, and of ``gpus`` and ``gres`` the later level's counts.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, ValidationError, model_validator

from pipeline.config.chain import Stage
from pipeline.config.problems import sentences
from pipeline.config.resources import Gibibytes, Minutes, Request, Resources, Text
from pipeline.config.schema import Count, Frozen
from pipeline.config.where import Rule
from pipeline.errors import InputError

__all__ = ["JOBS", "Cluster", "JobName", "Request", "RetryReason", "in_shell"]
JobName = Literal["prepare", "distill", "evaluate", "aggregate"]
RetryReason = Literal["out_of_memory", "timeout"]
JOBS: tuple[JobName, ...] = get_args(JobName)


def _place(text: str) -> str:
    if re.search(r"[\"`\\]|\$(?!\w|{\w+})", text):
        raise ValueError(f"{text!r} is not a path; it may have a leading ~ and variables, $SCRATCH or ${{SCRATCH}}")
    return text


Place = Annotated[Text, AfterValidator(_place)]
Factor = Annotated[float, Field(ge=1, allow_inf_nan=False)]


class Factors(Frozen):
    """What the next submission asks for, as a multiple of this one's."""

    memory: Factor = 1
    minutes: Factor = 1


class Limit(Frozen):
    """What a retry does not ask for more than."""

    memory_gb: Gibibytes | None = None
    minutes: Minutes | None = None


class OnRetry(Frozen):
    """What a cell asks for after it ran out of memory or of time. Memory is the node's: no GPU has more of it."""

    out_of_memory: Factors = Factors(memory=2)
    timeout: Factors = Factors(minutes=2)
    limit: Limit = Limit()


class Local(Frozen):
    """The executor ``local``: ``at_once`` processes of this machine."""

    at_once: Count = 2


class PrepareResources(Resources):
    """Stage 1 runs ``here``, where a run is started and there is a network, or as a ``job`` like the others."""

    where: Literal["here", "job"] = "here"


class Slurm(Frozen):
    """Requests per stage; ``all`` holds for each of them."""

    all: Resources = Resources()
    prepare: PrepareResources = PrepareResources()
    distill: Resources = Resources()
    evaluate: Resources = Resources()
    aggregate: Resources = Resources()


DEFAULTS: dict[JobName, Resources] = {
    "prepare": Resources(minutes=120, gpus=0, cpus=4, memory_gb=16),
    "distill": Resources(minutes=720, gpus=1, cpus=4, memory_gb=32, at_once=64),
    "evaluate": Resources(minutes=240, gpus=1, cpus=4, memory_gb=32, at_once=64),
    "aggregate": Resources(minutes=30, gpus=0, cpus=2, memory_gb=8),
}


class Cluster(Frozen):
    """One cluster, or one account on it.

    Attributes:
        root: folder of all artifacts; ``$TEXTDD_ROOT`` counts where it is set; without either ``checkpoints``.
        hub_cache: what the Hugging Face libraries download goes below this folder; by default to their own place.
        logs: folder of the logs.
        python: the interpreter on compute nodes; by default the one that submits.
        prefix: words before it, such as ``apptainer exec --nv image.sif``.
        attempts: a cell that failed this often in the same way is left alone.
        on_retry: more memory or time after running out of it.
        local: the executor ``local``.
        slurm: requests per stage.
        cells: requests of some cells.

    """

    root: Place | None = None
    hub_cache: Place | None = None
    logs: Place = "logs"
    python: Place | None = None
    prefix: Text | None = None
    attempts: Count = 3
    on_retry: OnRetry = OnRetry()
    local: Local = Local()
    slurm: Slurm = Slurm()
    cells: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Cluster:
        found: dict[str, None] = {}
        for stage in JOBS:
            alone = _contradictions([*self._levels(stage)])
            found |= {f"slurm.{stage}: {problem}": None for problem in alone}
            for number, rule in enumerate(self.cells):
                if not alone and (level := getattr(rule, stage, None)) is not None:
                    merged = _contradictions([*self._levels(stage), level])
                    found |= {f"cells.{number}.{stage}: {problem}": None for problem in merged}
        if found:
            raise ValueError("\n".join(found))
        return self

    def request(
        self, config: Stage | None, stage: JobName, retry_after: Mapping[RetryReason, int] | None = None
    ) -> Request:
        """What the job of an artifact asks for.

        Args:
            config: of the stage or a later one, which contains it; ``None`` for what a stage asks for where no rule
                fits, and for ``aggregate``.
            stage: one of :data:`JOBS`.
            retry_after: how many attempts at this artifact ended out of memory, and at their time limit.

        Raises:
            InputError: entries of ``cells`` that all fit it contradict each other.

        """
        levels, fitting = [*self._levels(stage)], dict[str, Resources]()
        if config is not None and stage != "aggregate":
            asked = ((f"cells.{number}.{stage}", rule) for number, rule in enumerate(self.cells))
            fitting = {
                name: level for name, rule in asked if (level := getattr(rule, stage)) is not None and rule.fits(config)
            }
        try:
            request = Request.merged([*levels, *fitting.values()])
        except ValidationError as error:  # each goes with its stage, which was checked when the file was read
            assert config is not None
            raise InputError(
                f"{' and '.join(fitting)} contradict each other for {config.slug}: "
                f"{'; '.join(sentences(error, Request, {}))}; or narrow the where of one of them"
            ) from None
        return self._grown(request, retry_after) if retry_after else request

    def fits_nothing(self, cells: Collection[Stage]) -> list[str]:
        """The entries of ``cells`` that ask for something for none of these: misspelt, or for another experiment."""
        return [
            f"cells.{number}, where {', '.join(f'{key}: {value}' for key, value in rule.where.items())}"
            for number, rule in enumerate(self.cells)
            if not any(map(rule.fits, cells))
        ]

    @property
    def root_folder(self) -> Path | None:
        """``root`` with ``~`` and variables replaced; raises as :func:`expanded`."""
        return None if self.root is None else expanded("root", self.root)

    @property
    def logs_folder(self) -> Path:
        """``logs`` with ``~`` and variables replaced; raises as :func:`expanded`."""
        return expanded("logs", self.logs)

    @property
    def prepares_here(self) -> bool:
        """Whether stage 1 runs where a run is started."""
        return self.slurm.prepare.where == "here"

    @property
    def interpreter(self) -> str | None:
        """``prefix`` and ``python`` as a shell takes them; ``None`` where neither is given."""
        python = "python" if self.python is None else in_shell(self.python)
        return f"{self.prefix} {python}" if self.prefix is not None else python if self.python is not None else None

    def environment(self) -> dict[str, str]:
        """Variables that lead every process to the folders of this file; values are as written there."""
        found = {}
        if self.root is not None:
            found["TEXTDD_ROOT"] = self.root
        if self.hub_cache is not None:  # not HF_HOME, where the token of a login lies
            found |= {"HF_HUB_CACHE": f"{self.hub_cache}/hub", "HF_DATASETS_CACHE": f"{self.hub_cache}/datasets"}
        return found

    def _levels(self, stage: JobName) -> Iterator[Resources]:
        yield from (DEFAULTS[stage], self.slurm.all, getattr(self.slurm, stage))

    def _grown(self, request: Request, retry_after: Mapping[RetryReason, int]) -> Request:
        memory = minutes = 1.0
        for reason, times in retry_after.items():
            factors: Factors = getattr(self.on_retry, reason)
            memory *= factors.memory**times
            minutes *= factors.minutes**times
        limit, more = self.on_retry.limit, {}
        if request.memory_gb is not None:
            more["memory_gb"] = _bounded(request.memory_gb, memory, limit.memory_gb)
        if request.minutes is not None:
            more["minutes"] = math.ceil(_bounded(request.minutes, minutes, limit.minutes))
        return request.model_copy(update=more)


def expanded(name: str, written: str, file: object = "the cluster's file") -> Path:
    """A path of a cluster's file with ``~`` and variables replaced.

    Args:
        name: its key.
        written: as it stands there.
        file: the path of the file, for people.

    Raises:
        InputError: a variable is not set.

    """
    path = os.path.expanduser(os.path.expandvars(written))
    if unset := re.search(r"\$\{?\w+\}?", path):
        raise InputError(f"{file}: {name}: {written}: {unset[0]} is not set here; set it, or write the path out")
    return Path(path)


def in_shell(written: str) -> str:
    """A path of a cluster's file as one word of bash, which fills in ``~`` and variables and stops at an empty one."""
    home = "$HOME" + written[1:] if written == "~" or written.startswith("~/") else written
    return '"' + re.sub(r"\$\{?(\w+)\}?", r"${\1:?}", home) + '"'


def _contradictions(levels: list[Resources]) -> list[str]:
    try:
        Request.merged(levels)
    except ValidationError as error:
        return sentences(error, Request, {})
    return []


def _bounded(value: float, factor: float, limit: float | None) -> float:
    """Never less than what was asked for before."""
    return value * factor if limit is None else max(value, min(value * factor, limit))
