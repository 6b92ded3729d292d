"""What the doctor says of machines that lack something; each of them is this one, with that thing taken away."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from packaging.requirements import Requirement

from pipeline import __main__, launch
from pipeline.bilevel import adjoint
from pipeline.config import load
from pipeline.config.cluster import Cluster
from pipeline.config.cluster_file import load_cluster
from pipeline.errors import InputError, StageError
from pipeline.launch import doctor, machine, sbatch
from pipeline.launch.scheduler import Scheduler
from pipeline.store import Store

Write = Callable[..., Path]
Programs = Callable[..., None]
PASCAL = "Tesla P100-PCIE-16GB, 470.57.02\nTesla P100-PCIE-16GB, 470.57.02\n"
CONFIG = "SLURM_VERSION = 22.05.8\nAccountingStorageType = accounting_storage/none\nMaxArraySize = 1001\n"


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder, no SLURM, no GPU."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in [name for name in os.environ if name.startswith(("SLURM", "CUDA_", "TEXTDD_", "HF_HUB_CACHE"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    """Programs that answer with some text, or fail with it."""

    def programs(status: int = 0, **answers: str) -> None:
        (tmp_path / "bin").mkdir(exist_ok=True)
        for name, answer in answers.items():
            path = tmp_path / "bin" / name.replace("_", "-")
            end = f"cat >{'&2' if status else '&1'} <<'EOF'\n{answer}EOF\nexit {status}\n"
            path.write_text(f"#!/bin/sh\nPATH=/bin:/usr/bin\n{end}")
            path.chmod(0o755)

    return programs


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str]]]:
    """``python -m pipeline doctor ARGUMENTS`` in this process: status and lines."""

    def run(*arguments: object) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["pipeline", "doctor", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            __main__.main()
        return int(end.value.code or 0), capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Another torch than the one that is installed."""

    def cuda(build: str | None, works: bool = False, **facts: Any) -> None:
        monkeypatch.setattr(torch.version, "cuda", build)
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: works)
        for name, value in facts.items():
            monkeypatch.setattr(torch.cuda, name, value)

    return cuda


# --- the whole --------------------------------------------------------------------------------------------------


def test_a_healthy_machine(run: Callable[..., tuple[int, list[str]]], experiment: Write, cuda: Any) -> None:
    cuda(None)
    status, lines = run(experiment())
    assert status == 0, lines
    assert [line.split()[0] for line in lines] == [
        "python", "libraries", "torch", "gpu", "cpu", "cluster", "slurm", "requests", "root", "logs", "offline", "step"
    ]  # fmt: skip
    assert all(line.split()[1] == "ok" for line in lines)
    assert lines[0].endswith(f"at {sys.executable}")
    assert "none here; torch computes on the CPU" in lines[3]
    assert "checkpoints (not there yet): writable, locks hold" in lines[8]
    assert "0 of 1 tasks are prepared, 1 can be from what is here" in lines[10]
    assert "fused on cpu differs from unroll by" in lines[11]
    assert list(Path().iterdir()) == [], "nothing is left behind"


