"""What SLURM is asked, how often, and what its answers (recorded from 22.05.8, printed by stand-ins) are taken for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.errors import StageError
from pipeline.launch import scheduler
from pipeline.launch.scheduler import JobState, Scheduler, clock, grouped, ranges, stuck

# squeue --noheader --array --states=all --Format=JobArrayID:|,State:|,EndTime:|,StartTime:|,NodeList:|,exit_code:|,…
QUEUE = """\
54|CANCELLED|1795173920|N/A||0|0|DependencyNeverSatisfied|wrap|
68|CANCELLED|1795173923|1795173918|n2|15|0|None|wrap|
69_0|CANCELLED|1795173923|1795173923||0|0|JobHeldUser|wrap|
52_0|COMPLETED|1795173919|1795173918|n1|0|0|None|textdd.t3.s1.distill-0|
52_1|FAILED|1795173919|1795173918|n1|256|0|NonZeroExitCode|textdd.t3.s1.distill-0|
56|FAILED|1795173919|1795173918|n1|9|0|JobLaunchFailure|wrap|
58|FAILED|1795173918|1795173918|n1|51200|0|NonZeroExitCode|wrap|
59|FAILED|1795173918|1795173918|n1|4021|0|JobLaunchFailure|wrap|
60|FAILED|1795173918|1795173918|n2|139|0|JobLaunchFailure|wrap|
70|NODE_FAIL|1795173923|1795173918|n2|0|0|NodeDown|wrap|
33|PREEMPTED|1795172719|1795172704|n2|15|0|None|wrap|
53_0|PENDING|1826710044|1795174044||0|1|BeginTime|textdd.t3.s1.evaluate-0|
53_1|PENDING|N/A|N/A||0|0|DependencyNeverSatisfied|textdd.t3.s1.evaluate-0|
53_2|PENDING|N/A|N/A||0|0|Dependency|textdd.t3.s1.evaluate-0|
61_0|PENDING|1795175844|1795174044||0|1|JobArrayTaskLimit|wrap|
63|PENDING|NONE|1795177518||0|0|BeginTime|wrap|
65|PENDING|1795176323|1795175723||0|0|Resources|wrap|
66|PENDING|NONE|1795176300|n2|0|1|Priority|wrap|
11|PENDING|N/A|1826708549||0|0|Resources|wrap|
64|PENDING|1826710044|1795174044||0|1|JobHeldAdmin|wrap|
67|PENDING|N/A|N/A|n2|0|1|job requeued in held state|wrap|
62|PENDING|N/A|N/A||0|0|JobHeldUser|wrap|
34|PENDING|N/A|N/A||0|0|Nodes required for job are DOWN, DRAINED or reserved|x|
36|PENDING|N/A|N/A||0|0|ReqNodeNotAvail, UnavailableNodes:n1|wrap|
37|PENDING|N/A|N/A||0|0|QOSMaxGRESPerUser|wrap|
61_2|RUNNING|1795175723|1795173923|n1|0|0|None|wrap|
78|SUSPENDED|NONE|1795174030|n1|0|0|None|wrap|
79|COMPLETING|NONE|1795174031|n1|0|1|None|wrap|
55|TIMEOUT|1795173981|1795173918|n1|15|0|TimeLimit|wrap|
"""
# sacct --allocations --noheader --parsable2 --format=JobID,State,ExitCode,NodeList,Reason,JobName
ACCOUNTED = """\
54|CANCELLED|0:0|None assigned|Dependency|wrap
55|TIMEOUT|0:0|n1|None|wrap
56|FAILED|0:9|n1|None|wrap
57|COMPLETED|0:0|n1|None|wrap
58|FAILED|72:0|n1|None|wrap
59|FAILED|0:53|n1|None|wrap
66|REQUEUED|0:0|n2|None|wrap
68|CANCELLED by 0|0:0|n2|None|wrap
70|NODE_FAIL|0:0|n2|None|wrap
33|PREEMPTED|0:0|n2|None|wrap
52_1|FAILED|1:0|n1|None|textdd.t3.s1.distill-0
53_1|PENDING|0:0|None assigned|Dependency|textdd.t3.s1.evaluate-0
61_2|RUNNING|0:0|n1|JobArrayTaskLimit|wrap
1_[2-3%2]|PENDING|0:0|None assigned|JobArrayTaskLimit|wrap
69_[0-3]|CANCELLED by 0|0:0|None assigned|JobHeldUser|wrap
51|CANCELLED by 0|0:0|None assigned|None|wrap
90|OUT_OF_MEMORY|0:125|n1|None|wrap
"""
CONFIG = """\
Configuration data as of 2026-11-20T11:02:28
AccountingStorageType   = accounting_storage/{kind}
MaxArraySize            = 1001
MinJobAge               = 300 sec
"""
DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
NO_DATABASE = """\
sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection to host:127.0.0.1:18802
sacct: error: Sending PersistInit msg: Connection refused
sacct: error: Problem talking to the database: Connection refused
"""
STAND_IN = """#!/bin/sh
echo "$(basename $0) $*" >> {folder}/calls
env | grep -E '^(SQUEUE|SACCT|SCANCEL)_|^SLURM_TIME_FORMAT' >> {folder}/environment
[ -f {folder}/$(basename $0).err ] && cat {folder}/$(basename $0).err >&2 && exit 1
cat {folder}/$(basename $0).out 2>/dev/null
exit 0
"""


class Rig:
    """Stand-ins for SLURM's programs: what they print, what they were asked, what time it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 1000.0
        for program in ("sbatch", "squeue", "sacct", "scontrol", "scancel"):
            (folder / program).write_text(STAND_IN.format(folder=folder))
            (folder / program).chmod(0o755)
        self.says("squeue", QUEUE)
        self.says("sacct", ACCOUNTED)
        self.says("scontrol", CONFIG.format(kind="slurmdbd"))

    def says(self, program: str, text: str) -> None:
        (self.folder / f"{program}.err").unlink(missing_ok=True)
        (self.folder / f"{program}.out").write_text(text)

    def fails(self, program: str, text: str) -> None:
        (self.folder / f"{program}.err").write_text(text)

    def calls(self, program: str) -> list[str]:
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(program + " ")]


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    folder = tmp_path / "bin"
    folder.mkdir()
    rig = Rig(folder)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    frozen = SimpleNamespace(
        monotonic=lambda: rig.now, time=lambda: 1795174000.0, localtime=time.localtime, strftime=time.strftime
    )
    monkeypatch.setattr(scheduler, "time", frozen)
    return rig


