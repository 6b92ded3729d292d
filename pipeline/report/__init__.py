"""Tables and figures from finished cells.

``layout`` cells -> rows and columns; ``collect`` store -> runs, hyper-parameters chosen on dev; ``intervals`` means and
differences with 95 % intervals; ``paper`` the published numbers; ``tables`` and ``notes`` what is shown; ``render`` as
CSV, Markdown, LaTeX; ``figure`` the plot.
"""

from pipeline.report.collect import Collected, Entry, Problem, collect
from pipeline.report.figure import draw
from pipeline.report.render import latex, markdown
from pipeline.report.tables import Table, long_form, results_table, task_table

__all__ = [
    "Collected",
    "Entry",
    "Problem",
    "Table",
    "collect",
    "draw",
    "latex",
    "long_form",
    "markdown",
    "results_table",
    "task_table",
]
