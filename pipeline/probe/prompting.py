"""Cells that ask a language model: the examples, and queries after them."""

from __future__ import annotations

from pipeline.config import Evaluate, Prompting
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet
from pipeline.distilled.text import decoded
from pipeline.evaluation.prompting import Prompter, asked
from pipeline.probe.slices import Piece
from pipeline.work import prompts as prompt_work

ROWS = 64


def prompt_pieces(config: Evaluate, prepared: Prepared, distilled: DistilledSet) -> list[Piece]:
    """The examples, and some queries after them: those at even ranks by length, the longest one among them."""
    recipe = config.recipe
    assert isinstance(recipe, Prompting)
    prompter, order = Prompter(config, recipe, prepared, distilled), list(range(len(distilled)))
    split = asked(prepared.split(config.splits[-1]), recipe, 0)
    ranks = split.lengths.argsort(kind="stable")[::-1][:: max(1, len(split) // ROWS)][:ROWS]
    some = split.select(ranks)
    queries, folder = decoded(some), prepared.folder
    flops = prompt_work.of_queries(config, folder, some.lengths) + prompt_work.of_examples(config, folder)
    return [("scoring", lambda: prompter.answers(queries, order, lambda rows: None), flops)]
