"""Plain ``sbatch``: one script per stage, rendered from the cluster's file, and the array that is left to do.

The scripts are for those who want to see what a job does, or to start it by hand; an element of an array is a position
in the grid, and computes that one cell. What ``cells_per_job`` and ``cells_per_gpu`` say is the Python launcher's.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Experiment
from pipeline.config.cluster import JOBS, Cluster, JobName, Request, in_shell
from pipeline.config.resources import written
from pipeline.config.typed import Typed
from pipeline.errors import InputError
from pipeline.launch.scheduler import ranges
from pipeline.launch.stages import MODULES, StageName, stage_configs
from pipeline.stopping import REQUEUE_STATUS
from pipeline.store import Cell, Store
from pipeline.store.atomic import write_text
from pipeline.store.history import SLOTS

_MODULES: dict[JobName, str] = dict(zip(JOBS, (*MODULES.values(), "pipeline.stage4_aggregate"), strict=True))
_SCRIPTS = {stage: module.removeprefix("pipeline.stage") + ".sbatch" for stage, module in _MODULES.items()}

_HEAD = """\
#!/bin/bash
# Rendered by `python -m pipeline sbatch` from configs/cluster.yaml, or another --cluster-file: edit that, not this one.
#
#   @usage@
#
# in the folder of the repository@after@. What is done already is not done again.@note@
@lines@

cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
if [ ! -f sbatch/env.sh ]; then
    echo "no sbatch/env.sh in $PWD: submit from the folder of the repository" >&2
    exit 2
fi
"""

# The traps stand before all that takes time: a signal that nobody expects ends the shell and the job with it.
_TRAPS = """\

# SIGUSR2 (the time limit is near) and SIGTERM (pre-empted, cancelled) come to this shell, which hands them on. Tasks of
# a step get SIGTERM from SLURM itself; srun would kill them.
child='' told='' several=''
((${SLURM_NTASKS:-1} > 1)) && several=yes
forward() {
    told=$1
    if [ -n "$child" ] && [ "$1$several" != TERMyes ]; then kill -s "$1" "$child" 2>/dev/null; fi
}
trap 'forward USR1' USR1
trap 'forward USR2' USR2
trap 'forward TERM' TERM
"""

_SETUP = """\

export TEXTDD_STAGE=@stage@
source sbatch/env.sh
set +eu # whatever env.sh left behind
@setup@"""

_LOG = """\
log=$(readlink "/proc/$$/fd/1") && [ -f "$log" ] && export TEXTDD_LOG=$log # for `status`, wherever --output led it
"""

_RUN = """\
[ -z "$several" ] || command=(srun ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} "${command[@]}")
early=''
if [ -n "$told" ]; then # before there was anything to save
    if [ "$told" = TERM ]; then code=143; else code=@saved@ early=yes; fi
else
    "${command[@]}" &
    child=$!
    [ -z "$told" ] || { sleep 1 && forward "$told"; } # it came while the child began, too early for it
    wait "$child"
    code=$?
    while [ -n "$told" ] && ((code > 128)); do # not the end of the child: a signal ends `wait` too
        told=''
        wait "$child"
        code=$?
    done
fi

# SLURM tells all of the job that it ends, more than once: what is asked from here on must outlive that.
trap '' HUP INT CONT TERM USR1 USR2
# An element is ARRAY_INDEX: SLURM_JOB_ID of an array's last element is the id of the whole array.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
preempted() { # a job that leaves within its grace is over for SLURM, and one that was cancelled has to be
    local facts
    facts=" $(scontrol --oneliner show job "$job" 2>/dev/null) "
    case $facts in *" JobState=RUNNING "*) ;; *) return 1 ;; esac
    case $facts in *" PreemptTime=None "* | *" PreemptTime=N/A "*) return 1 ;; *" PreemptTime="*) return 0 ;; esac
    return 1
}
case $code in
    0) again='' ;;
    @saved@) again=yes ;;
    138 | 140) again=yes early=yes ;; # SIGUSR1, SIGUSR2 before Python was listening
    *) if preempted; then again=yes; else again=''; fi ;;
esac
if [ -n "$early" ] && ((${SLURM_RESTART_COUNT:-0} >= @slots@)); then
    echo "job $job is not queued again: its time is over before Python listens; give it more minutes" >&2
    again='' code=1
