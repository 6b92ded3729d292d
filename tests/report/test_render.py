import csv

import pandas as pd

from pipeline.report.render import latex, markdown
from pipeline.report.tables import Table

TABLE = Table(
    name="table2",
    title="demo: methods",
    frame=pd.DataFrame(
        {"method": ["HL", "SL_2"], "a|b: accuracy %, 7 test rows": ["50.0 ± 1.0", "60.0"], "n": ["1 × 2", "1 × 1"]}
    ),
    best=frozenset({(1, 1)}),
    caption=("100 % of it.",),
    differences=("SL − HL = +10.0 points.",),
    unfinished=("x_y: stage distill is failed: no & memory",),
    cells_unfinished=1,
)


def test_markdown():
    assert markdown(TABLE).splitlines() == [
        "### demo: methods",
        "",
        "| method | a\\|b: accuracy %, 7 test rows | n |",
        "| --- | ---: | ---: |",
        "| HL | 50.0 ± 1.0 | 1 × 2 |",
        "| SL_2 | **60.0** | 1 × 1 |",
        "",
        "* 100 % of it.",
        "",
        "Differences:",
        "",
        "* SL − HL = +10.0 points.",
        "",
        "Without results (1):",
        "",
        "* x_y: stage distill is failed: no & memory",
    ]


def test_latex_escapes_everything_and_marks_the_best():
    text = latex(TABLE)
    lines = text.splitlines()
    assert r"SL\_2 & \textbf{60.0} & 1 $\times$ 1 \\" in lines
    assert r"HL & 50.0 $\pm$ 1.0 & 1 $\times$ 2 \\" in lines
    assert r"method & \shortstack[r]{a$|$b: \\ accuracy \%, \\ 7 test rows} & n \\" in lines
    assert r"\par\raggedright x\_y: stage distill is failed: no \& memory" in lines
    assert text.isascii()
    assert text.count("{") == text.count("}")
    assert [line for line in lines if line.startswith(r"\begin")][::-1] == [
        line.replace("end", "begin") + tail
        for line, tail in zip(
            [line for line in lines if line.startswith(r"\end")],
            ("{lrr}", r"{max width=\textwidth}", "[t]"),
            strict=True,
        )
    ]


def test_csv_is_plain():
    rows = list(csv.reader(TABLE.frame.to_csv(index=False).splitlines()))
    assert rows[2] == ["SL_2", "60.0", "1 × 1"]