def test_what_fails_is_said_in_one_line_each_and_the_rest_is_looked_at(
    run: Callable[..., tuple[int, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> str:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(machine, "cpu", broken)
    Path("configs").mkdir()
    Path("configs/cluster.yaml").write_text("attempt: 3\nslurm: {distill: {minute: 5}}\n")
    status, lines = run()
    assert status == 1
    assert len(lines) == 12
    found = {line.split()[0]: line for line in lines}
    assert found["cpu"].split(maxsplit=1)[1] == "FAILED: ZeroDivisionError: by zero"
    assert "attempt: unknown key (did you mean 'attempts'?)" in found["cluster"]
    assert "slurm.distill.minute: unknown key" in found["cluster"]
    assert sum(" ok " in line for line in lines) == 10


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from pipeline.__main__ import main\ntry: main()\nexcept SystemExit: pass\n"
    code += "print([name for name in ('torch', 'transformers', 'datasets', 'numpy') if name in sys.modules])"
    for command in ("doctor", "prune"):
        done = subprocess.run(
            [sys.executable, "-c", code, command, "--help"],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert done.stdout.splitlines()[-1] == "[]", done.stdout


# --- the machine ------------------------------------------------------------------------------------------------


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Requirement("torch>=99"), Requirement("pydantic<1"), Requirement("no-such-library>=2")]
    monkeypatch.setattr(machine, "_asked", lambda: (">=3.99", asked))
    with pytest.raises(InputError, match=r"but >=3\.99 is needed"):
        machine.python()
    with pytest.raises(InputError, match=r"pydantic is .*, not <1, no-such-library is absent, not >=2; type"):
        machine.libraries()
    with pytest.raises(InputError, match=r"but >=99 is supported; type: pip install 'torch>=99'"):
        machine.torch_build()


def test_what_an_installed_package_asks_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = ["torch>=2.6", 'pytest>=8; extra == "test"']
    monkeypatch.setattr("pipeline.__file__", str(tmp_path / "pipeline" / "__init__.py"))
    monkeypatch.setattr(machine.metadata, "requires", lambda name: lines)
    monkeypatch.setattr(machine.metadata, "metadata", lambda name: {"Requires-Python": ">=3.11"})
    assert machine._asked() == (">=3.11", [Requirement("torch>=2.6")])


def test_a_cpu_build_beside_gpus(programs: Programs, cuda: Any) -> None:
    cuda(None)
    programs(nvidia_smi=PASCAL)
    with pytest.raises(InputError, match=r"2 x Tesla P100-.*, driver 470\.57\.02, but torch is a CPU build; type:"):
        machine.gpu()


def test_a_driver_that_is_too_old(programs: Programs, cuda: Any) -> None:
    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old\n(found version 11040).")

    cuda("12.6", init=init)
    programs(nvidia_smi=PASCAL)
    with pytest.raises(StageError, match=r"torch \(CUDA 12.6\) cannot use it: The NVIDIA driver .* too old \(found"):
        machine.gpu()


def test_gpus_that_are_not_this_jobs(programs: Programs, cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda("12.6")
    programs(nvidia_smi=PASCAL)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "none of it was given to this job" in machine.gpu()


def test_a_job_with_gpus_that_sees_no_driver(programs: Programs, cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda("12.6")
    programs(status=9, nvidia_smi="NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n")
    assert machine.gpu().startswith("none here")
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    with pytest.raises(StageError, match=r"given GPUs, but nvidia-smi shows no driver; .*--nv"):
        machine.gpu()


def test_gpus_that_compute_and_one_that_does_not(
    programs: Programs, cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"device_count": lambda: 2, "get_device_name": lambda number: "P100", "mem_get_info": lambda: (15 << 30, 0)}
    cuda("12.6", works=True, **facts)
    on_cpu = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *shape, device: on_cpu(*shape))
    assert machine.gpu() == "2 x P100; torch uses 2, 15 GiB free on the first"
    programs(nvidia_smi=PASCAL)
    assert machine.gpu().startswith("2 x Tesla P100-PCIE-16GB, driver 470.57.02; torch uses 2")

    def ones(*shape: int, device: str) -> Any:
        if device == "cuda:1":
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
        return on_cpu(*shape)

    monkeypatch.setattr(torch, "ones", ones)
    with pytest.raises(StageError, match=r"cuda:1 does not compute: CUDA error: no kernel image .*another build"):
        machine.gpu()
    monkeypatch.setattr(torch, "ones", lambda *shape, device: 2 * on_cpu(*shape))
    with pytest.raises(StageError, match="cuda:0 computes a product of ones wrongly"):
        machine.gpu()


def test_cores_threads_and_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "1 threads of torch" in machine.cpu()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4096)
    with pytest.raises(InputError, match=r"4096 threads on \d+ cores .*; type: export OMP_NUM_THREADS="):
        machine.cpu()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr("pipeline.bilevel.memory.free_memory", lambda device: 3 * 10**8)
    with pytest.raises(StageError, match=r"0\.3 GB of memory are free; ask for more: memory_gb"):
        machine.cpu()


def test_the_quota_of_a_control_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    every = machine.cores()
    monkeypatch.setattr(machine, "_GROUPS", tmp_path)
    assert machine.cores() == every
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.cores() == every
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert machine.cores() == 0.5
    assert machine.cpu().startswith("0.5 of "), "one thread is as few as can be"


def test_a_wrong_hypergradient(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    assert re.match(
        r"one outer step in \d+\.\d\d s, fused on cpu differs from unroll by \de-1\d \(float64\)", machine.step()
    )
    true = adjoint._Sums.add

    def longer(self: Any, end: Any, gradient: Any, factor: Any = None) -> None:
        true(self, end, None if gradient is None else 1.001 * gradient, factor)

    monkeypatch.setattr(adjoint._Sums, "add", longer)
    with pytest.raises(StageError, match="fused on cpu differs from unroll by 1e-03"):
        machine.step()
    assert torch.get_num_threads() == 2, "as before"


# --- the cluster ------------------------------------------------------------------------------------------------


def test_cluster_file_and_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("root: $SCRATCH_OF_NOBODY/x\n")
    with pytest.raises(InputError, match=r"\$SCRATCH_OF_NOBODY is not set here"):
        doctor.cluster(str(file))
    file.write_text("python: /no/such/python\n")
    with pytest.raises(InputError, match=r"/no/such/python is no program here"):
        doctor.cluster(str(file))
    file.write_text("python: /opt/python\nprefix: apptainer exec --nv image.sif\n")
    assert "no sbatch/ is here" in doctor.cluster(str(file)), "that path is the container's"
    sbatch.write(load_cluster(file))
    assert doctor.cluster(str(file)).endswith("; sbatch/ is what it says")
    file.write_text("slurm: {evaluate: {minutes: 7}}\n")
    said = doctor.cluster(str(file))  # no failure: `run` does not use them
    assert said.endswith(
        f"for plain sbatch alone, are of another file: python -m pipeline sbatch --cluster-file {file}"
    )


def test_slurm(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.slurm(Scheduler.here()) == "none here; run with --cluster debug or local"
    assert doctor.requests(Cluster(), None) == "not asked about: this is no login node"
    programs(squeue="7|RUNNING|1|1|n1|0|0|None|x|\n", scontrol=CONFIG, scancel="", sbatch="slurm 22.05.8\n")
    scheduler = Scheduler.here()
    assert doctor.slurm(scheduler) == (
        "slurm 22.05.8, without accounting, which is not needed, arrays up to 1001; 1 jobs of yours"
    )
    assert doctor.requests(Cluster(), scheduler) == "SLURM would take distill, evaluate, aggregate"
    programs(status=1, sbatch="allocation failure: Invalid account or account/partition combination specified\n")
    site = Cluster.model_validate({"slurm": {"prepare": {"where": "job"}}})
    with pytest.raises(
        InputError, match=r"prepare, distill, .* aggregate: Invalid account .*; correct configs/cluster.yaml$"
    ):
        doctor.requests(site, scheduler)  # sinfo does not answer
    programs(sinfo="scavenge\ndebug\n")
    with pytest.raises(InputError, match=r"; correct my.yaml \(.* the partitions here are debug, scavenge\)$"):
        doctor.requests(site, scheduler, "my.yaml")
    programs(status=1, sbatch="allocation failure: Requested node configuration is not available\n")
    with pytest.raises(InputError, match=r"not available; correct configs/cluster.yaml$"):
        doctor.requests(site, scheduler)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert "this is job 12, 1 jobs of yours" in doctor.slurm(scheduler)
    assert doctor.requests(site, scheduler) == "not asked about: this is no login node"


def test_slots_too_short_for_a_warning_are_named(programs: Programs) -> None:
    """90 s before the limit, or half of a short slot; SLURM may be a minute early."""
    programs(squeue="", scontrol=CONFIG, scancel="", sbatch="")
    scheduler = Scheduler.here()
    for minutes, short in ((1, True), (2, True), (3, False)):
        slurm = {"distill": {"minutes": minutes}, "aggregate": {"minutes": 1}}
        said = doctor.requests(Cluster.model_validate({"slurm": slurm}), scheduler)
        assert said.startswith("SLURM would take distill, evaluate, aggregate")
        assert (f"; but distill: minutes: {minutes} leaves no time to work: a job is told to save" in said) is short
        assert "aggregate: minutes" not in said


def test_slurm_that_does_not_answer(programs: Programs) -> None:
    programs(scontrol="", scancel="", sbatch="")
    programs(status=1, squeue="slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n")
    scheduler = Scheduler.here()
    with pytest.raises(StageError, match=r"SLURM does not answer .*Unable to contact"):
        doctor.slurm(scheduler)
    assert doctor.requests(Cluster(), scheduler) == "not asked about: SLURM does not answer"


def test_a_job_in_a_container_without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with pytest.raises(StageError, match=r"this is job 12_3, but sbatch, .* not all on its PATH"):
        doctor.slurm(Scheduler.here())


# --- places -----------------------------------------------------------------------------------------------------


def test_a_place_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StageError, match=r"file cannot be written from here \(Not a directory\); .* in my.yaml$"):
        doctor.place(tmp_path / "file" / "checkpoints", "my.yaml")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda at: SimpleNamespace(free=3e8))
    with pytest.raises(StageError, match=r"0\.3 GB are free; python -m pipeline prune says what can go"):
        doctor.place(tmp_path)


def test_a_clock_that_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = doctor.time.time
    monkeypatch.setattr(doctor, "time", SimpleNamespace(time=lambda: now() + 100))
    with pytest.raises(StageError, match="the clocks of this node and of the file system differ by 100 s"):
        doctor.place(tmp_path)


def test_a_file_system_that_shows_what_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = doctor.write_json
    monkeypatch.setattr(doctor, "write_json", lambda path, value: write(path, 0))
    with pytest.raises(StageError, match="a file that was replaced still has what it had"):
        doctor.place(tmp_path)


def test_locks_that_do_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        def __init__(self, *_: object, **__: object) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...
        def acquire(self, timeout: float) -> None: ...
        def release(self) -> None: ...

    monkeypatch.setattr(doctor, "SoftFileLease", Nothing)
    with pytest.raises(StageError, match="a lock is given twice"):
        doctor.place(tmp_path)
    assert list(tmp_path.glob(".doctor-*")) == []


# --- offline ----------------------------------------------------------------------------------------------------


def test_an_experiment_that_is_prepared(experiment: Write, tmp_path: Path) -> None:
    path, store = experiment(grids=[{"prepare.dev": [40, 50]}]), Store(tmp_path / "root")
    assert "0 of 2 tasks are prepared, 2 can be from what is here" in doctor.offline(str(path), [], store, Cluster())
    with launch.stage_cells(load(path), store, "prepare")[0].claim():
        pass
    assert "1 of 2 tasks are prepared, 1 can be" in doctor.offline(str(path), [], store, Cluster())
    assert "1 of 1 tasks are prepared; the hub is offline" in doctor.offline(
        str(path), ["prepare.dev=40"], store, Cluster()
    )


def test_an_experiment_of_the_hub(experiment: Write, tmp_path: Path) -> None:
    path, store, cache = experiment(), Store(tmp_path / "root"), tmp_path / "cache"
    whole = yaml.safe_load(path.read_text())
    task = {"name": "t", "source": {"kind": "hub", "id": "a/b"}, "text": ["x"]}
    whole["base"]["prepare"] |= {"task": task, "model": "c/d"}
    path.write_text(yaml.safe_dump(whole))
    site = Cluster(hub_cache=str(cache))
    unknown = r"1 of 1 tasks are neither prepared nor in .*cache/hub, such as t\.d-\w+ \(dataset a/b and model c/d\)"
    with pytest.raises(InputError, match=unknown):
        doctor.offline(str(path), [], store, site)
    store.root.mkdir()
    known = {f"{key}@main": {"revision": "0" * 40} for key in ("dataset:a/b", "model:c/d")}
    (store.root / "revisions.json").write_text(json.dumps(known))
    for name in ("datasets--a--b", "models--c--d"):
        with pytest.raises(InputError, match="neither prepared nor"):
            doctor.offline(str(path), [], store, site)
        (cache / "hub" / name / "snapshots" / ("0" * 40)).mkdir(parents=True)
    assert "0 of 1 tasks are prepared, 1 can be from what is here" in doctor.offline(str(path), [], store, site)
