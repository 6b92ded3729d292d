"""Stage 3, evaluate: a distilled set -> ``results.csv`` and ``predictions.h5`` over fresh initialisations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.config import Evaluate, LearningFromVectors, Prompted, Robust, RobustOnVectors
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet, load, transferred
from pipeline.distilled.text import written_out
from pipeline.evaluation.on_vectors import evaluate_on_vectors
from pipeline.evaluation.prompting import evaluate_by_prompting
from pipeline.evaluation.protocols import evaluate
from pipeline.evaluation.robustness import vary
from pipeline.evaluation.variants_on_vectors import vary_on_vectors
from pipeline.store import Store
from pipeline.tracking import tracked


@tracked
def run(config: Evaluate, out: Path) -> None:
    """Writes ``results.csv`` and ``predictions.h5`` under ``out``; initialisations that are in both are not run again.

    The protocols ``robust`` and ``vectors_robust`` also write ``robustness.csv``. With ``data``, students of another
    encoder learn from the set's text, or a language model is shown it (``prompt.txt``), or students of joined tasks are
    asked for one of them.

    Raises:
        InputError: the set cannot be evaluated by this protocol or with this encoder.

    """
    store = Store.of(out)
    distilled = load(store.cell(config.source).folder / "distilled.h5").prefix(config.prefix)
    prepared = own = Prepared(store.cell(config.source.source).folder)
    if config.asks_part:
        assert config.data is not None
        evaluate(config, own, distilled, out, Prepared(store.cell(config.data).folder))
        return
    if config.data is not None:
        prepared = Prepared(store.cell(config.data).folder)
        shown = config.data.model.head == "language"
        distilled = (written_out if shown else transferred)(distilled, own, prepared)
    _protocol(config)(config, prepared, distilled, out)


def _protocol(config: Evaluate) -> Callable[[Evaluate, Prepared, DistilledSet, Path], None]:
    if isinstance(config.protocol, RobustOnVectors):
        return vary_on_vectors
    if isinstance(config.protocol, LearningFromVectors):
        return evaluate_on_vectors
    if isinstance(config.protocol, Prompted):
        return evaluate_by_prompting
    return vary if isinstance(config.protocol, Robust) else evaluate


if __name__ == "__main__":
    from pipeline.launch import stage_command

    stage_command("evaluate")
