"""DiLM: a language model that writes the set (Maekawa, Kosugi, Funakoshi and Okumura, Findings of NAACL 2024).

``generator`` a language model with a token per class, ``sequences`` its token ids, ``sampling`` how it writes,
``optimisation`` AdamW on it; ``pretrain`` the method ``lm``; ``tuning`` the method ``dilm`` with ``matching`` its loss,
``teachers`` the real rows, ``pool`` the texts, ``trajectory`` the students; ``generate`` the method ``generated``.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.config import LM, Distill, Prepare
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet
from pipeline.methods.dilm import generate, pretrain, tuning
from pipeline.methods.dilm.generator import Generator
from pipeline.store import Store
from pipeline.store.atomic import write_text

__all__ = ["Generator", "train", "write_set"]


def train(config: Distill, prepared: Prepared, out: Path) -> Generator:
    """The generator of an ``lm`` or ``dilm`` cell; see :mod:`~.pretrain` and :mod:`~.tuning`."""
    if isinstance(config.method, LM):
        return pretrain.pretrain(config, prepared, out)
    store = Store.of(out)
    assert config.parent is not None
    written = Prepared(store.cell(language_source(config)).folder)
    return tuning.tune(config, prepared, written, store.cell(config.parent).folder, out)


def write_set(config: Distill, prepared: Prepared, out: Path) -> DistilledSet:
    """The set of a ``generated`` cell, also as ``texts.jsonl`` with the task's columns; see :mod:`~.generate`."""
    store = Store.of(out)
    assert config.parent is not None
    written = Prepared(store.cell(language_source(config)).folder)
    made = generate.generate(config, prepared, written, store.cell(config.parent).folder)
    columns, classes = config.source.task.text, prepared.classes
    lines = [
        json.dumps(dict(zip(columns, text, strict=True)) | {"label": classes[label]}, ensure_ascii=False)
        for text, label in zip(made.about["texts"], made.label_ids.tolist(), strict=True)
    ]
    write_text(out / "texts.jsonl", "\n".join(lines) + "\n")
    return made


def language_source(config: Distill) -> Prepare:
    """The data that the language model at the beginning of a chain was prepared with."""
    while not isinstance(config.method, LM):
        assert config.parent is not None  # the config says so
        config = config.parent
    return config.source
