"""What has to be right where jobs run, looked at there: ``machine``, SLURM, places, the hub's cache, one step.

Every check is a function that says what it found, or raises what is wrong and what to type next. None of them leaves
anything behind, and none needs a network.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import SoftFileLease, Timeout

from pipeline.config import Prepare, load
from pipeline.config.cluster import JOBS, Cluster, Request, expanded
from pipeline.config.cluster_file import DEFAULT_PATH, load_cluster, root_of
from pipeline.config.data import HubSource
from pipeline.errors import InputError, StageError
from pipeline.launch import machine, sbatch
from pipeline.launch.machine import said
from pipeline.launch.refusals import mended, refused, short_slots
from pipeline.launch.scheduler import Scheduler
from pipeline.launch.stages import MODULES, stage_cells
from pipeline.store import Store, locate
from pipeline.store.atomic import read_json, write_json
from pipeline.store.attempts import LEASE_SECONDS, job_id

_LEAST_DISK = 2e9  # bytes: an encoder's snapshot and some distilled sets
_MOST_SKEW = LEASE_SECONDS / 4  # seconds between the clocks of a node and of its file system: leases are read by both


@dataclass(frozen=True)
class Found:
    """The result of one check: what was found, or what is wrong and what to type next."""

    name: str
    ok: bool
    what: str

    def __str__(self) -> str:
        return f"{self.name:<10}{'ok      ' if self.ok else 'FAILED: '}{self.what}"


def examine(config: str | None, settings: Sequence[str], root: str | None, cluster_file: str | None) -> Iterator[Found]:
    """Every check, one after the other.

    Args:
        config: an experiment whose data and encoder are looked for.
        settings: as ``--set``.
        root: folder of all artifacts; by default as everywhere else.
        cluster_file: by default ``configs/cluster.yaml``.

    """
    site = Cluster()
    with suppress(InputError):  # which the check of the file says
        site = load_cluster(cluster_file)

    scheduler = Scheduler.here()

    def store() -> Store:
        return Store(root_of(root, site))

    checks: list[tuple[str, Callable[[], str]]] = [
        ("python", machine.python),
        ("libraries", machine.libraries),
        ("torch", machine.torch_build),
        ("gpu", machine.gpu),
        ("cpu", machine.cpu),
        ("cluster", lambda: cluster(cluster_file, root)),
        ("slurm", lambda: slurm(scheduler)),
        ("requests", lambda: requests(site, scheduler, cluster_file)),
        ("root", lambda: place(store().root, cluster_file)),
        ("logs", lambda: place(site.logs_folder, cluster_file)),
        ("offline", lambda: offline(config, settings, store(), site)),
        ("step", machine.step),
    ]
    for name, check in checks:
        yield _found(name, check)


def _found(name: str, check: Callable[[], str]) -> Found:
    try:
        return Found(name, True, check())
    except (InputError, StageError) as error:
        return Found(name, False, "; ".join(str(error).splitlines()))
    except Exception as error:  # whatever is broken here must not keep the other checks from being made
        return Found(name, False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


# --- the cluster ------------------------------------------------------------------------------------------------


def cluster(file: str | None, root: str | None = None) -> str:
    """``cluster.yaml`` is valid here, and the scripts are what it says; ``root`` is what ``--root`` gave."""
    site = load_cluster(file)
    absent = file is None and not DEFAULT_PATH.is_file()
    valid = f"no {DEFAULT_PATH} in {Path.cwd()}, so its defaults" if absent else "valid"
    places = f"artifacts in {Store(root_of(root, site)).root}, logs in {site.logs_folder}"
    if site.python is not None and site.prefix is None and shutil.which(expanded("python", site.python)) is None:
        raise InputError(f"python: {site.python} is no program here; give the path of the compute nodes' interpreter")
    if not Path("sbatch").is_dir():
        return f"{valid}: {places}; no sbatch/ is here"
    if sbatch.stale(site):
        again = f"python -m pipeline sbatch{f' --cluster-file {file}' if file else ''}"
        return f"{valid}: {places}; sbatch/*.sbatch, for plain sbatch alone, are of another file: {again}"
    return f"{valid}: {places}; sbatch/ is what it says"


def slurm(scheduler: Scheduler | None) -> str:
    """SLURM answers, where there is one; a job can put itself back into the queue."""
    job = job_id()
    if scheduler is None and job is not None:
        raise StageError(
            f"this is job {job}, but sbatch, squeue, scontrol and scancel are not all on its PATH, so that it cannot "
            f"put itself back into the queue; add them to PATH in setup, or bind them into the container"
        )
    if scheduler is None:
        return "none here; run with --cluster debug or local"
    jobs, limit = scheduler.mine(), scheduler.max_array_size()
    version = said("sbatch", "--version")[0].strip()
    accounting = "with accounting" if scheduler.accounting() else "without accounting, which is not needed"
    where = f"this is job {job}, " if job else ""
    return f"{version}, {accounting}, arrays up to {limit}; {where}{len(jobs)} jobs of yours"


def requests(site: Cluster, scheduler: Scheduler | None, file: str | None = None) -> str:
    """SLURM would take the jobs of every stage; nothing is submitted. ``file`` is the cluster's."""
    if scheduler is None or job_id() is not None:
        return "not asked about: this is no login node"
    if scheduler.trouble is not None:
        return "not asked about: SLURM does not answer"
    stages = [stage for stage in JOBS if stage != "prepare" or not site.prepares_here]
    asked: dict[str, Request] = {stage: site.request(None, stage) for stage in stages}
    if found := refused(asked):
        reason = "; ".join(found)
        raise InputError(f"SLURM refuses {reason}; {mended(reason, file)}")
    asked.pop("aggregate")  # which is not warned
    return "; but ".join([f"SLURM would take {', '.join(stages)}", *short_slots(asked)])


