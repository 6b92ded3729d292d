"""Arrays of a submission as SLURM jobs, through submitit."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.config.cluster import Cluster, Request, in_shell
from pipeline.errors import StageError
from pipeline.launch.element import run_element
from pipeline.launch.plan import Array
from pipeline.launch.refusals import mended
from pipeline.launch.submission import Submission

if TYPE_CHECKING:
    from submitit import Job


# Signals that come before anybody listens would kill the interpreter, and a job that ends so is not put back.
_UNHEARD = """sh -c 'trap "" TERM USR1 USR2; exec "$0" "$@"'"""


@dataclass(frozen=True)
class Slurm:
    """Submits the parts of one submission.

    Attributes:
        submission: gives names, folders and the code that jobs run.
        cluster: gives the interpreter of the nodes.
        file: of the cluster, where that is not the usual one.
        given: name of a job or an array -> its id, of all that SLURM took.

    """

    submission: Submission
    cluster: Cluster
    file: str | None = None
    given: dict[str, str] = field(default_factory=dict)

    def array(self, array: Array, parent: str | None, after: Sequence[str], size: int = 1) -> list[Job[Any]]:
        """The jobs of an array's elements, in their order.

        Args:
            array: what to submit; its id is recorded in the submission.
            parent: the job id of the array that it mirrors, or of which it waits for an element.
            after: ids of jobs that must have ended before.
            size: elements of the parent; an array of one is a plain job.

        Raises:
            StageError: SLURM refused it; its own words.

        """
        several = len(array.elements) > 1
        conditions = []
        if parent is not None and array.behind is not None:
            conditions = [f"afterok:{parent}_{array.behind}" if size > 1 else f"afterok:{parent}"]
        elif parent is not None:
            conditions = [f"{'aftercorr' if several else 'afterok'}:{parent}"]
        if after:
            conditions.append("afterany:" + ":".join(after))
        call = (run_element, str(self.submission.folder), array.name)  # every element finds its index by itself
        # A set whose parent failed ends with it: the job that sweeps what never starts waits for all sets to end.
        hopeless = {"kill_on_invalid_dep": "yes"} if parent is not None and array.stage == "distill" else {}
        executor = self._executor(array.name, array.request, conditions, call, array.request.at_once, hopeless)
        jobs: list[Job[Any]]
        if several:
            repeated = ([argument] * len(array.elements) for argument in call[1:])
            jobs = self._submitted(array.name, lambda: executor.map_array(run_element, *repeated))
        else:
            jobs = [self._submitted(array.name, lambda: executor.submit(*call))]
        self.given[array.name] = jobs[0].job_id.partition("_")[0]
        self.submission.record(array.name, self.given[array.name])
        return jobs

    def single(self, name: str, function: Callable[[str], None], request: Request, after: Sequence[str]) -> Job[Any]:
        """A job of its own that calls ``function`` with the submission's folder once ``after`` have ended."""
        conditions = ["afterany:" + ":".join(after)] if after else []
        call = (function, str(self.submission.folder))
        executor = self._executor(name, request, conditions, call)
        job: Job[Any] = self._submitted(name, lambda: executor.submit(*call))
        self.given[name] = job.job_id
        return job

    def _submitted(self, name: str, submit: Callable[[], Any]) -> Any:
        from submitit.core.utils import FailedJobError

        try:
            return submit()
        except FailedJobError as error:
            reason = "; ".join(line.removeprefix("sbatch: error: ").strip() for line in str(error).strip().splitlines())
            raise StageError(
                f"SLURM refused {name}: {reason}; {self._half()}{mended(reason, self.file)}, or wait for room in the "
                f"queue, and run again: what was submitted is not submitted twice"
            ) from error

    def _half(self) -> str:
        """What became of the rest of a submission that was refused in the middle."""
        if not self.given:
            return ""
        taken = ", ".join(f"{name} (job {job})" for name, job in self.given.items())
        left = [name for name in (*self.submission.rows, "sweep", "aggregate") if name not in self.given]
        return f"submitted and left to run: {taken}; not submitted: {', '.join(left)}; "

    def _executor(
        self,
        name: str,
        request: Request,
        conditions: Sequence[str],
        call: tuple[Any, ...],
        at_once: int | None = None,
        options: Mapping[str, str] | None = None,
    ) -> Any:
        from submitit import SlurmExecutor
        from submitit.core.utils import DelayedSubmission

        folder = self.submission.folder / "jobs" / name
        folder.mkdir(parents=True)
        DelayedSubmission(*call).dump(folder / "job.pkl")
        python = self.cluster.interpreter or shlex.quote(sys.executable)
        executor = SlurmExecutor(folder=folder, python=f"{_UNHEARD} {python}")
        parameters = request.submitit_parameters()
        extra = dict(parameters.pop("additional_parameters", {})) | dict(options or {})
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
            _pickled(shlex.quote(str(folder))),
        ]
        executor.update_parameters(
            **parameters, additional_parameters=extra, setup=setup, job_name=self.submission.job_name(name)
        )
        return executor


def _pickled(folder: str) -> str:
    """A line of shell for the pickle that submitit names after the job only once sbatch has said its number.

    A submitter that is killed in between leaves jobs without one.
    """
    job = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    return f'[ -e {folder}/"{job}_submitted.pkl" ] || cp {folder}/job.pkl {folder}/"{job}_submitted.pkl"'
