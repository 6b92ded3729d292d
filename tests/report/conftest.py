from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.figures import pareto
from pipeline.report.figures import scores as figure
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
def panels(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The panels of the figure that was saved last."""
    found: list[Axes] = []
    save = Figure.savefig

    def spy(self, *args, **kwargs):
        found[:] = self.axes
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spy)
    return found
