"""What a config reads: the edges of the graph of cells. Nothing else may follow them by hand."""

from __future__ import annotations

from pipeline.config.data import Prepare
from pipeline.config.dilm import LM
from pipeline.config.methods import Distill
from pipeline.config.protocols import Evaluate

Stage = Prepare | Distill | Evaluate
STAGE_NAMES: dict[type[Stage], str] = {Prepare: "prepare", Distill: "distill", Evaluate: "evaluate"}
STAGES: dict[str, type[Stage]] = {name: kind for kind, name in STAGE_NAMES.items()}


def inputs(config: Stage) -> tuple[Prepare | Distill, ...]:
    """The configs whose artifacts a cell reads, what stage 1 made before what stage 2 made.

    Of a set its prepared data, those of other encoders, and its parent or parts; of an evaluation the set, the data
    that it was made from (its tokenizer, and without other data the rows), and the other data.
    """
    if isinstance(config, Prepare):
        return ()
    if isinstance(config, Distill):
        return (config.source, *config.others, *config.made_of)
    data = () if config.data is None else (config.data,)
    return (config.source.source, *data, config.source)


def upstream(config: Stage) -> tuple[Prepare | Distill, ...]:
    """All that a cell depends on, each once, inputs before what reads them."""
    found: list[Prepare | Distill] = []
    for one in inputs(config):
        found += [each for each in (*upstream(one), one) if each not in found]
    return tuple(found)


def language_model(config: Distill) -> tuple[LM, Prepare]:
    """The language model at the beginning of a chain: how it was trained first, and its data."""
    first = config.chain[-1]
    assert isinstance(first.method, LM)  # the methods in between have checked their parents
    return first.method, first.source


def language_source(config: Distill) -> Prepare:
    """The data that the language model at the beginning of a chain was prepared with."""
    return language_model(config)[1]