@pytest.fixture
def slurm(rig: Rig) -> Scheduler:
    found = Scheduler.here()
    assert found is not None
    return found


def one(slurm: Scheduler, job: str) -> JobState:
    return slurm.jobs([job])[job]


# --- states -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "state", "reason"),
    [
        ("54", "CANCELLED", "its dependency failed"),
        ("68", "CANCELLED", "cancelled"),
        ("69_0", "CANCELLED", "cancelled"),
        ("52_0", "COMPLETED", "completed"),
        ("52_1", "FAILED", "exit 1"),
        ("56", "FAILED", "killed by SIGKILL"),
        ("58", "FAILED", "exit 200"),
        ("59", "FAILED", "its log could not be opened"),
        ("60", "FAILED", "killed by SIGSEGV"),
        ("70", "NODE_FAIL", "node failure"),
        ("33", "PREEMPTED", "pre-empted"),
        ("55", "TIMEOUT", "time limit"),
        # only accounting knows these
        ("57", "COMPLETED", "completed"),
        ("69_3", "CANCELLED", "cancelled"),
        ("51_7", "CANCELLED", "cancelled"),
        ("90", "OUT_OF_MEMORY", "out of memory"),
    ],
)
def test_how_a_job_ended(slurm: Scheduler, job: str, state: str, reason: str) -> None:
    found = one(slurm, job)
    assert (found.id, found.state, found.live, found.end_reason) == (job, state, False, reason)


