"""Batches of real text without their padding, in chunks small enough for the processor's cache."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.bilevel.fused import Packed
from pipeline.errors import StageError

TOKENS = 512


def packed(batch: Mapping[str, Tensor], matrix: Tensor, tokens: int = TOKENS, *, counted: bool = False) -> list[Packed]:
    """A batch of padded rows as sequences of real tokens.

    Rows are taken in order of length, so that attention, which works on the padded grid of a chunk, meets little
    padding. A row that is not padded on its right keeps its whole grid, because the encoder numbers its positions
    there; padding is then computed and masked, as the library does. On CUDA that holds for every batch, in one chunk:
    finding out where the padding is would make the host wait for the device.

    Args:
        batch: ``input_ids`` [B, S] and, where given, ``attention_mask`` and ``token_type_ids`` of the same shape;
            other entries are passed by.
        matrix: [vocabulary, E] word embeddings.
        tokens: of a chunk at most, unless one row alone has more.
        counted: the encoder numbers positions by counting what is no padding (RoBERTa), not by the place in the row.
            Both are the same where rows are padded on their right, and others are refused on a CPU.

    Returns:
        Chunks; every row is in exactly one of them, where ``order`` says which.

    Raises:
        StageError: see ``counted``.

    """
    ids = batch["input_ids"]
    mask = batch.get("attention_mask")
    mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    if ids.device.type != "cpu":
        return [whole(batch, mask, matrix, torch.arange(len(ids), device=ids.device))]
    if not _right_padded(mask):
        if counted:
            raise StageError(
                "the fused passes need rows that are padded on their right for an encoder that counts its positions; "
                "save its tokenizer with padding_side='right', or use estimator: adjoint"
            )
        rows = torch.arange(len(ids)).split(max(1, tokens // ids.shape[1]))
        return [whole(batch, mask, matrix, chosen) for chosen in rows]
    order = mask.sum(dim=1).argsort(stable=True)
    lengths = mask.sum(dim=1)[order].tolist()
    return [_chunk(batch, mask, matrix, order[start:end]) for start, end in pairwise(_bounds(lengths, tokens))]


def _right_padded(mask: Tensor) -> bool:
    """Whether every row of a mask [B, S] is real tokens, at least one, followed by padding."""
    return bool(mask[:, 0].all() and (mask[:, 1:] <= mask[:, :-1]).all())


def whole(batch: Mapping[str, Tensor], mask: Tensor, matrix: Tensor, rows: Tensor) -> Packed:
    """Rows with their padding, which is computed and masked; nothing is read back from the device."""
    ids, segments = batch["input_ids"][rows], batch.get("token_type_ids")
    return Packed(
        vectors=F.embedding(ids.flatten(), matrix),
        size=(ids.shape[0], ids.shape[1]),
        places=None,
        mask=mask[rows],
        segments=None if segments is None else segments[rows].flatten(),
        order=rows,
    )


def _bounds(lengths: list[int], tokens: int) -> list[int]:
    """Where chunks of at most ``tokens`` tokens begin, and the end."""
    bounds, total = [0], 0
    for row, length in enumerate(lengths):
        if total and total + length > tokens:
            bounds.append(row)
            total = 0
        total += length
    return [*bounds, len(lengths)]


def _chunk(batch: Mapping[str, Tensor], mask: Tensor, matrix: Tensor, rows: Tensor) -> Packed:
    mask = mask[rows]
    S = int(mask[-1].sum())  # the longest row is the last
    mask = mask[:, :S]
    segments = batch.get("token_type_ids")
    chosen = None if segments is None else segments[rows, :S][mask]
    return Packed(
        vectors=F.embedding(batch["input_ids"][rows, :S][mask], matrix),
        size=(len(rows), S),
        places=None if mask.all() else mask.flatten().nonzero().flatten(),
        mask=None if mask.all() else mask,
        segments=chosen if chosen is not None and chosen.any() else None,
        order=rows,
    )
