"""Distilled sets to look at: one per task, from the store or the released files, with their nearest tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from pipeline import distilled
from pipeline.config import Distill, Prepare
from pipeline.distilled import DistilledSet
from pipeline.errors import InputError
from pipeline.report.archive import name_of
from pipeline.report.card.gather import config_of
from pipeline.report.collect import Collected
from pipeline.report.layout import Column
from pipeline.report.row import Row
from pipeline.store import Store
from pipeline.store.places import locate
from pipeline.students.vocabulary import nearest_tokens


@dataclass(frozen=True)
class Words:
    """What stands nearest to each position: [N, S] token ids, pieces of text, and their cosine (1: it is a token)."""

    ids: Tensor
    pieces: list[list[str]]
    similarity: Tensor


@dataclass(frozen=True)
class Shown:
    """A set with what it is called; ``words`` is None where its encoder is not here, or it has none."""

    column: Column
    name: str
    found: DistilledSet
    words: Words | None

    def title(self, sample: int) -> str:
        """Which sample it is, for which class, and its label."""
        classes = self.found.about.get("classes") or []
        own = int(self.found.label_ids[sample])
        name = f" ({classes[own]})" if own < len(classes) and classes[own] != str(own) else ""
        label = ", ".join(f"{value:.2f}" for value in self.found.labels[sample].tolist())
        return f"{self.column.title}, {self.name}: sample {sample}, class {own}{name}, label [{label}]"


def shown_sets(collected: Collected, store: Store, released: Path, label: str) -> list[Shown]:
    """For each task the first seed of a row's set, as far as a file of it is here.

    Args:
        collected: of the experiment.
        store: where sets are looked for first.
        released: a folder of set files, where they are looked for next.
        label: of the row, or its method: then the smallest budget.

    Raises:
        InputError: no row has this label or method.

    """
    labels = collected.layout.labels
    rows = [row for row in labels if labels[row] == label] or [row for row in labels if row.method == label]
    if not rows:
        raise InputError(f"no row is called '{label}'; allowed: {'; '.join(labels.values())}")
    return [shown for column in collected.layout.columns for shown in _of(collected, rows[0], column, store, released)]


def words(found: DistilledSet, folder: Path) -> Words:
    """The nearest tokens of a set in its encoder's vocabulary.

    Raises:
        InputError: ``folder`` holds another encoder.

    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    matrix = AutoModel.from_pretrained(folder, local_files_only=True).get_input_embeddings().weight.detach()
    found.check_model(matrix)
    if found.inputs_embeds is not None:
        near = nearest_tokens(found.inputs_embeds, matrix)
        ids, similarity = near.ids, 1 - near.distances
    else:
        assert found.token_ids is not None
        ids, similarity = found.token_ids, torch.ones(found.token_ids.shape)
    pieces = [["" if token < 0 else tokenizer.decode([token]).strip() for token in row] for row in ids.tolist()]
    return Words(ids, pieces, similarity)


def _of(collected: Collected, row: Row, column: Column, store: Store, released: Path) -> Iterator[Shown]:
    entry = collected.entries.get((row, column))
    if entry is None or entry.chosen is None:
        return
    config = min((cell.config.source for cell in entry.chosen.cells), key=lambda config: config.seed)
    file = _file(config, store, released)
    if file is not None:
        found, encoder = distilled.load(file), _encoder(config.source, store)
        shown = None if encoder is None or found.vectors is not None else words(found, encoder)
        yield Shown(column, collected.layout.labels[row], found, shown)


def _file(config: Distill, store: Store, released: Path) -> Path | None:
    try:
        own = [store.cell(config).folder / "distilled.h5"]
    except InputError:  # data or encoder are not there
        own = []
    return next((file for file in own if file.is_file()), None) or _released(config, sorted(released.glob("*.h5")))


def _released(config: Distill, files: Sequence[Path]) -> Path | None:
    return next((file for file in files if name_of(config_of(distilled.load(file))) == name_of(config)), None)


def _encoder(prepare: Prepare, store: Store) -> Path | None:
    """The folder of the encoder: the snapshot of stage 1, or where it was taken from."""
    try:
        snapshot = store.cell(prepare).folder / "model"
        return snapshot if snapshot.is_dir() else locate(prepare.model.name)
    except InputError:
        return None
