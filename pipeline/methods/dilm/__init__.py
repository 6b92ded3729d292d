"""DiLM: a language model that writes the set (Maekawa, Kosugi, Funakoshi and Okumura, Findings of NAACL 2024).

``generator`` a language model with a token per class, ``sequences`` its token ids, ``sampling`` how it writes,
``optimisation`` AdamW on it; ``pretrain`` the method ``lm``; ``tuning`` the method ``dilm`` with ``matching`` its loss,
``teachers`` the real rows, ``pool`` the texts, ``trajectory`` the students; ``generate`` the method ``generated``.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.config import LM, DiLM, Distill, language_source
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet
from pipeline.methods.dilm import generate, pretrain, tuning
from pipeline.methods.dilm.generator import Generator
from pipeline.store import Store
from pipeline.store.atomic import write_text

__all__ = ["Generator", "make"]


def make(config: Distill, prepared: Prepared, out: Path, parent: Path | None) -> DistilledSet | Generator:
    """What an ``lm``, ``dilm`` or ``generated`` cell is for; see :mod:`~.pretrain`, :mod:`~.tuning`, :mod:`~.generate`.

    The set of the last one is also left as ``texts.jsonl``, with the columns of the task.
    """
    if (out / "generator" / "about.json").is_file():  # a run was killed after its last step; nothing is left to do
        return Generator.load(out / "generator", len(prepared.classes), "cpu")
    if isinstance(config.method, LM):
        return pretrain.pretrain(config, prepared, out)
    written = Prepared(Store.of(out).cell(language_source(config)).folder)
    assert parent is not None  # the config says so
    if isinstance(config.method, DiLM):
        return tuning.tune(config, prepared, written, parent, out)
    made = generate.generate(config, prepared, written, parent)
    columns, classes = config.source.task.text, prepared.classes
    lines = [
        json.dumps(dict(zip(columns, text, strict=True)) | {"label": classes[label]}, ensure_ascii=False)
        for text, label in zip(made.about["texts"], made.label_ids.tolist(), strict=True)
    ]
    write_text(out / "texts.jsonl", "\n".join(lines) + "\n")
    return made
