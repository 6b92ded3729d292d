"""Signals: a flag where somebody looks, an exception at once where nobody does, a status that says what to do next."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import stopping
from pipeline.stopping import Stopped, check, listen, polled, requested

ROOT = Path(__file__).resolve().parents[1]
HEARD = [getattr(signal, name) for name in stopping.SIGNALS]


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Whatever a test leaves behind, pytest gets its own back."""
    before = {number: signal.getsignal(number) for number in HEARD}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    assert stopping._state.polling == stopping._state.listening == 0


@pytest.fixture
def no_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two signals in a row count as two."""
    monkeypatch.setattr(stopping, "_ECHO", 0.0)


def send(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))
    for _ in range(100):  # Python runs the handler between two of its instructions
        pass


@pytest.mark.parametrize("name", stopping.SIGNALS)
def test_outside_of_a_loop_it_raises_at_once(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with listen():
        assert requested() is None
        with pytest.raises(Stopped) as stopped:
            send(name)
        assert stopped.value.signal == requested() == name
    assert capfd.readouterr().err == f"{name}: saving and stopping\n"
    assert requested() is None


@pytest.mark.parametrize("name", stopping.SIGNALS)
def test_a_loop_is_told_when_it_looks(name: str) -> None:
    with listen(), polled():
        for step in range(5):
            check()
            if step == 4:
                send(name)
        assert requested() == name
        with pytest.raises(Stopped, match=name):
            check()


def test_the_first_signal_counts_and_the_line_comes_once(no_echo: None, capfd: pytest.CaptureFixture[str]) -> None:
    with listen(), polled():
        for name in ("SIGUSR2", "SIGTERM", "SIGUSR2", "SIGINT"):
            send(name)
        assert requested() == "SIGUSR2"
    assert capfd.readouterr().err == "SIGUSR2: saving and stopping\n"


def test_leaving_a_loop_raises_nothing_but_the_next_look_does() -> None:
    with listen():
        with polled(), polled():
            send("SIGTERM")
        assert requested() == "SIGTERM"
        with pytest.raises(Stopped, match="SIGTERM"):
            check()


def test_a_second_ctrl_c_is_an_interrupt_even_in_a_loop(no_echo: None) -> None:
    with listen(), polled():
        send("SIGTERM")
        send("SIGINT")  # the first of its kind
        with pytest.raises(KeyboardInterrupt):
            send("SIGINT")


def test_an_echo_is_not_a_second_ctrl_c() -> None:
    """torchrun hands Ctrl-C on to processes that the terminal has told already."""
    with listen(), polled():
        send("SIGINT")
        send("SIGINT")
        assert requested() == "SIGINT"


def test_what_was_swallowed_is_raised_again_at_the_next_signal(no_echo: None) -> None:
    with listen():
        with contextlib.suppress(BaseException):  # as a library's bare `except:` would
            send("SIGTERM")
        assert requested() == "SIGTERM"
        with pytest.raises(Stopped):
            send("SIGTERM")


def test_handlers_come_back_and_a_new_start_has_forgotten() -> None:
    def ours(number: int, frame: object) -> None:
        heard.append(number)

    heard: list[int] = []
    signal.signal(signal.SIGUSR1, ours)
    signal.signal(signal.SIGUSR2, ours)
    before = [signal.getsignal(number) for number in HEARD]
    for _ in range(2):
        with listen(), polled():
            assert requested() is None
            with listen():  # nested: the same flag, and nothing is reset on the way out
                send("SIGUSR1")
            assert requested() == "SIGUSR1"
    assert [signal.getsignal(number) for number in HEARD] == before
    send("SIGUSR1")
    assert heard == [signal.SIGUSR1]


def test_a_late_echo_does_not_kill_a_process_that_is_leaving() -> None:
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    with listen(), polled():
        pass
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
    with listen(), polled():
        send("SIGUSR2")
    send("SIGUSR2")  # would be our end


def test_who_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with listen():
        send("SIGINT")
        assert requested() is None


def test_another_thread_neither_listens_nor_holds_the_main_one_back() -> None:
    release, entered = threading.Event(), threading.Event()

    def work() -> None:
        with listen(), polled():
            entered.set()
            release.wait()

    thread = threading.Thread(target=work)
    with listen():
        thread.start()
        entered.wait()
        with pytest.raises(Stopped):
            send("SIGTERM")
        release.set()
        thread.join()


def test_a_wait_in_c_is_ended_by_the_system() -> None:
    handlers = []
    with listen():
        with stopping.unheard():
            handlers += [signal.getsignal(number) for number in HEARD]
        with polled():
            send("SIGUSR1")
        with pytest.raises(Stopped), stopping.unheard():
            pytest.fail("it waited in spite of a signal")
    assert handlers == [signal.SIG_DFL] * 4
    with stopping.unheard():
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_listening_nothing_is_different() -> None:
    with polled():
        check()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert requested() is None


# --- a command line, from outside ----------------------------------------------------------------------------------

COMMAND = """
import os, sys, time
from pipeline import stopping
from pipeline.stopping import guarded
import typer

def ready() -> None:
    print("ready", flush=True)

def command(how: str) -> None:
    deadline = time.monotonic() + 20
    if how == "polling":
        with stopping.polled():
            ready()
            while time.monotonic() < deadline:
                time.sleep(0.01)
                stopping.check()
    elif how == "deaf":
        with stopping.polled():
            ready()
            time.sleep(20)
    else:
        ready()
        time.sleep(20)
    print("never")

guarded(lambda: typer.run(command))
"""


def run(how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("how", ["polling", "not polling"])
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 85), ("SIGUSR2", 85)])
def test_the_status_says_which_signal_and_one_sentence_what_to_do(name: str, status: int, how: str) -> None:
    process = run(how)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=10)
    assert process.returncode == status == Stopped(name).status
    assert out == ""
    heard, sentence = err.splitlines()
    assert heard == f"{name}: saving and stopping"
    assert sentence.startswith(f"stopped by {name}; saved")
    assert ("requeue me" in sentence) == (status == 85)
    assert "the same command goes on from there" in sentence


def test_a_second_ctrl_c_ends_a_command_that_does_not_look() -> None:
    process = run("deaf")
    process.send_signal(signal.SIGINT)
    time.sleep(stopping._ECHO + 0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_it_is_there_before_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, pipeline.stopping, pipeline.store; sys.exit('torch' in sys.modules)"],
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0