@pytest.mark.parametrize(
    ("job", "state", "reason"),
    [
        ("56", "FAILED", "killed by SIGKILL"),
        ("58", "FAILED", "exit 72"),  # sacct's own reading of 200
        ("59", "FAILED", "its log could not be opened"),
        ("68", "CANCELLED", "cancelled"),
        ("54", "CANCELLED", "its dependency failed"),
        ("52_1", "FAILED", "exit 1"),
        ("33", "PREEMPTED", "pre-empted"),
        ("70", "NODE_FAIL", "node failure"),
        ("55", "TIMEOUT", "time limit"),
    ],
)
def test_accounting_agrees(rig: Rig, slurm: Scheduler, job: str, state: str, reason: str) -> None:
    rig.says("squeue", "")
    found = one(slurm, job)
    assert (found.state, found.live, found.end_reason) == (state, False, reason)
    assert found.node in ("n1", "n2", "")


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ("53_0", "requeued, begins at "),
        ("53_1", "can never start: the job it waits for failed"),
        ("53_2", "waits for another job"),
        ("61_0", "as many of its array run as may (at_once)"),
        ("63", "begins at "),
        ("65", "waits for free resources, about "),
        ("66", "waits behind jobs of higher priority, about "),
        ("64", "held by an administrator"),
        ("67", "requeued and held; scontrol release 67"),
        ("62", "held; scontrol release 62"),
        ("34", "its nodes are not available (Nodes required for job are DOWN, DRAINED or reserved)"),
        ("36", "its nodes are not available (ReqNodeNotAvail, UnavailableNodes:n1)"),
        ("37", "a limit of the account or QOS is reached (QOSMaxGRESPerUser)"),
        ("61_2", "is running on n1"),
        ("78", "is suspended on n1"),
        ("79", "is completing on n1"),
    ],
)
def test_why_a_job_waits(slurm: Scheduler, job: str, words: str) -> None:
    found = one(slurm, job)
    assert found.live
    assert found.waits.startswith(words)
    if words.endswith(("at ", "about ")):
        assert found.waits == words + clock(found.begins)


def test_an_estimate_of_a_year_is_none(slurm: Scheduler) -> None:
    """SLURM takes jobs without a limit for ones that need a year each."""
    assert one(slurm, "11").waits == "waits for free resources"


def test_a_state_that_nobody_has_heard_of_may_run(rig: Rig, slurm: Scheduler) -> None:
    lines = "7|EXPEDITING|NONE|N/A||0|0|SomethingNew|x|\n8|PENDING|N/A|N/A||0:0||SomethingNew|a|b|\n"
    rig.says("squeue", f"CLUSTER: two\n{lines}")
    found = slurm.jobs(["7", "8"])
    assert found["7"].live
    assert found["7"].waits == "is expediting"
    assert found["8"].waits == "waits: SomethingNew"
    assert found["8"].name == "a|b"


def test_time_left_of_the_slot(slurm: Scheduler) -> None:
    assert one(slurm, "61_2").seconds_left == 1723
    assert one(slurm, "53_0").seconds_left is None
    assert one(slurm, "78").seconds_left is None
    assert one(slurm, "61_2").node == "n1"
    assert one(slurm, "79").restarts == 1


def test_what_can_never_start(slurm: Scheduler) -> None:
    assert stuck(slurm.jobs(["52_1", "53_0", "53_1", "53_2", "54"])) == ["53_1"]


# --- how often it is asked --------------------------------------------------------------------------------------


def test_one_question_about_all_and_one_about_those_it_forgot(rig: Rig, slurm: Scheduler) -> None:
    ids = [line.split("|")[0] for line in QUEUE.splitlines()]
    found = slurm.jobs([*ids, "57", "69_1", "69_2", "999999", "52_0"])
    assert list(found) == [*ids, "57", "69_1", "69_2"]
    assert len(rig.calls("squeue")) == 1
    assert f"--user={os.getuid()}" in rig.calls("squeue")[0]
    (asked,) = rig.calls("sacct")
    assert asked.endswith("--jobs=57,69,999999")
    for _ in range(5):
        assert slurm.jobs(["57", "53_0", "999999"]).keys() == {"57", "53_0"}
    assert len(rig.calls("squeue")) == len(rig.calls("sacct")) == 1
    rig.now += 3.5
    slurm.jobs(["57", "53_0", "999999"])
    assert len(rig.calls("squeue")) == 2
    assert len(rig.calls("sacct")) == 1, "what is over stays over, and who is unknown is not asked for at once"
    rig.now += 61
    slurm.jobs(["57", "999999"])
    assert rig.calls("sacct")[1].endswith("--jobs=999999")
    assert slurm.trouble is None


