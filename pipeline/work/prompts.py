"""How much computing cells that ask a language model are: see :mod:`pipeline.work.cells`.

A token takes 2 FLOPs per weight, and 4 per layer and unit of width for every token that it attends to.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import AutoConfig

from pipeline.config import Evaluate
from pipeline.data.prepared import Prepared
from pipeline.students.flops import Lengths
from pipeline.work.language import products_per_token

_BESIDE = 8  # tokens of template, separator and name around a text


def of_scoring(config: Evaluate, folder: Path) -> dict[str, float]:
    """One order: the examples once, then every query of all splits after them.

    Args:
        config: the cell.
        folder: the task as prepared for the language model.

    """
    total = 0.0
    for name in config.splits:
        lengths = Prepared(folder).split(name).lengths
        share = 1.0 if config.examples is None else min(1.0, config.examples / len(lengths))
        total += share * of_queries(config, folder, lengths)
    return {"scoring": total + of_examples(config, folder)}


def of_examples(config: Evaluate, folder: Path) -> float:
    """The examples alone, once."""
    tokens = _shown(config, folder)
    return _forward(folder, [tokens], 0.0)


def of_queries(config: Evaluate, folder: Path, lengths: Lengths) -> float:
    """Queries with texts of these lengths after the examples, whose keys and values are there."""
    return _forward(folder, np.asarray(lengths, dtype=float) + _BESIDE, _shown(config, folder))


def _shown(config: Evaluate, folder: Path) -> float:
    """Tokens of all examples; they are as long as training rows on average."""
    prepared = Prepared(folder)
    samples = (config.shots or 0) * len(prepared.classes)
    return samples * (float(prepared.split("train").lengths.mean()) + _BESIDE)


def _forward(folder: Path, tokens: Sequence[float] | npt.NDArray[np.float64], shown: float) -> float:
    prepared, count = Prepared(folder), np.asarray(tokens)
    config: Any = AutoConfig.from_pretrained(prepared.model_folder, local_files_only=True)
    attended = 4 * config.num_hidden_layers * config.hidden_size * (shown + count / 2)
    return float((count * (products_per_token(folder) + attended)).sum())
