"""Sets of token ids as text, which is what another encoder, a language model and a person can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Split
from pipeline.distilled.set import DistilledSet
from pipeline.errors import InputError


def texts(distilled: DistilledSet, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, ...]]:
    """What every sample says: one text, or two where samples are pairs.

    A set of texts that were written (``about["texts"]``) gives them as they are; others are decoded. A tokenizer that
    puts nothing between the two texts of a pair gives them as one. Of a tokenizer that lowers case or drops spaces, so
    is the text; where a set is of real rows, their own text is better (see :func:`transferred`).

    Args:
        distilled: a set of token ids.
        tokenizer: which made them.

    Raises:
        InputError: a set of embeddings or vectors.

    """
    rows, marks = _rows(distilled), _marks(tokenizer)
    if "texts" in distilled.about:
        return [tuple(text) for text in distilled.about["texts"]]
    found = [[tokenizer.decode(part).strip() for part in _parts(row, marks)] for row in rows]
    width = max(map(len, found), default=0)
    return [(*parts, *[""] * (width - len(parts))) for parts in found]


def as_one(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """A sample as one text, wherever marks that stand between texts may be in it."""
    marks = _marks(tokenizer)
    return str(tokenizer.decode([token for token in ids if token not in marks])).strip()


def retokenised(
    distilled: DistilledSet,
    from_tokenizer: PreTrainedTokenizerBase,
    to_tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> DistilledSet:
    """The set with the same text as token ids of another tokenizer; ``about`` then names that one's model.

    Args:
        distilled: a set of token ids.
        from_tokenizer: which made them.
        to_tokenizer: of the encoder that is to learn from them.
        max_length: tokens a sample is truncated to.

    Raises:
        InputError: a set of embeddings or vectors, or a sample of which no token is left.

    """
    columns = [list(column) for column in zip(*texts(distilled, from_tokenizer), strict=True)]
    encoded = to_tokenizer(*columns, truncation=True, max_length=max_length)
    if not all(encoded["input_ids"]):
        raise InputError(
            "a sample of this set is an empty text, which this tokenizer gives no token; choose another set"
        )
    about = distilled.about | {
        "model": {
            "name": to_tokenizer.name_or_path,
            "pad_token_id": to_tokenizer.pad_token_id,
            "padding_side": to_tokenizer.padding_side,
        },
        "max_length": max_length,
    }
    return replace(distilled, **token_tensors(encoded), about=about)


def transferred(distilled: DistilledSet, own: Prepared, other: Prepared) -> DistilledSet:
    """The set as another encoder reads it.

    Of real rows the other tokens are those of the same rows, nothing is decoded: both prepared the same splits.

    Args:
        distilled: a set of token ids; ``about["chosen"]["rows"]`` are the training rows that its samples are.
        own: the data that it was made from.
        other: the same task prepared by the other encoder.

    Raises:
        InputError: a set of embeddings or vectors, or the rows are not the same in both.

    """
    _rows(distilled)  # else there is no text
    max_length = other.manifest["max_length"]
    if "chosen" in distilled.about:
        found = other.split("train").rows[distilled.about["chosen"]["rows"]]
        _check_rows(distilled, found["label"], own, other)
        moved = replace(distilled, **token_tensors(found))
    else:
        moved = retokenised(distilled, own.tokenizer, other.tokenizer, max_length)
    return replace(moved, about=moved.about | {"model": other.encoder, "max_length": max_length})


def written_out(distilled: DistilledSet, own: Prepared, other: Prepared) -> DistilledSet:
    """The set with its texts in ``about["texts"]``, as a language model is shown them.

    Of real rows they are those of the same rows as the language model's tokenizer has them, which loses nothing.

    Args:
        distilled: a set of token ids.
        own: the data that it was made from.
        other: the same task prepared for the language model.

    Raises:
        InputError: a set of embeddings or vectors, the rows are not the same in both, or a pair of which its tokenizer
            does not say where the second text begins.

    """
    if "chosen" in distilled.about:
        split = other.split("train").select(distilled.about["chosen"]["rows"])
        _check_rows(distilled, split.labels.tolist(), own, other)
        found = decoded(split)
    else:
        found = texts(distilled, own.tokenizer)
    columns = 2 if "first" in other.split("train").rows.column_names else 1
    if any(len(each) != columns for each in found):
        raise InputError(
            f"this set's samples are pairs of {own.folder}, and its tokenizer puts nothing between two texts; choose "
            f"real rows, or an encoder that separates them"
        )
    return replace(distilled, about=distilled.about | {"texts": [list(each) for each in found]})


def decoded(split: Split) -> list[tuple[str, ...]]:
    """The text, or both texts, of every row of a split that was prepared for a language model."""
    decode = split.tokenizer.decode
    return [tuple(decode(ids, clean_up_tokenization_spaces=False) for ids in fields) for fields in split.fields()]


def _check_rows(distilled: DistilledSet, labels: list[int], own: Prepared, other: Prepared) -> None:
    if labels != distilled.label_ids.tolist():
        raise InputError(
            f"{other.folder}: its training rows are not those of {own.folder}; prepare both from the same files, "
            f"with the same seed, dev and test"
        )


def token_tensors(encoded: Mapping[str, Any]) -> dict[str, Any]:
    """``token_ids`` and ``token_type_ids`` [N, longest, rounded up to a multiple of 8] of what a tokenizer returns."""
    types = encoded.get("token_type_ids")
    return {
        "token_ids": _padded(encoded["input_ids"], -1),
        "token_type_ids": None if types is None else _padded(types, 0),
    }


def _padded(sequences: Sequence[Sequence[int]], value: int) -> Tensor:
    width = -(-max(map(len, sequences)) // 8) * 8
    return torch.tensor([[*sequence, *[value] * (width - len(sequence))] for sequence in sequences])


def _rows(distilled: DistilledSet) -> list[list[int]]:
    """The token ids of every sample, without padding."""
    if distilled.token_ids is None:
        name = distilled.about.get("model", {}).get("name", "one encoder")
        if distilled.vectors is not None:
            raise InputError(f"this set holds sentence vectors of {name}, which are no text, nor can be made one")
        raise InputError(
            f"this set holds input embeddings of {name}, which are no text; make a set of its nearest tokens: "
            f"distill: {{method: {{name: project}}, parent: {{method: {{name: ddal, …}}}}}}"
        )
    return [[token for token in row if token >= 0] for row in distilled.token_ids.tolist()]


def _marks(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids that stand before, between and after texts. An unknown or masked word is a part of its text."""
    found = (
        tokenizer.cls_token_id,
        tokenizer.sep_token_id,
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )
    return {token for token in found if token is not None}


def _parts(ids: Sequence[int], marks: set[int]) -> list[list[int]]:
    """The ids of the first text and, where a mark stands inside, of all that follows it."""
    runs = [list(run) for marked, run in groupby(ids, marks.__contains__) if not marked]
    return [*(runs[:1] or [[]]), *([[token for run in runs[1:] for token in run]] if runs[1:] else [])]
