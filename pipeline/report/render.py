"""Tables as files: CSV, Markdown and LaTeX (booktabs)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.report.tables import Table
from pipeline.store.atomic import write_text

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "τ": r"$\tau$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "×": r"$\times$",
    "−": r"$-$",
    "–": "--",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "“": "``",
    "”": "''",
}


def write_tables(tables: Sequence[Table], stem: Path) -> list[Path]:
    """Writes ``<stem>.tests.csv`` of one with tests, and ``<stem>.<table>.csv``, ``.md`` and ``.tex`` of each."""
    texts: dict[str, str] = {}
    for one in (table.tests for table in tables if table.tests is not None):
        texts["tests.csv"] = one.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    for table in tables:
        plain = table.frame.to_csv(index=False, lineterminator="\n")
        texts |= {f"{table.name}.csv": plain, f"{table.name}.md": markdown(table), f"{table.name}.tex": latex(table)}
    for suffix, text in texts.items():
        write_text(stem.with_name(f"{stem.name}.{suffix}"), text)
    return [stem.with_name(f"{stem.name}.{suffix}") for suffix in texts]


def markdown(table: Table) -> str:
    """Title, table, how to read it, differences, unfinished cells. The best entries are bold."""
    head = [_cell(name) for name in table.frame.columns]
    rule = ["---", *("---:" for _ in head[1:])]
    lines = [f"### {table.title}", "", _line(head), _line(rule)]
    for index, row in enumerate(table.frame.itertuples(index=False)):
        lines.append(_line([f"**{_cell(t)}**" if (index, at) in table.best else _cell(t) for at, t in enumerate(row)]))
    if table.caption:
        lines += ["", *(f"* {sentence}" for sentence in table.caption)]
    for title, sentences in (("Differences", table.differences), (_without(table), table.unfinished)):
        if sentences:
            lines += ["", f"{title}:", "", *(f"* {sentence}" for sentence in sentences)]
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    r"""A ``table*`` that needs ``\usepackage{booktabs,adjustbox}``. The best entries are bold."""
    names = list(table.frame.columns)
    body = [
        [rf"\textbf{{{_escaped(t)}}}" if (index, at) in table.best else _escaped(t) for at, t in enumerate(row)]
        for index, row in enumerate(table.frame.itertuples(index=False))
    ]
    below = [*table.differences, *([f"{_without(table)}:"] if table.unfinished else []), *table.unfinished]
    lines = [
        r"\begin{table*}[t]",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        r"\begin{adjustbox}{max width=\textwidth}",
        rf"\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}",
        r"\toprule",
        " & ".join(_heading(name) for name in names) + r" \\",
        r"\midrule",
        *(" & ".join(cells) + r" \\" for cells in body),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{adjustbox}",
        rf"\caption{{{_escaped(' '.join([table.title + '.', *table.caption]))}}}",
        rf"\label{{tab:{table.title.split(':')[0]}-{table.name}}}",
        *(rf"\par\raggedright {_escaped(sentence)}" for sentence in below),
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _without(table: Table) -> str:
    return f"Without results ({table.cells_unfinished})"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _escaped(text: object) -> str:
    return "".join(_LATEX.get(character, character) for character in str(text))


def _heading(name: str) -> str:
    """A heading broken at its separators, so that columns stay narrow."""
    parts = name.replace(": ", ":\n").replace(", ", ",\n").replace(" (", "\n(").split("\n")
    stacked = r" \\ ".join(_escaped(part) for part in parts)
    return stacked if len(parts) == 1 else rf"\shortstack[r]{{{stacked}}}"
