"""The figure of accuracy against compute: what is on it, and that it is the same bytes every time."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.collect import Collected, Sample, collect
from pipeline.report.figures import pareto
from pipeline.report.ledger import Ledger
from pipeline.work import Work
from tests.report.report_fabric import FULL, MAJORITY, RANDOM, Fabric, counts

VALUES = {"majority": [0.5], "random": [0.52, 0.56, 0.6], "ddal": [0.6, 0.7, 0.8], "full": [0.9, 0.9, 0.9]}


@pytest.fixture
def collected(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> Collected:
    grids = (MAJORITY, RANDOM, {"distill.method.labels": ["hard", "soft", "unrestricted"]}, FULL)
    experiment = fabric.experiment(*grids, tasks=[fabric.task("one"), fabric.task("two")])
    fabric.fill(experiment, lambda c: dict.fromkeys(c.splits, VALUES[c.source.method.name]))
    for cell in experiment.cells:
        (fabric.store.cell(cell.source.source).folder / "train").mkdir(exist_ok=True)
    of_set = {"ddal": Work(outer=5e12)}
    training = {"majority": 0.0, "random": 3e10, "ddal": 1e9, "full": 4e12}
    counts(monkeypatch, of_distill=lambda config, folder: of_set.get(config.method.name, Work()))
    counts(monkeypatch, of_training=lambda config, folder: Work(training=training[config.source.method.name]))
    counts(monkeypatch, of_scoring=lambda config, folder: Work())
    return collect(experiment, fabric.store)


def ledger(fabric: Fabric, collected: Collected, filled: bool = True) -> Ledger:
    made = Ledger(fabric.folder / "demo.ledger.csv", fabric.store)
    made.add(finished for finished, _ in collected.cells if filled)
    return made


def drawn(
    collected: Collected, made: Ledger, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> tuple[list[Any], list[Path]]:
    """The panels of the figure, and its files."""
    panels: list[Any] = []
    true = pareto._panel

    def kept(panel: Any, *arguments: Any) -> None:
        panels.append(panel)
        true(panel, *arguments)

    monkeypatch.setattr(pareto, "_panel", kept)
    return panels, list(pareto.draw(collected, made, "demo", folder / "demo.pareto"))


def test_every_row_is_named_and_has_its_own_marker(
    fabric: Fabric, collected: Collected, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    panels, files = drawn(collected, ledger(fabric, collected), monkeypatch, tmp_path)
    assert [path.name for path in files] == ["demo.pareto.png", "demo.pareto.pdf"]
    assert [panel.get_title() for panel in panels] == ["one", "two"]
    panel = panels[0]
    assert panel.get_xscale() == "log"
    names = {text.get_text(): text.get_position()[1] for text in panel.texts if text.get_text()}
    assert set(names) == {"random real  56.0", "HL  70.0", "SL  70.0", "SL (softmax)  70.0", "full data  90.0"}
    filled = [
        line
        for line in panel.lines
        if line.get_marker() not in ("None", "_", "|", None) and line.get_markerfacecolor() == "black"
    ]
    firsts = {(line.get_marker(), float(line.get_xdata()[0])) for line in filled if len(line.get_xdata()) == 1}
    assert sorted(x for _, x in firsts) == [3e10, 4e12, 5.001e12, 5.001e12, 5.001e12]
    assert len({marker for marker, _ in firsts}) == 5, "no two rows by colour alone"
    hollow = [line for line in panel.lines if line.get_markerfacecolor() == "white"]
    assert [float(line.get_xdata()[0]) for line in hollow] == [1e9] * 3, "each further student trains on the set alone"
    assert 50.0 in [line.get_ydata()[0] for line in panel.lines if line.get_linestyle() == ":"], "the majority"
    assert min(b - a for a, b in pairwise(sorted(names.values()))) > 1, "equal means, names apart"
    beside = {float(line.get_ydata()[0]): line.get_marker() for line in filled if len(line.get_xdata()) > 1}
    assert {beside[height] for height in names.values()} == {marker for marker, _ in firsts}, "a name has its marker"


def test_without_costs_it_says_so(
    fabric: Fabric, collected: Collected, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    panels, _ = drawn(collected, ledger(fabric, collected, filled=False), monkeypatch, tmp_path)
    assert [text.get_text() for text in panels[0].texts] == ["no costs on record"]


def test_the_same_bytes(fabric: Fabric, collected: Collected, tmp_path: Path) -> None:
    made = ledger(fabric, collected)
    one, two = (pareto.draw(collected, made, "demo", tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


@pytest.mark.filterwarnings("error")
def test_a_training_that_nobody_counted_takes_no_place(
    fabric: Fabric, collected: Collected, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A logarithmic axis has none for it; a single point then decides how far the axis reaches."""
    counts(monkeypatch, of_training=lambda config, folder: Work())
    alone = fabric.experiment({}, tasks=[fabric.task("one")])
    found = collect(alone, fabric.store)
    (panel,), _ = drawn(found, ledger(fabric, found), monkeypatch, tmp_path)
    assert panel.get_xlim() == pytest.approx((5e12 / 3, 3 * 5e12))


def test_of_many_rows_those_are_named_that_no_cheaper_one_equals() -> None:
    def point(cost: float, mean: float) -> pareto.Point:
        return pareto.Point(None, cost, cost, Sample(((mean / 100,),)))  # type: ignore[arg-type]

    front = [point(10.0**k, 40 + 4 * k) for k in range(11)]
    near = point(10**10.5, 80.5)  # dearer than the front's last, and hardly better
    below = [point(10.0**k, 39.0) for k in range(1, 4)]
    few = [*front[:5], *below]
    assert pareto.named(few) == few
    shown = pareto.named([*front, near, *below])
    assert near in shown
    assert not set(map(id, below)) & set(map(id, shown))
    means = [one.mean for one in shown]
    assert means == sorted(means, reverse=True)
    assert all(a - b >= (80.5 - 39) / pareto.MANY for a, b in pairwise(means)), "names have room"