# --- places -----------------------------------------------------------------------------------------------------


def place(folder: Path, file: str | None = None) -> str:
    """Files can be written, replaced and locked there, and there is room. ``file`` is the cluster's."""
    at = folder.absolute()
    try:
        while not at.exists():
            at = at.parent
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=at) as made:
            skew = _tried(Path(made))
    except OSError as error:
        raise StageError(
            f"{at} cannot be written from here ({error.strerror}); give another place in {file or DEFAULT_PATH}"
        ) from error
    if skew > _MOST_SKEW:
        raise StageError(
            f"{at}: the clocks of this node and of the file system differ by {skew:.0f} s, so that cells at work seem "
            f"to be over; leave this node out (options: {{exclude: …}}) and tell the site"
        )
    free = shutil.disk_usage(at).free
    if free < _LEAST_DISK:
        raise StageError(f"{at}: {free / 1e9:.1f} GB are free; python -m pipeline prune says what can go")
    made_later = "" if at == folder.absolute() else " (not there yet)"
    return f"{folder}{made_later}: writable, locks hold, {free / 1e9:.0f} GB free (a quota may be less)"


def _tried(folder: Path) -> float:
    """Writes, replaces and locks as a cell does; seconds by which the file system's clock differs."""
    record = folder / "record.json"
    for value in range(2):
        write_json(record, value)
    skew = abs(time.time() - record.stat().st_mtime)
    if read_json(record) != 1:
        raise StageError(f"{folder.parent}: a file that was replaced still has what it had; use another file system")
    held, other = (SoftFileLease(folder / "lease", lease_duration=LEASE_SECONDS) for _ in range(2))
    with held:
        try:
            other.acquire(timeout=0)
        except Timeout:
            return skew
        other.release()
    raise StageError(f"{folder.parent}: a lock is given twice; use another file system for root and logs")


def offline(config: str | None, settings: Sequence[str], store: Store, site: Cluster) -> str:
    """Whatever an experiment reads is on this machine; nothing is asked of the hub."""
    from huggingface_hub import constants

    cache = constants.HF_HUB_CACHE
    if site.hub_cache is not None and "HF_HUB_CACHE" not in os.environ:  # as in a job
        cache = str(expanded("hub_cache", site.hub_cache) / "hub")
    mode = f"the hub is {'off' if constants.HF_HUB_OFFLINE else 'on'}line, its cache {cache}"
    if config is None:
        return f"{mode}; with CONFIG, an experiment is looked for"
    experiment = load(config, settings)
    tasks = stage_cells(experiment, store, "prepare")
    absent = {cell.folder.name: _absent(cell.config, store, cache) for cell in tasks if cell.state != "done"}  # type: ignore[arg-type]
    if lacking := {name: what for name, what in absent.items() if what}:
        name, what = next(iter(lacking.items()))
        again = experiment.typed.stage(f"python -m {MODULES['prepare']}")
        raise InputError(
            f"{len(lacking)} of {len(tasks)} tasks are neither prepared nor in {cache}, such as "
            f"{name} ({' and '.join(what)}); type where there is a network: {again}"
        )
    rest = f", {len(absent)} can be from what is here" if absent else ""
    return f"{len(tasks) - len(absent)} of {len(tasks)} tasks are prepared{rest}; {mode}"


def _absent(config: Prepare, store: Store, cache: str) -> list[str]:
    """What stage 1 would have to download."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    sources, model = [task.source for task in config.task.parts or (config.task,)], config.model
    wanted = [("dataset", source.id, source.revision) for source in sources if isinstance(source, HubSource)]
    wanted += [("model", model.name, model.revision)] if locate(model.name) is None else []
    found = []
    for kind, name, asked in wanted:
        revision = store.places.revision(kind, name, asked)
        try:
            if revision is None:
                raise LocalEntryNotFoundError("its revision was never looked up")
            snapshot_download(name, repo_type=kind, revision=revision, cache_dir=cache, local_files_only=True)
        except LocalEntryNotFoundError:
            found.append(f"{kind} {name}")
    return found
