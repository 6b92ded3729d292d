from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.report.report_fabric import Fabric


@pytest.fixture
def fabric(tmp_path: Path) -> Fabric:
    return Fabric(tmp_path)


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