fi
if [ -n "$again" ]; then
    said=$(scontrol requeue "$job" 2>&1) || case $said in
        *"pending execution"*) ;; # SLURM was faster
        *) echo "job $job could not be requeued: $said; submit it again to go on" >&2 ;;
    esac
fi
exit "$code"
"""


def render(cluster: Cluster) -> dict[str, str]:
    """The script of every stage: file name -> text.

    Raises:
        InputError: a variable in the path of the logs is not set here; SLURM replaces none.

    """
    return {_SCRIPTS[stage]: _script(cluster, stage) for stage in JOBS}


def write(cluster: Cluster, folder: Path = Path("sbatch")) -> list[Path]:
    """Writes all scripts, and makes the folder that their output goes to: without it SLURM drops it, and the job."""
    scripts = {folder / name: text for name, text in render(cluster).items()}
    for path, text in scripts.items():
        write_text(path, text)
    _outputs(cluster).mkdir(parents=True, exist_ok=True)
    return list(scripts)


def stale(cluster: Cluster, folder: Path = Path("sbatch")) -> list[str]:
    """The scripts that are not what ``cluster`` says, in the order of the stages."""
    return [name for name, text in render(cluster).items() if _read(folder / name) != text]


@dataclass(frozen=True)
class Part:
    """What one call of ``sbatch`` submits.

    Attributes:
        array: the value of ``--array``.
        options: what these cells ask for beyond the script's own lines; ``None`` where no option can say it.

    """

    array: str
    options: tuple[str, ...] | None


@dataclass(frozen=True)
class Left:
    """The artifacts of one stage that are left to do, and how many are where.

    Attributes:
        parts: what has to be submitted; the cells that need nothing beyond the script first.
        counts: how many artifacts are ``left``, ``done``, ``running``, ``given up``, or ``waiting`` for what another
            position makes, for one that runs or for one that was given up.

    """

    parts: tuple[Part, ...]
    counts: Mapping[str, int]

    def __str__(self) -> str:
        return ", ".join(f"{count} {state}" for state, count in self.counts.items())


def left(experiment: Experiment, store: Store, stage: StageName, cluster: Cluster, limit: int | None = None) -> Left:
    """What is left of a stage, each artifact once: the first position of the grid that needs it.

    A position stands for its set and the parents that it starts from, one after the other. No two positions of an array
    have one of them in common: the others wait until it is done.

    Args:
        experiment: the grid.
        store: where the artifacts are.
        stage: one of the first three.
        cluster: what the cells ask for, and after how many equal failures one is given up.
        limit: the cluster's ``MaxArraySize``, which positions must be below.

    Raises:
        InputError: a position is too large.

    """
    states: dict[Path, str] = {}
    taken: set[Path] = set()
    base = cluster.request(None, stage)
    found: dict[tuple[tuple[str, ...] | None, int | None], list[int]] = {((), base.at_once): []}
    for position, evaluate in experiment.computed.items():
        cells = [store.cell(config) for config in stage_configs(evaluate, stage)]
        for cell in cells:
            if cell.folder not in states:
                states[cell.folder] = _state(cell, cluster)
        chain = [cell for cell in cells if states[cell.folder] != "done"]
        if not chain or any(states[cell.folder] != "left" or cell.folder in taken for cell in chain):
            continue
        if limit is not None and position >= limit:
            raise InputError(
                f"{experiment.name}: position {position} of the grid is beyond this cluster's arrays (MaxArraySize "
                f"{limit}: up to {limit - 1}); {experiment.typed.command('run', '--cluster', 'slurm')} splits them"
            )
        taken |= {cell.folder for cell in chain}
        request, *others = (cluster.request(cell.config, stage, cell.failures()) for cell in chain)
        options = None if any(other != request for other in others) else _beyond(request, base)
        found.setdefault((options, request.at_once), []).append(position)
    counts = {state: list(states.values()).count(state) for state in ("left", "done", "running", "given up")}
    if waiting := counts["left"] - len(taken):
        counts |= {"left": len(taken), "waiting": waiting}
    parts = [Part(compressed(positions, most), options) for (options, most), positions in found.items() if positions]
    return Left(tuple(parts), counts)


def _state(cell: Cell, cluster: Cluster) -> str:
    if cell.state in ("done", "running"):
        return cell.state
    return "given up" if cell.exhausted(cluster.attempts) else "left"


def array(experiment: Experiment, store: Store, stage: StageName, cluster: Cluster, *, limit: int | None = None) -> str:
    """The value of ``sbatch --array`` for what is left of a stage; makes the folder of its output.

    Standard error has the counts, and how the cells are submitted that need more than the script gives.

    Raises:
        InputError: nothing is left; all that is left needs more than the script gives; a position is too large.

    """
    found = left(experiment, store, stage, cluster, limit)
    if not found.parts:
        given_up = f"; {experiment.typed.command('retry')} takes up what was given up"
        retry = given_up if found.counts["given up"] else ""
        raise InputError(f"{experiment.name}: nothing is left of {stage}: {found}{retry}")
    whole = [part for part in found.parts if part.options == ()][:1]
    advice = [_advice(part, stage, experiment.typed) for part in found.parts if part not in whole]
    if not whole:
        raise InputError(
            f"{experiment.name}: what is left of {stage} asks for more than the script gives: {'; '.join(advice)}"
        )
    again = "; those that wait can be submitted when what they start from is done" if "waiting" in found.counts else ""
    print(f"{experiment.name}: {stage}: {found}{again}", file=sys.stderr)
    for line in advice:
        print(f"not in this array, because they ask for more than the script gives: {line}", file=sys.stderr)
    _outputs(cluster).mkdir(parents=True, exist_ok=True)
    return whole[0].array


def compressed(positions: Sequence[int], at_once: int | None = None) -> str:
    """Increasing positions as sbatch takes them: ``0,3,5-7``, and ``%64`` after it for 64 at once."""
    return ranges(positions) + ("" if at_once is None else f"%{at_once}")


def _script(cluster: Cluster, stage: JobName) -> str:
    request, resumes = cluster.request(None, stage), stage != "aggregate"
    options = "--array=$(python -m pipeline array CONFIG " + stage + ") " if stage in ("distill", "evaluate") else ""
    before = dict(zip(JOBS[1:], JOBS, strict=False)).get(stage)
    after = f", when {before} has ended, or with\n# --dependency=afterany:JOB (sbatch/README.md)" if before else ""
    note = "\n# Without --array, one job computes all cells in turn." if options else ""
    log = "%x-%A_%a.out" if options else "%x-%j.out"
    lines = request.sbatch_lines(f"textdd-{stage}", str(_outputs(cluster) / log), warned=resumes)
    exports = [f"export {name}=${{{name}:-{in_shell(value)}}}" for name, value in cluster.environment().items()]
    python = cluster.interpreter or "python"
    index = ' ${SLURM_ARRAY_TASK_ID:+--index "$SLURM_ARRAY_TASK_ID"}' if resumes else ""
    called = f'{python} -m {_MODULES[stage]} "$@"{index}'
    run = _RUN.replace("@saved@", str(REQUEUE_STATUS)).replace("@slots@", str(SLOTS))
    end = f"{_LOG}command=({called})\n{run}" if resumes else f"exec {called}\n"
    setup = "".join(f"{line}\n" for line in [*request.setup, *exports])
    return (
        _HEAD.replace("@usage@", f"sbatch {options}sbatch/{_SCRIPTS[stage]} CONFIG")
        .replace("@after@", after)
        .replace("@note@", note)
        .replace("@lines@", "\n".join(lines))
        + (_TRAPS if resumes else "")
        + _SETUP.replace("@stage@", stage).replace("@setup@", setup)
        + f"\n{end}"
    )


def _outputs(cluster: Cluster) -> Path:
    return cluster.logs_folder / "slurm"


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _beyond(request: Request, base: Request) -> tuple[str, ...] | None:
    """The options of sbatch by which a request differs from the one that the script has."""
    asked, has = request.resources(), base.resources()
    if request.setup != base.setup or has.keys() - asked.keys():
        return None
    return tuple(written(option, value) for option, value in asked.items() if has.get(option) != value)


def _advice(part: Part, stage: StageName, typed: Typed) -> str:
    if part.options is None:
        return f"positions {part.array.partition('%')[0]}: {typed.command('run', '--cluster', 'slurm')} submits them"
    return typed.stage(" ".join(["sbatch", f"--array={part.array}", *part.options, f"sbatch/{_SCRIPTS[stage]}"]))