def test_nothing_is_asked_about_nothing(rig: Rig, slurm: Scheduler) -> None:
    assert slurm.jobs([]) == {}
    assert not (rig.folder / "calls").exists()


def test_a_job_that_is_requeued_lives_again(rig: Rig, slurm: Scheduler) -> None:
    assert not one(slurm, "70").live
    rig.says("squeue", "70|PENDING|NONE|1795174156||0|1|BeginTime|wrap|\n")
    rig.now += 4
    assert one(slurm, "70").live


def test_the_queue_is_believed_before_accounting(rig: Rig, slurm: Scheduler) -> None:
    """Accounting still lists elements as running whose end it has not heard of."""
    rig.says("squeue", "")
    assert slurm.jobs(["61_2", "53_1", "66", "1_2"]) == {}


def test_users_own_defaults_change_nothing(rig: Rig, slurm: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SQUEUE_FORMAT", "SQUEUE_STATES", "SACCT_FORMAT", "SCANCEL_INTERACTIVE"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    slurm.jobs(["57"])
    slurm.cancel(["57"])
    assert set((rig.folder / "environment").read_text().splitlines()) == {"SLURM_TIME_FORMAT=%s"}


# --- no accounting, no answer -----------------------------------------------------------------------------------


def test_without_accounting_ends_are_remembered_for_the_session(rig: Rig, slurm: Scheduler) -> None:
    rig.fails("sacct", "Slurm accounting storage is disabled\n")
    rig.says("scontrol", CONFIG.format(kind="none"))
    assert slurm.jobs(["57", "56"]).keys() == {"56"}
    assert slurm.trouble is None
    assert not slurm.accounting()
    rig.says("squeue", "")  # MinJobAge is over
    rig.now += 400
    assert one(slurm, "56").end_reason == "killed by SIGKILL"
    assert slurm.jobs(["57"]) == {}
    assert len(rig.calls("sacct")) == 1


@pytest.mark.parametrize(("kind", "there"), [("slurmdbd", True), ("none", False), ("(null)", False)])
def test_accounting_and_the_size_of_arrays(rig: Rig, slurm: Scheduler, kind: str, there: bool) -> None:
    rig.says("scontrol", CONFIG.format(kind=kind))
    assert slurm.max_array_size() == 1001
    assert slurm.accounting() is there
    assert rig.calls("scontrol") == ["scontrol show config"]
    assert rig.calls("sacct") == []


def test_a_controller_that_does_not_answer_is_left_in_peace(rig: Rig, slurm: Scheduler) -> None:
    assert one(slurm, "61_2").state == "RUNNING"
    rig.fails("squeue", DOWN)
    asked = []
    for _ in range(200):
        rig.now += 4
        assert one(slurm, "61_2").state == "RUNNING", "what was known before"
        asked.append(len(rig.calls("squeue")))
    assert asked[-1] == 1 + 8, "pauses of 5, 10, 20, 40, 80, 160, 300 and 300 s"
    said = str(slurm.trouble)
    assert "Unable to contact slurm controller (connect failure)" in said
    assert f"jobs are as of {clock(1795174000.0)}" in said
    assert len(said.splitlines()) == 1
    rig.says("squeue", QUEUE.replace("61_2|RUNNING", "61_2|TIMEOUT"))
    rig.now += 301
    assert one(slurm, "61_2").state == "TIMEOUT"
    assert slurm.trouble is None
    rig.fails("squeue", DOWN)
    rig.now += 4
    slurm.jobs(["61_2"])
    rig.now += 5.5
    slurm.jobs(["61_2"])
    assert len(rig.calls("squeue")) == 9 + 3, "the pause is short again"


@pytest.mark.parametrize(
    "words",
    [
        DOWN,
        "slurm_load_jobs error: Socket timed out on send/recv operation\n",
        "slurm_load_jobs error: Invalid job id specified\n",
        "squeue: error: ClusterName needs to be specified\nsqueue: fatal: Unable to process configuration file\n",
    ],
)
def test_errors_never_raise_but_where_things_would_run_twice(rig: Rig, slurm: Scheduler, words: str) -> None:
    rig.fails("squeue", words)
    rig.fails("scontrol", words)
    found = slurm.jobs(["61_2", "53_1", "57"])
    assert found["61_2"].live, "accounting is the next best"
    assert not found["57"].live
    assert words.splitlines()[-1] in str(slurm.trouble)
    assert "nothing is known of jobs" in str(slurm.trouble)
    assert slurm.max_array_size() is None
    with pytest.raises(StageError, match="SLURM does not answer"):
        slurm.mine()


def test_a_database_that_does_not_answer(rig: Rig, slurm: Scheduler) -> None:
    rig.fails("sacct", NO_DATABASE)
    assert slurm.jobs(["57", "56"]).keys() == {"56"}
    assert "accounting does not answer (sacct: error: Problem talking to the database" in str(slurm.trouble)
    rig.now += 3.5
    slurm.jobs(["57"])
    assert (len(rig.calls("squeue")), len(rig.calls("sacct"))) == (2, 1)
    rig.says("sacct", ACCOUNTED)
    rig.now += 3.5
    assert one(slurm, "57").state == "COMPLETED"
    assert slurm.trouble is None
    assert slurm.accounting()


def test_a_program_that_hangs(rig: Rig, slurm: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(command: tuple[str, ...], timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(scheduler.subprocess, "run", hangs)
    assert slurm.jobs(["57"]) == {}
    assert "squeue: no answer within 20 s" in str(slurm.trouble)


def test_no_slurm_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Scheduler.here() is None


def test_no_sacct_on_this_machine(rig: Rig, slurm: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler.shutil, "which", lambda name: None if name == "sacct" else f"/bin/{name}")
    assert slurm.jobs(["57"]) == {}
    assert (slurm.trouble, slurm.accounting()) == (None, False)


# --- what changes something -------------------------------------------------------------------------------------


def test_mine_are_those_that_are_not_over_as_of_now(rig: Rig, slurm: Scheduler) -> None:
    ours = [job.id for job in slurm.mine() if job.name.startswith("textdd.t3.")]
    assert ours == ["53_0", "53_1", "53_2"]
    slurm.mine()
    assert len(rig.calls("squeue")) == 2


def test_cancel_is_one_call_for_the_ids_given(rig: Rig, slurm: Scheduler) -> None:
    assert slurm.cancel([]) is None
    assert rig.calls("scancel") == []
    assert slurm.cancel(["54", *(f"61_{index}" for index in (0, 1, 2, 5, 6)), "53_1", "54"]) is None
    assert rig.calls("scancel") == ["scancel --quiet 54 61_[0-2,5-6] 53_1"]
    rig.fails("scancel", "scancel: error: Kill job error on job id 3: Unable to contact slurm controller\n")
    assert "Unable to contact" in str(slurm.cancel(["54"]))


def test_after_a_change_the_queue_is_asked_again(rig: Rig, slurm: Scheduler) -> None:
    slurm.jobs(["54"])
    slurm.cancel(["54"])
    slurm.jobs(["54"])
    assert len(rig.calls("squeue")) == 2


def test_ids_and_numbers_as_slurm_writes_them() -> None:
    assert list(grouped(["1_0", "7", "1_1", "1_5", "2_3"])) == ["7", "1_[0-1,5]", "2_3"]
    assert ranges([5, 1, 2, 3, 3, 9, 10]) == "1-3,5,9-10"
    assert list(scheduler._each("1_[2-3,7%2]")) == ["1_2", "1_3", "1_7"]
    assert list(scheduler._each("1_[0-6:3]")) == ["1_0", "1_3", "1_6"]
    assert list(scheduler._each("1_4")) == ["1_4"]


def test_it_imports_neither_torch_nor_submitit() -> None:
    heavy = "('torch', 'submitit', 'numpy', 'pandas', 'transformers', 'h5py')"
    code = f"import sys, pipeline.launch.status; print([name for name in {heavy} if name in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "[]\n"
