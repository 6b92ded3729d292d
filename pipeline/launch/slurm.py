"""Arrays of a submission as SLURM jobs, through submitit."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any

from pipeline.config.cluster import Cluster, Request, in_shell
from pipeline.errors import StageError
from pipeline.launch.element import run_element
from pipeline.launch.plan import Array
from pipeline.launch.submission import Submission

if TYPE_CHECKING:
    from submitit import Job


@dataclass(frozen=True)
class Slurm:
    """Submits the parts of one submission.

    Attributes:
        submission: gives names, folders and the code that jobs run.
        cluster: gives the interpreter of the nodes.

    """

    submission: Submission
    cluster: Cluster

    def array(self, array: Array, parent: str | None, after: Sequence[str]) -> list[Job[Any]]:
        """The jobs of an array's elements, in their order.

        Args:
            array: what to submit; its id is recorded in the submission.
            parent: the job id of the array that it mirrors.
            after: ids of jobs that must have ended before.

        Raises:
            StageError: SLURM refused it; its own words.

        """
        several = len(array.elements) > 1
        conditions = [] if parent is None else [f"{'aftercorr' if several else 'afterok'}:{parent}"]
        if after:
            conditions.append("afterany:" + ":".join(after))
        executor = self._executor(array.name, array.request, conditions, at_once=array.request.at_once)
        folder = str(self.submission.folder)
        jobs: list[Job[Any]]
        if several:
            indices = range(len(array.elements))
            jobs = _submitted(lambda: executor.map_array(run_element, repeat(folder), repeat(array.name), indices))
        else:
            jobs = [_submitted(lambda: executor.submit(run_element, folder, array.name, 0))]
        self.submission.record(array.name, jobs[0].job_id.partition("_")[0])
        return jobs

    def single(self, name: str, function: Callable[[str], None], request: Request, after: Sequence[str]) -> Job[Any]:
        """A job of its own that calls ``function`` with the submission's folder once ``after`` have ended."""
        conditions = ["afterany:" + ":".join(after)] if after else []
        executor = self._executor(name, request, conditions)
        job: Job[Any] = _submitted(lambda: executor.submit(function, str(self.submission.folder)))
        return job

    def _executor(self, name: str, request: Request, conditions: Sequence[str], at_once: int | None = None) -> Any:
        from submitit import SlurmExecutor

        executor = SlurmExecutor(folder=self.submission.folder / "jobs" / name, python=self.cluster.interpreter)
        parameters = request.submitit_parameters()
        extra = dict(parameters.pop("additional_parameters", {}))
        if conditions:
            extra["dependency"] = ",".join(conditions)
        if at_once is not None:
            parameters["array_parallelism"] = at_once
        code = shlex.quote(str(self.submission.folder / "code"))
        setup = [
            *parameters.pop("setup", []),
            *(f"export {name}={in_shell(value)}" for name, value in self.cluster.environment().items()),
            'export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"',  # as sbatch/env.sh
            f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}",
            "export PYTHONSAFEPATH=1",  # the folder of the submission must not come before the copy of the code
        ]
        executor.update_parameters(
            **parameters, additional_parameters=extra, setup=setup, job_name=self.submission.job_name(name)
        )
        return executor


def _submitted(submit: Callable[[], Any]) -> Any:
    from submitit.core.utils import FailedJobError

    try:
        return submit()
    except FailedJobError as error:
        reason = " ".join(str(error).split())
        raise StageError(
            f"SLURM refused the job: {reason}; correct configs/cluster.yaml and run again: what was submitted before "
            f"is found and not submitted twice"
        ) from error
