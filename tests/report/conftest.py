from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.figures import pareto
from pipeline.report.figures import scores as figure
from pipeline.report.statistics import comparisons
from pipeline.report.statistics.differences import DRAWS, PERMUTATIONS, Rows
from tests.report.report_fabric import Fabric


@pytest.fixture
def fabric(tmp_path: Path) -> Fabric:
    return Fabric(tmp_path)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stage 4 draws none, where a test asks for its tables alone."""
    for module in (figure, pareto):
        monkeypatch.setattr(module, "draw", lambda *_: [])


@pytest.fixture
def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer draws of the bootstrap and permutations, where what is compared is far apart or alike."""

    class Fewer(Rows):
        def __init__(self, *given):
            super().__init__(*given, draws=DRAWS // 10)

        def permute(self, pairs):
            return super().permute(pairs, PERMUTATIONS // 4)

    monkeypatch.setattr(comparisons, "Rows", Fewer)


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The panels of the figure that was saved last."""
    found: list[Axes] = []
    save = Figure.savefig

    def spy(self, *args, **kwargs):
        found[:] = self.axes
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spy)
    return found
