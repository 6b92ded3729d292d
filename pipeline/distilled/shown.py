"""A set as a person reads it: class, label and text of every sample; and as rows for other programs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd
import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from pipeline.distilled.selection import IN_WORDS, selected_on
from pipeline.distilled.set import DistilledSet
from pipeline.distilled.text import texts
from pipeline.errors import InputError
from pipeline.store.atomic import replacing
from pipeline.students.vocabulary import nearest_tokens

Table = Literal["csv", "jsonl", "datasets"]


class Sample(NamedTuple):
    """One sample.

    Attributes:
        name: of the class that it was made for.
        label: the C numbers that the loss uses.
        texts: one, or two of a pair; of input embeddings their nearest tokens; none of sentence vectors, or where the
            encoder is not here.
        similarity: mean cosine of those embeddings and tokens; ``None`` where nothing was looked for.

    """

    name: str
    label: list[float]
    texts: tuple[str, ...]
    similarity: float | None


def samples(found: DistilledSet, encoder: Path | None) -> Iterator[Sample]:
    """Every sample, in the set's order.

    Args:
        found: any set.
        encoder: the folder of its encoder and tokenizer, or, where its vocabulary is all that is needed, of its
            tokenizer; without it there are no texts.

    Raises:
        InputError: ``encoder`` has another embedding matrix.

    """
    written, similarity = _texts(found, encoder)
    names = found.class_names
    for row, label in enumerate(found.labels.tolist()):
        yield Sample(names[int(found.label_ids[row])], label, written[row], similarity[row])


def _texts(found: DistilledSet, encoder: Path | None) -> tuple[list[tuple[str, ...]], list[float | None]]:
    nothing: list[float | None] = [None] * len(found)
    if found.vectors is not None or encoder is None:
        return [()] * len(found), nothing
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(encoder, local_files_only=True)
    if found.inputs_embeds is None:
        return texts(found, tokenizer), nothing
    matrix = AutoModel.from_pretrained(encoder, local_files_only=True).get_input_embeddings().weight.detach()
    found.check_model(matrix)
    near = nearest_tokens(found.inputs_embeds, matrix)
    # each by itself: pieces that stand side by side by chance are no words
    pieces = [" ".join(tokenizer.decode([token]).strip() for token in row) for row in near.ids.tolist()]
    return [(text,) for text in pieces], (1 - near.distances.mean(dim=1)).tolist()


def readable(found: DistilledSet, encoder: Path | None) -> Iterator[str]:
    """Lines for a terminal: what the set is, then every sample."""
    names = found.class_names
    yield repr(found)
    if found.inputs_embeds is not None and encoder is not None:
        length = found.inputs_embeds.shape[1]
        yield (
            f"A sample is {length} vectors. Below each sample stand the tokens nearest to them, which are not the set: "
            f"mean cosine 1 would be these tokens themselves."
        )
    for part in found.about.get("composed", ()):
        of = f"{part['samples']} samples by {part['method']} of {part['task']}, seed {part['seed']}"
        yield f"part of phase {part['phase']}: {of}"
    chosen, split = found.about.get("selection", {}), selected_on(found.about)
    if split != "none":
        score = f": outer step {chosen['step']}, accuracy {100 * chosen['accuracy']:.1f} %" if "step" in chosen else ""
        yield f"selected on {IN_WORDS[split]}{score}"
    for number, sample in enumerate(samples(found, encoder)):
        hard = sample.label == F.one_hot(found.label_ids[number], len(names)).tolist()
        label = "" if hard else f", label [{', '.join(f'{value:.2f}' for value in sample.label)}]"
        near = "" if sample.similarity is None else f", mean cosine {sample.similarity:.2f}"
        yield f"\n{number}  class {sample.name}{label}{near}"
        yield from (f"    {text}" for text in sample.texts)
        if found.vectors is not None:
            yield f"    a vector of length {found.vectors[number].norm().item():.3f}, which no text is nearest to"


def table(found: DistilledSet, encoder: Path) -> pd.DataFrame:
    """``text`` (or ``text1``, ``text2``), ``label``, ``class``; of labels that are not one-hot also ``weight_<class>``.

    Raises:
        InputError: the set is no text.

    """
    tokenizer = AutoTokenizer.from_pretrained(encoder, local_files_only=True)
    columns = list(zip(*texts(found, tokenizer), strict=True))
    names = found.class_names
    heads = ["text"] if len(columns) == 1 else [f"text{number + 1}" for number in range(len(columns))]
    ids = found.label_ids.tolist()
    made = pd.DataFrame(dict(zip(heads, columns, strict=True)) | {"label": ids, "class": [names[i] for i in ids]})
    if not torch.equal(found.labels, F.one_hot(found.label_ids, len(names)).to(found.labels)):
        for name, weights in zip(names, found.labels.T.tolist(), strict=True):
            made[f"weight_{name}"] = weights
    return made


def export(found: DistilledSet, encoder: Path, to: Table, path: Path) -> None:
    """Writes the :func:`table` as a CSV or JSON-lines file, or as a folder for ``datasets.load_from_disk``.

    Raises:
        InputError: the set is no text, or the folder is there already.

    """
    rows = table(found, encoder)
    if to == "datasets":
        if path.exists():
            raise InputError(f"{path}: is there already; remove it, or name another folder with --out")
        Dataset.from_pandas(rows, preserve_index=False).save_to_disk(path)
        return
    with replacing(path) as aside:
        if to == "csv":
            rows.to_csv(aside, index=False)
        else:
            rows.to_json(aside, orient="records", lines=True, force_ascii=False)


def check_table(found: DistilledSet) -> None:
    """Refuses what is no text before an encoder is looked for.

    Raises:
        InputError: the set is no text.

    """
    if found.token_ids is None:
        raise InputError(
            "this set is no text; python -m pipeline show prints what is nearest to it, and distill.method: {name: "
            "project} in a config makes a set of text of input embeddings"
        )
