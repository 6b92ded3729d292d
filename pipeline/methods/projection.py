"""A learned set of input embeddings as text: the nearest token of every position, after the distillation.

What "dataset distillation as text" is often taken to mean, and what it loses: BERT on SST-2 at 5 samples per class
falls from 89.6 to 50.2 (DiLM, table 1). :mod:`~pipeline.methods.text.method` learns text instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pipeline.config import DDAL, Distill, Project
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import shortened
from pipeline.distilled import DistilledSet, Recipe, load
from pipeline.distilled.text import as_one, token_tensors
from pipeline.methods.learned import real_tokens, sample_classes
from pipeline.methods.text.set import numbered_from, segments
from pipeline.methods.text.start import put_together
from pipeline.store import Store
from pipeline.students.device import pick_device
from pipeline.students.encoder import Student
from pipeline.students.vocabulary import Nearest, frame, nearest_tokens, read_back, special_ids, unwritable_ids

# what a set's file says of a task of pairs
WHERE_IT_STOOD = "the separator stands where it stood in the real pairs that the set began as"
ONE_TEXT = "one text, without separator: the set began as no real pairs, so that nothing says where the first text ends"


def project(config: Distill, prepared: Prepared, parent: Path) -> DistilledSet:
    """The parent's set as token ids, with its labels.

    ``about["projection"]`` has the distances (their mean, and that of every sample), and what the ids are worth as
    text: how many of them come back when it is written and read again.

    Args:
        config: stage 2's config with a ``project`` method.
        prepared: stage 1's output.
        parent: the folder of the cell that made the set.

    Raises:
        InputError: the parent's set is of another encoder.

    """
    method = config.method
    assert isinstance(method, Project)
    found = load(parent / "distilled.h5")
    facts, device = prepared.manifest, pick_device(config.runtime)
    student = Student.load(prepared.model_folder, facts["fresh_parameters"], device)
    found.check_model(student.embedding_matrix)
    assert found.inputs_embeds is not None
    nearest = projected(found.inputs_embeds, student.embedding_matrix, prepared.tokenizer, method)
    pairs = len(config.source.task.text) == 2
    ends = first_ends(config, parent) if pairs else None
    ids = framed(nearest.ids, prepared.tokenizer, method, facts["max_length"], ends)
    separator = None if ends is None else numbered_from(prepared)
    types = None if separator is None else [segments(torch.tensor([row]), separator)[0].tolist() for row in ids]
    said = {"pairs": ONE_TEXT if ends is None else WHERE_IT_STOOD} if pairs else {}
    written = {}
    if method.special == "kept" and not pairs:  # some may look like the end of a first text
        written = {"texts": [[as_one(row, prepared.tokenizer)] for row in ids]}
    return DistilledSet(
        labels=found.labels,
        label_ids=found.label_ids,
        recipe=Recipe("finetune"),
        **token_tensors({"input_ids": ids, "token_type_ids": types}),
        about={
            "selection": found.about["selection"],
            "projection": facts_of(nearest.distances, ids, prepared.tokenizer, method) | said,
        }
        | written,
    )


def projected(embeddings: Tensor, matrix: Tensor, tokenizer: PreTrainedTokenizerBase, method: Project) -> Nearest:
    """The nearest token of every position [N, S] among those that the method looks at."""
    special = set(special_ids(tokenizer))
    without = set(range(len(tokenizer), len(matrix)))
    if method.words != "any":
        without |= set(unwritable_ids(tokenizer, len(matrix), whole_words=method.words == "whole"))
    without = without | special if method.special == "barred" else without - special
    return nearest_tokens(embeddings, matrix, method.measure, without=without)


def first_ends(config: Distill, parent: Path) -> list[int] | None:
    """Of every sample of pairs the position up to which it began as the first text, where it began as real pairs.

    Learned embeddings keep their positions, whatever becomes of the separator's; where the first text had no end within
    the sequence, all of it is the first. ``None`` where the set began as noise or as a file, which no text is known of.

    Args:
        config: of the projection.
        parent: the folder of the cell that made the embeddings.

    """
    began = config.parent
    while began is not None and began.parent is not None:  # a warm start keeps the positions of what it started from
        began = began.parent
    assert began is not None
    method = began.method
    assert isinstance(method, DDAL)
    if method.initialise != "real" or method.warm_start is not None:
        return None
    prepared = Prepared(Store.of(parent).cell(began.source).folder)
    tokens = real_tokens(sample_classes(method, prepared.manifest), method.sequence_length, prepared, began.seed)
    before, between, _ = frame(prepared.tokenizer, 2)
    return [_end(row, len(before), between[0]) for row in tokens.tolist()]


def _end(row: list[int], start: int, separator: int) -> int:
    """Where the separator stands, from ``start`` on; the row's length where it has none."""
    return row.index(separator, start) if separator in row[start:] else len(row)


def framed(
    ids: Tensor,
    tokenizer: PreTrainedTokenizerBase,
    method: Project,
    max_length: int,
    ends: Sequence[int] | None = None,
) -> list[list[int]]:
    """The token ids of every sample as students read them, at most ``max_length``.

    With ``ends`` samples are pairs: what the tokenizer puts between two texts stands from there on.
    """
    marks, special = frame(tokenizer, 1 if ends is None else 2), set(special_ids(tokenizer))
    room, found = max_length - sum(map(len, marks)), []
    for number, row in enumerate(ids.tolist()):
        texts = [row] if ends is None else [row[: ends[number]], row[ends[number] + len(marks[1]) :]]
        if method.special == "kept":
            found.append(put_together(texts, [[], *marks[1:-1], []])[:max_length])
        else:
            words = [[token for token in text if token not in special] for text in texts]
            found.append(put_together(shortened(words, room), marks))
    return found


def facts_of(
    distances: Tensor, ids: list[list[int]], tokenizer: PreTrainedTokenizerBase, method: Project
) -> dict[str, Any]:
    """What the projection cost; plain JSON values."""
    return {
        "measure": method.measure,
        "distance": distances.mean().item(),
        "distance_per_sample": distances.mean(dim=1).tolist(),
        **read_back(tokenizer, ids),
    }
