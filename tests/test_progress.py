"""Progress in a batch log, which is a file, and on a terminal."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator

import pytest

from pipeline.progress import bar
from pipeline.stopping import Stopped

Wait = Callable[[float], None]


class Terminal(io.StringIO):
    """Standard error as a person sees it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Wait:
    """Lets time pass."""
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def run(wait: Wait, seconds: Iterable[float], total: int, done: int = 0) -> None:
    with bar(total, "distill", "step", done) as shown:
        for number, pause in enumerate(seconds):
            wait(pause)
            shown.set_postfix(loss=f"{1 / (1 + number):.3f}", refresh=False)
            shown.update()


def test_a_line_per_interval(wait: Wait, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten minutes of steps of half a second, in a run that was continued."""
    run(wait, [0.5] * 1200, total=2200, done=1000)
    said = capsys.readouterr().err
    lines = said.splitlines()
    assert "\r" not in said
    assert "\x1b" not in said
    assert lines[0] == "distill:  45% 1000/2200 [00:00<?, ?step/s]"
    assert lines[1] == "distill:  46% 1004/2200 [00:02<09:58,  2.00step/s, loss=0.250]", "early"
    assert lines[2].startswith("distill:  48% 1064/2200 [00:32<09:28,  2.00step/s")
    assert lines[-1].startswith("distill: 100% 2200/2200 [10:00<00:00,  2.00step/s, loss=")
    assert len(lines) == 2 + 19 + 1


def test_slow_steps_have_a_line_each_and_the_last_one_no_second(wait: Wait, capsys: pytest.CaptureFixture[str]) -> None:
    run(wait, [300.0] * 3, total=3)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in lines] == ["0/3", "1/3", "2/3", "3/3"]
    assert "300.00s/step" in lines[-1]


def test_a_pace_that_changes_is_noticed(wait: Wait, capsys: pytest.CaptureFixture[str]) -> None:
    run(wait, [1 / 1024] * 60000 + [20.0] * 4, total=60004)
    assert [line.split()[2].split("/")[0] for line in capsys.readouterr().err.splitlines()] == [
        "0", "2048", "32768", "60001", "60003", "60004"
    ]  # fmt: skip


def test_the_last_line_comes_however_it_ends(wait: Wait, capsys: pytest.CaptureFixture[str]) -> None:
    def steps() -> Iterator[float]:
        yield from [0.1] * 3
        raise Stopped("SIGUSR2")

    with pytest.raises(Stopped):
        run(wait, steps(), total=9)
    assert [line.split()[2] for line in capsys.readouterr().err.splitlines()] == ["0/9", "3/9"]


def test_what_is_complete_has_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with bar(4, "evaluate", "initialisation", 4):
        pass
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_parts_of_a_unit(wait: Wait, capsys: pytest.CaptureFixture[str]) -> None:
    with bar(10, "evaluate", "initialisation", fractions=True) as shown:
        for _ in range(6):
            wait(10)
            shown.update(1 / 4)
    assert [line.split()[2] for line in capsys.readouterr().err.splitlines()] == [
        "0.00/10.0", "0.25/10.0", "1.00/10.0", "1.50/10.0"
    ]  # fmt: skip


def test_one_that_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with bar(4, "distill", "step", shown=False) as shown:
        shown.update()
        shown.set_postfix(loss="1")
    assert capsys.readouterr().err == ""


def test_a_terminal_is_redrawn(wait: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    run(wait, [0.6] * 10, total=10)
    said = terminal.getvalue()
    assert said.count("\r") >= 10
    assert said.count("\n") == 1
    assert "10/10 [00:06<00:00" in said
