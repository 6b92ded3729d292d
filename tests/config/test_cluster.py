"""A cluster's YAML -> what a job of each cell asks for, and every mistake as a sentence."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Cluster, Evaluate, Request, load_cluster
from pipeline.config.cluster import JOBS, JobName, in_shell
from pipeline.config.cluster_file import enter, root_of
from pipeline.config.resources import KEYS, NOTICE, Resources
from pipeline.errors import InputError

SHIPPED = Path(__file__).parents[2] / "configs" / "cluster.yaml"
LARGE = "google-bert/bert-large-uncased"
Write = Callable[[Any], Path]
ALL = {
    "account": "abc@v100",
    "partition": ["gpu", "scavenge"],
    "qos": "normal",
    "constraint": "a100|h100",
    "reservation": "night shift",
    "mail_user": "me@uni.example",
    "mail_type": ["FAIL", "TIME_LIMIT"],
    "nodes": 2,
    "tasks": 4,
    "gpus": 4,
    "gpu_type": "a100",
    "cpus": 8,
    "memory_gb": 1.5,
    "minutes": 90,
    "options": {"exclude": "node07", "nice": 100, "exclusive": True, "oversubscribe": False, "comment": None},
}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: Any) -> Path:
        path = tmp_path / "cluster.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def cell(model: str = "bert-base-uncased", task: str = "sst2", protocol: str = "ddal", **method: Any) -> Evaluate:
    source = {"source": {"task": task, "model": model}, "method": {"name": "ddal"} | method}
    return Evaluate.model_validate({"source": source, "protocol": {"name": protocol}})


def refusal(path: Path) -> list[str]:
    with pytest.raises(InputError) as raised:
        load_cluster(path)
    lines = str(raised.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


def asked(cluster: Cluster, stage: JobName = "distill", of: Evaluate | None = None) -> dict[str, Any]:
    return cluster.request(of, stage).resources()


# levels


def test_the_shipped_file_says_what_the_defaults_are() -> None:
    assert [load_cluster(SHIPPED).request(None, job) for job in JOBS] == [Cluster().request(None, job) for job in JOBS]


def test_what_is_commented_out_in_the_shipped_file_is_legal(write: Write) -> None:
    text = re.sub(r"(?m)^( *)# ( *(?:- )?[a-z_]+:)", r"\1\2", SHIPPED.read_text())
    for other in (
        "  all: {}\n",
        "cells: []\n",
        "    gres: gpu:a100:1        # in place of both, at sites that want --gres\n",
    ):
        assert other in text
        text = text.replace(other, "")
    cluster = load_cluster(write(text))
    assert {name for name in Cluster.model_fields if name not in cluster.model_fields_set} == set()
    assert cluster.root == "$SCRATCH/textdd"
    assert cluster.on_retry.limit.memory_gb == 256
    request = cluster.request(None, "evaluate")
    assert (request.account, request.cells_per_gpu, request.options[0]) == ("abc123@v100", 4, ("exclude", "node07"))
    assert cluster.request(cell(LARGE), "distill").minutes == 1440


def test_without_a_file_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_cluster() == Cluster()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "cluster.yaml").write_text("attempts: 7\n")
    assert load_cluster().attempts == 7


def test_a_later_level_wins_key_by_key(write: Write) -> None:
    cluster = load_cluster(
        write(
            {
                "slurm": {
                    "all": {"partition": "gpu", "minutes": 100, "setup": ["module load cuda"], "options": {"nice": 1}},
                    "distill": {"minutes": 200, "setup": "export A=1", "options": {"nice": None, "hint": "x"}},
                },
                "cells": [
                    {"where": {"distill.method.name": "ddal"}, "distill": {"minutes": 300, "setup": ["export B=2"]}},
                    {"where": {"distill.method.steps": 5}, "distill": {"minutes": 400}},
                    {"where": {"distill.method.steps": 7}, "distill": {"minutes": 500}},
                ],
            }
        )
    )
    assert cluster.request(None, "evaluate").minutes == 100  # over the default of 240
    stage, one, five = (cluster.request(of, "distill") for of in (None, cell(), cell(steps=5)))
    assert [request.minutes for request in (stage, one, five)] == [200, 300, 400]
    assert [request.partition for request in (stage, one, five)] == ["gpu"] * 3
    assert stage.setup == ("module load cuda", "export A=1")
    assert five.setup == (*stage.setup, "export B=2")
    assert stage.options == (("hint", "x"),)


def test_null_asks_for_nothing(write: Write) -> None:
    path = write(
        {"slurm": {"distill": {"minutes": None, "memory_gb": None, "cpus": None, "gpus": None, "nodes": None}}}
    )
    request = load_cluster(path).request(None, "distill")
    assert request.resources() == {"nodes": 1, "ntasks-per-node": 1}
    assert request.notice == NOTICE


@pytest.mark.parametrize(
    ("every", "stage", "expected"),
    [
        ({"gres": "gpu:1"}, {}, {"gres": "gpu:1"}),
        ({"gres": "gpu:1"}, {"gpus": 2}, {"gpus-per-node": 2}),
        ({"gres": "gpu:1"}, {"gpus": 0}, {}),
        ({"gpus": 2, "gpu_type": "a100"}, {"gres": "gpu:1"}, {"gres": "gpu:1"}),
        ({"gpu_type": "a100"}, {}, {"gpus-per-node": "a100:1"}),
        ({"gpu_type": "a100"}, {"gpus": 0}, {}),
    ],
)
def test_of_gpus_and_gres_the_later_level_counts(
    every: dict[str, Any], stage: dict[str, Any], expected: dict[str, Any]
) -> None:
    cluster = Cluster.model_validate({"slurm": {"all": every, "distill": stage}})
    assert {name: value for name, value in asked(cluster).items() if name.startswith("g")} == expected


def test_a_section_whose_lines_are_all_commented_out_is_empty(write: Write) -> None:
    assert load_cluster(write("slurm:\n  all:\n  distill:\ncells:\non_retry:\nlocal:\n")) == Cluster()
    assert load_cluster(write("")) == Cluster()


def test_equal_requests_are_one_key_of_a_dictionary() -> None:
    cluster = Cluster.model_validate({"slurm": {"distill": ALL}})
    one, other = (cluster.request(of, "distill") for of in (None, cell()))
    assert {one: 1, other: 2} == {one: 2}
    assert one != cluster.request(None, "evaluate")


# cells


@pytest.mark.parametrize(
    "where",
    [
        {"prepare.model": LARGE},
        {"prepare.model.name": LARGE},
        {"prepare.model": {"name": LARGE}},
        {"prepare.model": [LARGE, "other"]},
        {"prepare.task": "sst2"},
        {"prepare.task.name": "sst2"},
        {"prepare.task.source.kind": ["files", "hub"]},
        {"distill.method": "ddal"},
        {"distill.method": {"name": "ddal", "steps": 3}},
        {"distill.method.outer.lr": 0.01},
        {"distill.method.inner_optimizer": "gd"},
        {"distill.method.window": None},
        {"distill.seed": [1, 42], "prepare.model": LARGE},
    ],
)
def test_a_rule_holds_for_the_cells_that_have_its_values(where: dict[str, Any]) -> None:
    cluster = Cluster.model_validate({"cells": [{"where": where, "distill": {"minutes": 7}}]})
    assert cluster.request(cell(LARGE, steps=3), "distill").minutes == 7
    assert cluster.request(cell(LARGE, steps=3), "evaluate").minutes == 240


@pytest.mark.parametrize(
    "where",
    [
        {"prepare.model": LARGE},
        {"prepare.model": {"name": "bert-base-uncased", "pretrained": False}},
        {"prepare.task": ["qnli", "mrpc"]},
        {"distill.method": "full"},
        {"distill.method.steps": 5},
        {"distill.method.window": None, "prepare.model": LARGE},
    ],
)
def test_and_not_for_the_others(where: dict[str, Any]) -> None:
    cluster = Cluster.model_validate({"cells": [{"where": where, "distill": {"minutes": 7}}]})
    assert cluster.request(cell(), "distill").minutes == 720


def test_a_key_that_a_method_does_not_have_fits_nothing() -> None:
    cluster = Cluster.model_validate({"cells": [{"where": {"distill.method.window": None}, "distill": {"minutes": 7}}]})
    assert cluster.request(cell(), "distill").minutes == 7
    full = cell(protocol="finetune", name="full")
    assert cluster.request(full, "distill").minutes == 720


def test_a_rule_may_look_at_the_protocol_and_at_a_tuple_as_a_whole() -> None:
    rules = [
        {"where": {"evaluate.protocol.name": "ddal"}, "evaluate": {"minutes": 7}},
        {"where": {"evaluate.splits": ["test"]}, "evaluate": {"minutes": 8}},
    ]
    cluster = Cluster.model_validate({"cells": rules})
    assert cluster.request(cell(), "evaluate").minutes == 7
    assert cluster.request(cell().model_copy(update={"splits": ("test",)}), "evaluate").minutes == 8
    assert cluster.request(cell(protocol="finetune"), "evaluate").minutes == 240


def test_a_pinned_revision_does_not_keep_a_rule_from_its_model() -> None:
    cluster = Cluster.model_validate({"cells": [{"where": {"prepare.model": LARGE}, "distill": {"minutes": 7}}]})
    given = cell(LARGE)
    model = given.source.source.model.model_copy(update={"revision": "0" * 40})
    distill = given.source.model_copy(update={"source": given.source.source.model_copy(update={"model": model})})
    assert cluster.request(given.model_copy(update={"source": distill}), "distill").minutes == 7


# retries


def test_a_retry_asks_for_more_of_what_ran_out() -> None:
    cluster = Cluster()
    before = cluster.request(None, "distill")
    memory = cluster.request(None, "distill", {"out_of_memory": 1})
    assert (memory.memory_gb, memory.minutes) == (64, 720)
    both = cluster.request(None, "distill", {"out_of_memory": 1, "timeout": 2})
    assert (both.memory_gb, both.minutes) == (64, 2880)
    assert cluster.request(None, "distill", {}) == before
    assert asked(cluster)["mem"] == "32G"


@pytest.mark.parametrize(("limit", "expected"), [(100, 100), (3000, 2880), (10, 32), (None, 2880)])
def test_a_limit_holds_for_retries_and_lowers_nothing(limit: int | None, expected: int) -> None:
    given = {
        "limit": {"memory_gb": limit, "minutes": limit},
        "out_of_memory": {"memory": 90},
        "timeout": {"minutes": 90},
    }
    cluster = Cluster.model_validate({"on_retry": given, "slurm": {"distill": {"memory_gb": 32, "minutes": 32}}})
    request = cluster.request(None, "distill", {"timeout": 1, "out_of_memory": 1})
    assert (request.minutes, request.memory_gb) == (expected, expected)


def test_what_is_not_asked_for_does_not_grow() -> None:
    cluster = Cluster.model_validate({"slurm": {"distill": {"memory_gb": None, "minutes": None}}})
    retried = cluster.request(None, "distill", {"timeout": 1, "out_of_memory": 1})
    assert retried == cluster.request(None, "distill")


@given(st.floats(1, 3), st.integers(0, 4), st.integers(1, 3000))
def test_retried_minutes_are_whole_and_enough(factor: float, times: int, minutes: int) -> None:
    given = {"on_retry": {"timeout": {"minutes": factor}}, "slurm": {"distill": {"minutes": minutes}}}
    found = Cluster.model_validate(given).request(None, "distill", {"timeout": times}).minutes
    assert isinstance(found, int)
    assert 0 <= found - minutes * factor**times < 1


# what sbatch and submitit are told


def test_every_resource_becomes_an_option_in_a_fixed_order() -> None:
    request = Cluster.model_validate({"slurm": {"distill": ALL}}).request(None, "distill")
    assert request.sbatch_lines("job", "logs/%x.out") == [
        "#SBATCH --job-name=job",
        "#SBATCH --account=abc@v100",
        "#SBATCH --partition=gpu,scavenge",
        "#SBATCH --qos=normal",
        "#SBATCH --constraint='a100|h100'",
        "#SBATCH --reservation='night shift'",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=4",
        "#SBATCH --gpus-per-node=a100:4",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=1536M",
        "#SBATCH --time=90",
        "#SBATCH --mail-user=me@uni.example",
        "#SBATCH --mail-type=FAIL,TIME_LIMIT",
        "#SBATCH --exclude=node07",
        "#SBATCH --exclusive",
        "#SBATCH --nice=100",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --output=logs/%x.out",
        "#SBATCH --signal=B:USR2@90",
    ]


def test_the_warning_comes_within_the_slot() -> None:
    notices = [Request(minutes=minutes).notice for minutes in (1, 2, 3, 720)]
    assert notices == [30, 60, 90, 90]
    assert "signal" not in "".join(Request().sbatch_lines("job", "x", warned=False))


def test_submitit_takes_every_parameter() -> None:
    from submitit.slurm.slurm import _make_sbatch_string

    request = Cluster.model_validate({"slurm": {"distill": ALL}}).request(None, "distill")
    parameters = request.submitit_parameters()
    assert parameters.keys() <= inspect.signature(_make_sbatch_string).parameters.keys()
    assert parameters["array_parallelism"] == 64
    assert request.model_copy(update={"at_once": None}).submitit_parameters()["array_parallelism"] > 100_000


def test_every_key_that_asks_for_something_is_written() -> None:
    """A new field of ``Resources`` that nobody translates is noticed here."""
    elsewhere = {"gpu_type", "at_once", "cells_per_job", "cells_per_gpu", "setup", "options"}
    assert set(KEYS.values()) | elsewhere == Resources.model_fields.keys()


# mistakes


def test_every_mistake_is_reported_at_once(write: Write) -> None:
    found = refusal(
        write(
            """
