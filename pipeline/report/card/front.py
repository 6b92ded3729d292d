"""The parts of a card that hold its numbers: front matter and the table of scores.

Both follow from the set and from :class:`~pipeline.report.card.facts.Facts`; :func:`altered` compares a card with what
its own facts give, so that a number edited in one place is found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config import BPTT, DDAL, Composed, Coreset, Distill, Generated, RandomReal
from pipeline.config.composed import tasks_of
from pipeline.config.data import HubSource
from pipeline.distilled import DistilledSet
from pipeline.report.card.facts import Facts, read_front_matter
from pipeline.report.words.cells import ATTENTION, LABELS, real_name
from pipeline.report.words.language import generated_name
from pipeline.report.words.vectors import bptt_name


def metadata(distilled: DistilledSet, config: Distill, facts: Facts) -> dict[str, Any]:
    """What the front matter says, for the hub and, under ``textdd``, for ``verify``."""
    source, model = config.source.task.source, config.source.model
    name = source.id if isinstance(source, HubSource) else config.source.task.name
    origin: dict[str, Any] = {"datasets": [source.id]} if isinstance(source, HubSource) else {}
    if model.revision is not None:  # only models of the hub have one
        origin["base_model"] = [model.name]
    return {
        "license": facts.license,
        "language": [facts.language],
        "pretty_name": title(config),
        "task_categories": ["text-classification"],
        "size_categories": ["n<1K" if len(distilled) < 1000 else "1K<n<10K" if len(distilled) < 10000 else "n>10K"],
        "source_datasets": [f"extended|{name}"],
        "tags": ["dataset-distillation", "text-classification", config.method.name, "h5"],
        "viewer": False,
        **origin,
        "metrics": list(dict.fromkeys(score.metric for each in facts.evaluations for score in each.scores)),
        "model-index": _model_index(distilled, facts),
        "textdd": facts.model_dump(mode="json"),
    }


def _model_index(distilled: DistilledSet, facts: Facts) -> list[dict[str, Any]]:
    """The scores as the hub reads them: by split, fractions to four digits."""
    about = distilled.about
    results = [
        {
            "task": {"type": "text-classification"},
            "dataset": {"type": about["task"], "name": about["task"], "split": split},
            "metrics": [
                {"type": s.metric, "name": f"{s.metric}, mean of {s.n} ({evaluation.how})", "value": round(s.mean, 4)}
                for evaluation in facts.evaluations
                for s in evaluation.scores
                if s.split == split
            ],
        }
        for split in ("dev", "test")
    ]
    return [{"name": Path(facts.file).stem, "results": [each for each in results if each["metrics"]]}]


def title(config: Distill) -> str:
    """What the set is called."""
    return f"{config.source.task.name}, distilled: {_method(config)}"


def _method(config: Distill) -> str:
    method = config.method
    if isinstance(method, DDAL):
        return LABELS[method.labels] + ATTENTION[method.attention_labels]
    if isinstance(method, BPTT):
        return bptt_name(method)
    if isinstance(method, Composed):
        return f"composed of sets of {' and '.join(tasks_of(method.parts))}"
    if isinstance(method, Generated):
        return generated_name(config)
    return real_name(method) if isinstance(method, RandomReal | Coreset) else method.name


def scores_table(distilled: DistilledSet, facts: Facts) -> list[str]:
    """The lines of the table of scores and what they mean."""
    scored = [(evaluation, score) for evaluation in facts.evaluations for score in evaluation.scores]
    if not scored:
        return ["No evaluation of this set was at hand when the card was written."]
    sizes = distilled.about["data"]["sizes"]
    rows = [
        f"| {score.split} ({sizes[score.split]:,} rows) | {score.metric} | {score.shown} | {score.n} "
        f"| {evaluation.how} |"
        for evaluation, score in scored
    ]
    return [
        "| split | metric | mean ± std | n | students |",
        "| --- | --- | ---: | ---: | --- |",
        *rows,
        "",
        "In percent, but mcc (−1 … 1). ± is the sample standard deviation over n students of this one set, each with "
        "its own classifier; what another distillation would give, and other test rows, is not in it.",
    ]


def altered(text: str, distilled: DistilledSet, facts: Facts) -> list[str]:
    """Which parts of a card's numbers are not what its facts give: ``model-index``, lines of the scores' table."""
    lines = set(text.splitlines())
    found = (
        ["model-index"] if (read_front_matter(text) or {}).get("model-index") != _model_index(distilled, facts) else []
    )
    return found + [f"the line {line!r}" for line in scores_table(distilled, facts) if line and line not in lines]
