"""Stage 2, distill: a prepared task -> ``distilled.h5`` (and ``log.csv``) by the method that the config names.

Methods that make a language model, which other cells write sets with, leave ``generator/`` instead. Where the config
has a ``parent``, what that cell of stage 2 made is an input, too.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.config import LM, Composed, Distill
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet, save
from pipeline.methods import make
from pipeline.parallel import Ranks
from pipeline.store import Store
from pipeline.store.atomic import write_json
from pipeline.store.provenance import provenance
from pipeline.tracking import tracked


@tracked
def run(config: Distill, out: Path, ranks: Ranks | None = None) -> None:
    """Writes ``distilled.h5`` or ``generator/`` under ``out``; a run that was killed goes on from ``progress.pt``.

    Args:
        config: the cell.
        out: its folder.
        ranks: the processes that distil it together; the first one writes.

    Raises:
        InputError: the method cannot be used with this task or encoder.
        StageError: it had to stop; the last good state is saved.

    """
    store = Store.of(out)
    prepared = Prepared(store.cell(config.source).folder)
    starts = [store.cell(one).folder for one in config.made_of]
    others = [Prepared(store.cell(one).folder) for one in config.others]
    made = make(config, prepared, out, ranks, starts, others)
    if ranks is not None and not ranks.first:
        return
    about = {
        "config": config.model_dump(mode="json"),
        **prepared.origin,
        **({"others": [one.encoder for one in others]} if others else {}),
        "content": store.identity(config.source)["config"],
        **({} if config.parent is None else {"parent": store.identity(config.parent)["config"]}),
        **(
            {"parts": [store.identity(one)["config"] for one in config.made_of]}
            if isinstance(config.method, Composed)
            else {}
        ),
        "seed": config.seed,
        "selection": {"split": _selected_on(config)},
        **(made.about if isinstance(made, DistilledSet) else {}),
        "provenance": provenance(),
    }
    if isinstance(made, DistilledSet):
        mean = None if made.vectors is None else prepared.vector_mean()
        save(replace(made, about=about, vector_mean=mean), out / "distilled.h5")
    else:
        made.save(out / "generator")
        write_json(out / "generator" / "about.json", about)
        (out / "progress.pt").unlink(missing_ok=True)  # three times as large as the model


def _selected_on(config: Distill) -> str:
    """The split that chose the state of the language model behind it; methods that choose one say so themselves."""
    first = config.chain[-1].method
    return "dev" if isinstance(first, LM) and first.validation.keep == "best" else "none"


if __name__ == "__main__":
    from pipeline.launch import stage_command

    stage_command("distill")
