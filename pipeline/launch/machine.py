"""The checks of ``doctor`` that are about a machine: its Python, its libraries, its GPUs, cores and memory, one step.

Each of them says what it found, or raises what is wrong and what to type next.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tomllib
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pipeline
from pipeline.errors import InputError, StageError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_LEAST_MEMORY = 2e9  # bytes
_GROUPS = Path("/sys/fs/cgroup")
_CUDA_BUILD = (
    "pip install --force-reinstall torch, which on Linux is a CUDA build; for an older driver add "
    "--index-url https://download.pytorch.org/whl/cu126 (https://pytorch.org/get-started lists others)"
)


def python() -> str:
    """The interpreter is of a version that is supported."""
    from packaging.specifiers import SpecifierSet

    asked = SpecifierSet(_asked()[0])
    if not asked.contains(platform.python_version(), prereleases=True):
        raise InputError(
            f"{platform.python_version()} at {sys.executable}, but {asked} is needed; "
            f"make an environment with that, and name its interpreter in the cluster's file (python)"
        )
    return f"{platform.python_version()} at {sys.executable}"


def libraries() -> str:
    """Everything that the project asks for is there, in a version that it allows; nothing is imported."""
    wanted = [one for one in _asked()[1] if one.name != "torch"]
    wrong = []
    for one in wanted:
        try:
            version = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            version = "absent"
        if version == "absent" or not one.specifier.contains(version, prereleases=True):
            wrong.append(f"{one.name} is {version}, not {one.specifier}")
    if wrong:
        raise InputError(f"{', '.join(wrong)}; type where there is a network: {sys.executable} -m pip install -e .")
    return f"{len(wanted)} as the project asks for them"


def torch_build() -> str:
    """Torch is of a version that is supported; what it was built for."""
    import torch

    wanted = next(one for one in _asked()[1] if one.name == "torch")
    if not wanted.specifier.contains(torch.__version__, prereleases=True):
        raise InputError(f"{torch.__version__}, but {wanted.specifier} is supported; type: pip install '{wanted}'")
    return f"{torch.__version__}, a {_build()} build ({wanted.specifier} is supported)"


def _build() -> str:
    import torch

    cuda, hip = torch.version.cuda, torch.version.hip
    return f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "CPU"


def _asked() -> tuple[str, list[Requirement]]:
    """The versions of Python and of libraries that the project allows, by its source or, installed, its metadata."""
    from packaging.requirements import Requirement

    source = Path(pipeline.__file__).parents[1] / "pyproject.toml"
    if source.is_file():
        project = tomllib.loads(source.read_text())["project"]
        return project["requires-python"], [Requirement(line) for line in project["dependencies"]]
    found = [Requirement(line) for line in metadata.requires("textdd") or ()]
    return metadata.metadata("textdd")["Requires-Python"], [one for one in found if one.marker is None]


def gpu() -> str:
    """Torch can compute on the GPUs that the driver shows."""
    import torch

    driver = _driver()
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            _compute(f"cuda:{number}")
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        free = torch.cuda.mem_get_info()[0] / 2**30
        return f"{driver or f'{len(names)} x {names[0]}'}; torch uses {len(names)}, {free:.0f} GiB free on the first"
    asked = os.environ.get("SLURM_JOB_GPUS") or os.environ.get("SLURM_STEP_GPUS")
    if driver is None and asked:
        raise StageError(
            "this job was given GPUs, but nvidia-smi shows no driver; load the site's module in sbatch/env.sh and in "
            "the cluster's file (setup), or, in a container, put --nv into prefix"
        )
    if driver is None:
        return "none here; torch computes on the CPU"
    if _build() == "CPU":
        raise InputError(f"{driver}, but torch is a CPU build; type: {_CUDA_BUILD}")
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles"):
        return f"{driver}; none of it was given to this job (gpus in the cluster's file)"
    try:
        torch.cuda.init()
        reason = "it does not say why"
    except RuntimeError as error:
        reason = _short(error)
    raise StageError(f"{driver}, but torch ({_build()}) cannot use it: {reason}; another build: {_CUDA_BUILD}")


def _driver() -> str | None:
    """The GPUs of this node and their driver, by nvidia-smi."""
    answer = said("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")[0]
    lines = [line.split(", ") for line in answer.splitlines() if ", " in line]
    return f"{len(lines)} x {lines[0][0]}, driver {lines[0][1]}" if lines else None


def _compute(device: str) -> None:
    import torch

    try:
        ones = torch.ones(64, 64, device=device)
        right = (ones @ ones).sum().item() == 64**3
    except RuntimeError as error:
        raise StageError(
            f"{device} does not compute: {_short(error)}; another build of torch: {_CUDA_BUILD}"
        ) from error
    if not right:
        raise StageError(f"{device} computes a product of ones wrongly; leave this node out (options: {{exclude: …}})")


def cpu() -> str:
    """There are as many cores as torch has threads, and some memory."""
    import torch

    from pipeline.bilevel.memory import free_memory

    usable, threads, free = cores(), torch.get_num_threads(), free_memory(torch.device("cpu"))
    if threads > max(1, usable):
        raise InputError(
            f"{threads} threads on {usable:g} cores only wait for each other; type: export OMP_NUM_THREADS="
            f"{max(1, int(usable))} (sbatch/env.sh sets it to the job's cpus)"
        )
    if free < _LEAST_MEMORY:
        raise StageError(f"{free / 1e9:.1f} GB of memory are free; ask for more: memory_gb in the cluster's file")
    return f"{usable:g} of {os.cpu_count()} cores, {threads} threads of torch, {free / 1e9:.1f} GB of memory free"


def cores() -> float:
    """Cores that this process may use: by its affinity, where the system knows one, and by its control groups' quota.

    A quota may be a part of one.
    """
    found = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with suppress(OSError):
        path = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
        group = _GROUPS / (path[1] if path else "")
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):  # no such file, or no quota: the word "max"
                quota, period = map(int, (folder / "cpu.max").read_text().split())
                found = min(found, quota / period)
    return found


def step() -> str:
    """One outer step on an encoder made in memory is what autograd says it is."""
    import torch

    from pipeline.methods.trial import try_step
    from pipeline.progress import quiet_libraries

    quiet_libraries()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # products so small only wait for a second thread
    try:
        found = try_step()
    finally:
        torch.set_num_threads(threads)
    facts = f"{found.estimator} on {found.device} differs from unroll by {found.error:.0e} (float64)"
    if not found.holds:
        raise StageError(
            f"a hypergradient by {facts}; do not use this machine with this build of torch: leave the node out "
            f"(options: {{exclude: …}}), or take another build"
        )
    return f"one outer step in {found.seconds:.2f} s, {facts}"


def said(*command: str, given: str | None = None) -> tuple[str, str | None]:
    """Standard output, and in one line what went wrong."""
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    if done.returncode == 0:
        return done.stdout, None
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return "", lines[-1].removeprefix(f"{command[0]}: error: ")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