rot: x
attempts: 0
on_retry: {timeout: {minutes: 0.5}, limit: {memory_gb: 1T}}
slurm:
  aggregate: {minutes: 12h, memory_gb: 4G}
  distil: {}
  prepare: {where: her}
  distill:
    gpu: 1
    minutes: 12:00:00
    options: {--array: 3, mem_per_gpu: 4, mem: 3, x: 1, hint: [1], exclude: "a\\nb"}
  evaluate: {gpus: 2, gres: gpu:1, constraint: "a\\nb", tasks: -1}
cells:
  - where: {prepare.modl: x, distill.method.name: ddl, distill.method.steps: five, distil.method: 3}
    distill: {minuts: 3}
  - where: {evaluate.seed: 3, distill.method.inner_optimizer: adm, prepare.task: {nam: x}}
    distill: {minutes: 3}
  - where: {}
    distill: {minutes: 3}
  - where: {prepare.model: x}
"""
        )
    )
    for expected in (
        "slurm.aggregate.minutes: '12h' is not a number; write the number of minutes alone, such as 720 for 12 hours",
        "slurm.aggregate.memory_gb: '4G' is not a number; write the number of GiB alone, such as 4",
        "on_retry.limit.memory_gb: '1T' is not a number; write the number of GiB alone",
        "rot: unknown key (did you mean 'root'?)",
        "attempts: input should be greater than or equal to 1",
        "on_retry.timeout.minutes: input should be greater than or equal to 1",
        "slurm.distil: unknown key (did you mean 'distill'?); allowed: all, prepare, distill, evaluate, aggregate",
        "slurm.prepare.where: 'her' is not allowed (did you mean 'here'?); allowed: here, job",
        "slurm.distill.gpu: unknown key (did you mean 'gpus'?)",
        "slurm.distill.minutes: 12:00:00 is a time of day or a duration; write the number of minutes, such as 720",
        "slurm.distill.options: --array: set for every job by the pipeline",
        "slurm.distill.options: mem_per_gpu: write it as mem-per-gpu",
        "slurm.distill.options: mem: has a key of its own; write memory_gb",
        "slurm.distill.options: x: not the long name of an option of sbatch",
        "slurm.distill.options: hint: [1] is not a value",
        "slurm.distill.options: exclude: 'a\\nb' is not a value",
        "slurm.evaluate.constraint: 'a\\nb' is not one line of text",
        "slurm.evaluate.tasks: input should be greater than or equal to 1, not -1",
        "cells.0.distill.minuts: unknown key (did you mean 'minutes'?)",
        "cells.0.where: prepare.modl: no config has that key (did you mean 'model'?)",
        "cells.0.where: distill.method.name: 'ddl' is no value of it (did you mean 'ddal'?); allowed: ddal, random",
        "cells.0.where: distill.method.steps: 'five' is no value that this key can have",
        "cells.0.where: distil.method: not a dotted key (did you mean 'distill'?)",
        "cells.1.where: evaluate.seed: evaluate comes after distill",
        "cells.1.where: distill.method.inner_optimizer.name: 'adm' is no value of it (did you mean 'adam'?)",
        "cells.1.where: prepare.task.nam: no config has that key (did you mean 'name'?)",
        "cells.2.where: fits every cell",
        "cells.3: asks for nothing; give at least one of prepare, distill, evaluate",
    ):
        assert any(line.startswith(expected) for line in found), f"{expected}\nis not in\n" + "\n".join(found)
    assert len(found) == len(set(found)) == 28


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"gpus": 2, "gres": "gpu:1"}, "slurm.distill: gres: gpu:1 takes the place of gpus and gpu_type"),
        ({"gpu_type": "a100", "gpus": None}, "slurm.distill: gpu_type: a100 without gpus"),
        ({"tasks": 2}, "slurm.distill: tasks: 2 processes on gpus: 1"),
        ({"cells_per_gpu": 2}, "slurm.distill: cells_per_gpu: 2 is more than a job has"),
        (
            {"cells_per_gpu": 2, "cells_per_job": 2, "nodes": 2},
            "slurm.distill: cells_per_gpu: cells side by side have one process each",
        ),
        ({"gpus": -1}, "slurm.distill.gpus: input should be greater than or equal to 0"),
        ({"memory_gb": 0}, "slurm.distill.memory_gb: input should be greater than 0"),
        ({"gpu_type": "a100:2"}, "slurm.distill.gpu_type: string should match pattern"),
        ({"account": ""}, "slurm.distill.account: string should have at least 1 character"),
        ({"options": {"no-requeue": True}}, "slurm.distill.options: no-requeue: set for every job by the pipeline"),
        ({"options": {"Signal": "x"}}, "slurm.distill.options: Signal: set for every job by the pipeline"),
        ({"options": {"gpus_per_node": 2}}, "slurm.distill.options: gpus_per_node: has a key of its own; write gpus"),
        ({"where": "here"}, "slurm.distill.where: unknown key"),
    ],
)
def test_what_contradicts_itself_is_refused(write: Write, given: dict[str, Any], expected: str) -> None:
    (line,) = refusal(write({"slurm": {"distill": given}}))
    assert line.startswith(expected), line


@pytest.mark.parametrize(
    "key", ["distill.source.seed", "distill.source", "distill.method.shots.x", "prepare", "method.shots"]
)
def test_keys_that_no_experiment_has_are_refused(write: Write, key: str) -> None:
    (line,) = refusal(write({"cells": [{"where": {key: 1}, "distill": {"minutes": 3}}]}))
    assert line.startswith(f"cells.0.where: {key.removesuffix('.seed')}: ")


def test_a_rule_that_contradicts_its_stage_is_refused(write: Write) -> None:
    rule = {"where": {"prepare.model": "x"}, "distill": {"tasks": 2}, "evaluate": {"tasks": 2, "gpus": 2}}
    assert refusal(write({"cells": [rule]})) == [
        "cells.0.distill: tasks: 2 processes on gpus: 1; give each its own, or gpus: 0"
    ]


def test_rules_that_contradict_each_other_are_named(write: Write) -> None:
    """Each goes with its stage; that they fit one cell together is seen when its job is asked for."""
    wide = {"where": {"prepare.model": "bert-base-uncased"}, "distill": {"gpus": 4, "tasks": 4}}
    long = {"where": {"prepare.task": "agnews"}, "distill": {"minutes": 9}}
    small = {"where": {"distill.method.shots": 1}, "distill": {"gpus": 2}}
    cluster = load_cluster(write({"cells": [wide, long, small]}))
    expected = (
        r"cells\.0\.distill and cells\.2\.distill contradict each other for sst2\..*: tasks: 4 processes on gpus: 2.*; "
        r"or narrow the where of one of them"
    )
    with pytest.raises(InputError, match=expected):
        asked(cluster, of=cell())
    assert asked(cluster, of=cell(shots=2, batch_shots=2))["gpus-per-node"] == 4
    assert asked(cluster, "evaluate", of=cell()) == asked(Cluster(), "evaluate")


@pytest.mark.parametrize(
    "name", ["array", "dependency", "output", "error", "job-name", "signal", "requeue", "open-mode"]
)
def test_options_that_every_job_has_are_refused(write: Write, name: str) -> None:
    (line,) = refusal(write({"slurm": {"all": {"options": {name: "x"}}}}))
    assert line.startswith(f"slurm.all.options: {name}: set for every job by the pipeline")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [", "not YAML at line 1, column 5: "),
        ("3", "a cluster's file is a mapping with the keys root, hub_cache"),
        ("root: a\nroot: b", "line 1: key given twice: root; keep one"),
        ("slurm: 3", "slurm: input should be a valid dictionary"),
        ("cells: 3", "cells: a list is needed"),
        ("root: $", "root: '$' is not a path"),
        ("root: '`ls`'", "root: '`ls`' is not a path"),
        ("hub_cache: $(ls)", "hub_cache: '$(ls)' is not a path"),
    ],
)
def test_a_file_that_is_no_cluster(write: Write, text: str, expected: str) -> None:
    (line,) = refusal(write(text))
    assert line.startswith(expected)


def test_a_missing_file_names_the_nearest(write: Write) -> None:
    path = write({})
    with pytest.raises(InputError, match=r"no such file \(did you mean 'cluster.yaml'\?\)"):
        load_cluster(path.with_name("clusters.yaml"))


def test_numbers_in_base_60_are_text(write: Write) -> None:
    """YAML 1.1 would make 5400 of it: ``--time-min`` counts minutes, and 90 hours are no hour and a half."""
    path = write("slurm: {distill: {options: {time-min: 01:30:00, nice: -5}}}")
    assert load_cluster(path).request(None, "distill").options == (("nice", "-5"), ("time-min", "01:30:00"))


# places


def test_variables_in_paths_are_those_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.setenv("HOME", "/home/me")
    cluster = Cluster(root="$SCRATCH/a", logs="~/logs", hub_cache="${SCRATCH}/hub")
    assert (cluster.root_folder, cluster.logs_folder) == (Path("/scratch/me/a"), Path("/home/me/logs"))
    assert cluster.environment() == {
        "TEXTDD_ROOT": "$SCRATCH/a",
        "HF_HUB_CACHE": "${SCRATCH}/hub/hub",
        "HF_DATASETS_CACHE": "${SCRATCH}/hub/datasets",
    }
    assert (Cluster().root_folder, Cluster().environment()) == (None, {})
    monkeypatch.delenv("SCRATCH")
    with pytest.raises(InputError, match=r"root: \$SCRATCH/a: \$SCRATCH is not set here"):
        _ = cluster.root_folder


def test_the_root_is_given_or_the_environments_or_the_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEXTDD_ROOT", raising=False)
    monkeypatch.delenv("NOBODYS", raising=False)
    site = Cluster(root="/clusters")
    assert (root_of(None, Cluster()), root_of(None, site), root_of("/g", site)) == (None, Path("/clusters"), Path("/g"))
    monkeypatch.setenv("TEXTDD_ROOT", "/set")
    assert (root_of(None, site), root_of("/g", site)) == (Path("/set"), Path("/g"))
    assert root_of(None, Cluster(root="$NOBODYS/a")) == Path("/set"), "what is not used may be unset"


def test_a_command_line_looks_where_jobs_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TEXTDD_ROOT", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.setenv(name, "to be put back")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_CACHE", "/mine")
    monkeypatch.setenv("SCRATCH", "/scratch")
    (tmp_path / "site.yaml").write_text("root: $SCRATCH/a\nhub_cache: $SCRATCH/hub\n")
    assert enter(tmp_path / "site.yaml").root == "$SCRATCH/a"
    found = [os.environ[name] for name in ("TEXTDD_ROOT", "HF_HUB_CACHE", "HF_DATASETS_CACHE")]
    assert found == ["/scratch/a", "/mine", "/scratch/hub/datasets"]


def test_the_interpreter_is_words_of_a_shell() -> None:
    assert Cluster().interpreter is None
    assert Cluster(python="~/my env/bin/python").interpreter == '"${HOME:?}/my env/bin/python"'
    assert Cluster(prefix="apptainer exec --nv x.sif").interpreter == "apptainer exec --nv x.sif python"
    assert in_shell("${SCRATCH}/x") == '"${SCRATCH:?}/x"'


def test_prepare_runs_here_unless_it_is_said_to_be_a_job() -> None:
    assert Cluster().prepares_here
    assert not Cluster.model_validate({"slurm": {"prepare": {"where": "job"}}}).prepares_here
