"""What the notebooks call: an experiment's results by its name, and each of them as a table or a figure to look at.

Everything is drawn anew from the store or, where it has no artifacts, from the runs that are committed in
``analysis/results``. Figures are also written to ``analysis/figures``, as PNG and PDF.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

# said while the libraries below are imported in a notebook: progress bars would need a widget; none is drawn here
warnings.filterwarnings("ignore", "IProgress not found")

from pipeline.config import Experiment, load
from pipeline.errors import InputError
from pipeline.report import beside
from pipeline.report.archive import Archive
from pipeline.report.collect import Collected, collect
from pipeline.report.figures import budgets as budget_figure
from pipeline.report.figures import losses as loss_figure
from pipeline.report.figures import pareto
from pipeline.report.figures import scores as bars_figure
from pipeline.report.files import OUT
from pipeline.report.ledger import Ledger, sentences
from pipeline.report.render import markdown
from pipeline.report.settled import sentences as searched_before
from pipeline.report.statistics import claims as paper_claims
from pipeline.report.tables import results_table
from pipeline.store import Store

if TYPE_CHECKING:
    from pipeline.report.shown_sets import Shown

    SetFigure = Callable[[Sequence[Shown], str, Path], tuple[Path, Path] | None]

ATTENTION = "SL + AL"


class Page(str):
    """Text that a notebook shows as Markdown."""

    def _repr_markdown_(self) -> str:
        return str(self)

    __repr__ = str.__str__


@dataclass(frozen=True)
class Drawn:
    """A figure that was written; a notebook shows its PNG."""

    png: Path
    pdf: Path

    def _repr_png_(self) -> bytes:
        return self.png.read_bytes()

    def __repr__(self) -> str:
        return f"{self.png.name} and {self.pdf.name} in {self.png.parent.parent.name}/{self.png.parent.name}"


@dataclass(frozen=True, repr=False)
class Results:
    """An experiment and all that there is of it.

    Attributes:
        home: the project's folder, in which a config's paths mean what they say.
        reference: of the experiment whose full data stands in where this one has none.

    """

    experiment: Experiment
    home: Path
    store: Store
    collected: Collected
    ledger: Ledger
    reference: Collected | None

    @property
    def name(self) -> str:
        """Of the experiment."""
        return self.experiment.name

    def figure(self, kind: str) -> Path:
        """Where a figure goes, without suffix."""
        return self.home / "analysis" / "figures" / f"{self.name}.{kind}"

    def __repr__(self) -> str:
        return f"{self.name}: {len(self.collected.cells)} of {len(self.experiment.cells)} cells have results"

    def _repr_markdown_(self) -> str:
        cells = [cell for cell, _ in self.collected.cells]
        archived = sum(cell.archived for cell in cells)
        lines = [
            f"**{self.name}**: {len(self.experiment.cells)} cells, of which {len(cells) - archived} are read from the "
            f"store and {archived} from the committed runs; {len(self.collected.problems)} have no results."
        ]
        encoders = ", ".join(dict.fromkeys(column.model for column in self.collected.layout.columns))
        lines += [f"Encoder: {encoders}.", *beside.sizes(self.collected)]
        return "\n".join(f"* {line}" for line in lines)


def gather(experiment: str, settings: Sequence[str] = (), full_data: str = "") -> Results:
    """Reads all results of an experiment.

    Args:
        experiment: its name (``configs/<name>.yaml``) or the path of its file.
        settings: ``dotted.key=value``, where it was run with ``--set``.
        full_data: the name of another experiment, whose full data is taken where this one has none.

    Raises:
        InputError: the notebook does not lie in a project, there is no such experiment, or its runs are not whole.

    """
    home = _home(Path.cwd())
    with contextlib.chdir(home):
        store = Store(Store().root.absolute())
        found = load(_file(experiment), settings)
        collected = _collect(found, home, store)
        ledger = Ledger(home / OUT / f"{found.name}.ledger.csv", store)
        ledger.add(cell for cell, _ in collected.cells)
        reference = _collect(load(_file(full_data)), home, store) if full_data else None
    return Results(found, home, store, collected, ledger, reference)


def table(results: Results) -> Page:
    """Table 2 or 3 as stage 4 prints it."""
    found = results_table(results.experiment, results.collected)
    before = searched_before(results.collected, results.home / OUT)
    caption = (*found.caption, *before, *sentences(results.collected, results.ledger))
    return Page(markdown(replace(found, caption=caption)))


def beside_paper(results: Results) -> Page:
    """Our numbers beside the paper's."""
    return Page(markdown(beside.table(results.experiment, results.collected, results.reference)))


def claims(results: Results) -> Page:
    """The paper's claims and what the runs say of them."""
    return Page(markdown(paper_claims.table(results.experiment, results.collected)))


def bars(results: Results) -> Drawn:
    """Every small set's score, run by run."""
    stem = _made(results.figure("scores"))
    return Drawn(*bars_figure.draw(results.collected, f"{results.name}: scores", stem))


def budget(results: Results) -> Drawn:
    """Score against samples per class and steps."""
    return Drawn(*budget_figure.draw(results.collected, results.name, results.figure("budget")))


def losses(results: Results) -> Drawn:
    """Outer loss over outer steps, of the sets whose logs are in the store or among the committed runs."""
    return Drawn(*loss_figure.draw(results.collected, results.name, results.figure("losses")))


def attention(results: Results, row: str = ATTENTION) -> Drawn | Page:
    """The attention labels of a row's first set, for each task."""
    from pipeline.report.figures import sets as set_figures

    return _of_sets(results, row, "attention", set_figures.attention)


def tokens(results: Results, row: str = ATTENTION) -> Drawn | Page:
    """The nearest tokens of a row's first set, for each task."""
    from pipeline.report.figures import sets as set_figures

    return _of_sets(results, row, "tokens", set_figures.tokens)


def compute(results: Results) -> Drawn:
    """Accuracy against compute, with coresets and full data."""
    stem = _made(results.figure("pareto"))
    return Drawn(*pareto.draw(results.collected, results.ledger, results.name, stem))


def _of_sets(results: Results, row: str, kind: str, draw: SetFigure) -> Drawn | Page:
    from pipeline.progress import quiet_libraries
    from pipeline.report.shown_sets import shown_sets

    quiet_libraries()
    with contextlib.chdir(results.home):
        sets = shown_sets(results.collected, results.store, results.home / "analysis" / "released", row)
        written = draw(sets, results.name, results.figure(kind))
    if written is not None:
        return Drawn(*written)
    return Page(
        f"Not drawn: no file of a set of {row} is in {results.store.root.name} or analysis/released, "
        f"or what is to be shown (attention labels, the encoder's tokens) is not there."
    )


def _collect(experiment: Experiment, home: Path, store: Store) -> Collected:
    return collect(experiment, store, Archive(home / "analysis" / "results" / experiment.name, store))


def _home(start: Path) -> Path:
    """The nearest folder upwards that has ``configs``.

    Raises:
        InputError: there is none.

    """
    for folder in (start, *start.parents):
        if (folder / "configs").is_dir():
            return folder
    raise InputError(f"{start}: neither it nor a folder above it has configs/; open the notebook inside the project")


def _file(experiment: str) -> Path:
    path = Path(experiment)
    return path if path.suffix in (".yaml", ".yml") else Path("configs") / f"{experiment}.yaml"


def _made(stem: Path) -> Path:
    stem.parent.mkdir(parents=True, exist_ok=True)
    return stem
