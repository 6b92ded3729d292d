"""What a config reads: the edges of the graph of cells. Nothing else may follow them by hand."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config.data import Prepare
from pipeline.config.methods import Distill
from pipeline.config.protocols import Evaluate

Stage = Prepare | Distill | Evaluate


def inputs(config: Stage) -> tuple[Prepare | Distill, ...]:
    """The configs whose artifacts a cell reads, what stage 1 made before what stage 2 made.

    Of a set its prepared data, and its parent; of an evaluation the set, the data that it was made from (its tokenizer,
    and without other data the rows), and the other data.
    """
    if isinstance(config, Prepare):
        return ()
    if isinstance(config, Distill):
        return (config.source,) if config.parent is None else (config.source, config.parent)
    data = () if config.data is None else (config.data,)
    return (config.source.source, *data, config.source)


def upstream(config: Stage) -> tuple[Prepare | Distill, ...]:
    """All that a cell depends on, each once, inputs before what reads them."""
    return tuple({found.model_dump_json(): found for found in _all_inputs(config)}.values())


def _all_inputs(config: Stage) -> Iterator[Prepare | Distill]:
    for one in inputs(config):
        yield from _all_inputs(one)
        yield one
