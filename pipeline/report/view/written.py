"""A view of a set as one HTML page that needs nothing else, and as Markdown."""

from __future__ import annotations

from importlib import resources

from jinja2 import Environment

from pipeline.report.card.facts import Score
from pipeline.report.view.gathered import Shown, View

_STRONG = 0.9  # cosine from which on a position counts as its token; below a fifth of it all are equally faint


def html(view: View) -> str:
    """The page. Everything that is not ours, such as texts, is escaped; no scripts, no fonts, nothing is loaded."""
    page = resources.files("pipeline.report.view").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals = {"score": _score, "faintness": faintness}
    return environment.from_string(page).render(view=view)


def markdown(view: View) -> str:
    """The same as Markdown, for a pull request or a notebook."""
    lines = [f"# {_plain(view.title)}", "", *(f"* {name}: {_plain(value)}" for name, value in view.facts), ""]
    if view.scores:
        lines += ["| split | metric | mean ± std | n | students |", "| --- | --- | ---: | ---: | --- |"]
        lines += [
            f"| {one.split} | {one.metric} | {_score(one)} | {one.n} | {_plain(each.how)} |"
            for each in view.scores
            for one in each.scores
        ] + [""]
    lines += [f"> {_plain(note)}" for note in view.notes]
    for sample in view.samples:
        lines += ["", f"## {sample.number}  {_plain(sample.name)}", "", *_sample(sample)]
    return "\n".join(lines) + "\n"


def _sample(sample: Shown) -> list[str]:
    label = ", ".join(f"{_plain(weight.name)} {weight.value:.2f}" for weight in sample.label)
    about = [sample.use, sample.origin, _shared(sample)]
    lines = [f"label: {label}" + "".join(f"; {one}" for one in about if one), ""]
    if sample.pieces:
        mean = sum(piece.similarity for piece in sample.pieces) / len(sample.pieces)
        lines += [f"nearest tokens (mean cosine {mean:.2f}): {_plain(' '.join(piece.text for piece in sample.pieces))}"]
    lines += [_plain(text) for text in sample.texts]
    if sample.near:
        lines += ["", "| distance | class | nearest training rows |", "| ---: | --- | --- |"]
        lines += [f"| {one.distance:.3f} | {_plain(one.name)} | {_plain(one.text)} |" for one in sample.near]
    return lines


def _shared(sample: Shown) -> str:
    return "" if sample.longest is None else f"{sample.longest} tokens in a row as in one training row"


def faintness(similarity: float) -> float:
    """The opacity of a token, 0.6 … 1, by its cosine; the faintest can still be read."""
    low = _STRONG / 5
    return round(0.6 + 0.4 * min(1.0, max(0.0, (similarity - low) / (_STRONG - low))), 2)


def _score(score: Score) -> str:
    return f"{score.shown} {score.unit}".rstrip()


def _plain(text: str) -> str:
    """One line whose characters Markdown and HTML take as they are."""
    joined = " ".join(text.split())
    for mark in "\\`*_[]<>|#":
        joined = joined.replace(mark, f"\\{mark}")
    return joined
