"""Stage 3, evaluate: a distilled set -> ``results.csv`` and ``predictions.h5`` over fresh initialisations."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import Evaluate, Robust
from pipeline.data.prepared import Prepared
from pipeline.distilled import load
from pipeline.evaluation.protocols import evaluate
from pipeline.evaluation.robustness import vary
from pipeline.store import Store
from pipeline.tracking import tracked


@tracked
def run(config: Evaluate, out: Path) -> None:
    """Writes ``results.csv`` and ``predictions.h5`` under ``out``; initialisations that are in both are not run again.

    The protocol ``robust`` also writes ``robustness.csv``.

    Raises:
        InputError: the set cannot be evaluated by this protocol or with this encoder.

    """
    store = Store.of(out)
    distilled = load(store.cell(config.source).folder / "distilled.h5")
    protocol = vary if isinstance(config.protocol, Robust) else evaluate
    protocol(config, Prepared(store.cell(config.source.source).folder), distilled, out)


if __name__ == "__main__":
    from pipeline.launch import stage_command

    stage_command("evaluate")
