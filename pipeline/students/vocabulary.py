"""The vocabulary as points: which token of an embedding matrix is nearest to a vector, and which tokens are words.

What a synthetic sample of input embeddings looks like as text: its nearest tokens, position by position. Deterministic:
distances are taken in float64, equal ones go to the smaller token id.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from operator import itemgetter
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pipeline.errors import InputError

Measure = Literal["cosine", "l2"]


@dataclass(frozen=True)
class Nearest:
    """The nearest token of every vector.

    Attributes:
        ids: [...] token ids, int64, on the CPU.
        distances: [...] float64; 1 − cosine similarity (0 … 2), or the Euclidean distance in the units of the matrix.

    """

    ids: Tensor
    distances: Tensor


@torch.no_grad()
def nearest_tokens(
    vectors: Tensor,
    matrix: Tensor,
    measure: Measure = "cosine",
    *,
    without: Collection[int] = (),
    batch: int = 256,
    tokens: int = 2**16,
) -> Nearest:
    """Finds the row of ``matrix`` that is nearest to each vector.

    Args:
        vectors: [..., E].
        matrix: [vocabulary, E] word embeddings.
        measure: by which nearest is meant.
        without: token ids that are not looked at, such as special or unused ones; not all.
        batch: vectors that are compared with the vocabulary at once.
        tokens: of the vocabulary that are in float64 at once.

    """
    flat = vectors.detach().reshape(-1, vectors.shape[-1]).to(matrix.device).double()
    barred = torch.zeros(len(matrix), dtype=torch.bool, device=matrix.device)
    barred[sorted(without)] = True
    ids = torch.zeros(len(flat), dtype=torch.long, device=matrix.device)
    distances = torch.full((len(flat),), torch.inf, dtype=torch.float64, device=matrix.device)
    for start in range(0, len(matrix), tokens):
        rows = matrix.detach()[start : start + tokens].double()
        lengths, left_out = rows.norm(dim=1), barred[start : start + tokens]
        own = torch.cat([_nearest(chunk, rows, lengths, measure, left_out) for chunk in flat.split(batch)])
        found = _distances(flat, rows[own], measure).masked_fill_(left_out[own], torch.inf)
        closer = found < distances  # of equal ones the earlier part of the vocabulary counts
        ids[closer], distances[closer] = own[closer] + start, found[closer]
    shape = vectors.shape[:-1]
    return Nearest(ids.view(shape).cpu(), distances.view(shape).cpu())


@torch.no_grad()
def neighbours(
    token_ids: Tensor,
    matrix: Tensor,
    count: int,
    measure: Measure = "cosine",
    *,
    without: Collection[int] = (),
    batch: int = 64,
) -> Tensor:
    """[..., K] every token itself, then the others that are nearest to it, the smaller id of equals first.

    Args:
        token_ids: [...].
        matrix: [vocabulary, E] word embeddings.
        count: tokens to find; K is less where there are fewer that are looked at.
        measure: by which nearest is meant.
        without: token ids that are not looked at; the token itself is always first.
        batch: tokens that are compared with the vocabulary at once.

    """
    device, own = matrix.device, token_ids.reshape(-1, 1).to(matrix.device)
    barred = torch.zeros(len(matrix), dtype=torch.bool, device=device)
    barred[sorted(without)] = True
    (looked_at,) = (~barred).nonzero(as_tuple=True)
    rows = matrix.detach()[looked_at].double()
    lengths, others = rows.norm(dim=1), min(count, len(looked_at)) - 1
    found = []
    for chunk in own.split(batch):
        scores = _scores(matrix.detach()[chunk[:, 0]].double(), rows, lengths, measure)
        order = scores.masked_fill_(looked_at == chunk, torch.inf).argsort(dim=1, stable=True)
        found.append(looked_at[order[:, :others]])
    return torch.cat([own, torch.cat(found)], dim=1).view(*token_ids.shape, 1 + others).cpu()


def _nearest(chunk: Tensor, table: Tensor, lengths: Tensor, measure: Measure, barred: Tensor) -> Tensor:
    """[n] row of the table; argmin gives the first of equals."""
    found: Tensor = _scores(chunk, table, lengths, measure).masked_fill_(barred, torch.inf).argmin(dim=1)
    return found


def _scores(chunk: Tensor, table: Tensor, lengths: Tensor, measure: Measure) -> Tensor:
    """[n, rows] in the order of the distances; the vector's own length changes neither order."""
    products = chunk @ table.T
    return lengths.square() - 2 * products if measure == "l2" else -products / lengths.clamp_min(1e-12)


def _distances(vectors: Tensor, found: Tensor, measure: Measure) -> Tensor:
    """[n]; computed anew, because the expanded square loses the digits of small distances."""
    if measure == "l2":
        return (vectors - found).square().sum(dim=1).sqrt()
    return 1 - torch.cosine_similarity(vectors, found, dim=1, eps=torch.finfo(torch.float64).tiny)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of special tokens, ascending."""
    return sorted(set(tokenizer.all_special_ids))


def frame(tokenizer: PreTrainedTokenizerBase, texts: int = 1) -> list[list[int]]:
    """The special tokens that the tokenizer puts before a text, between the two of a pair, and after it.

    Raises:
        InputError: it puts nothing between the texts of a pair.

    """
    found = tokenizer(*["a"] * texts, return_special_tokens_mask=True)
    marks: list[list[int]] = [[]]
    for added, run in groupby(zip(found["input_ids"], found["special_tokens_mask"], strict=True), itemgetter(1)):
        if added:
            marks[-1] += [token for token, _ in run]
        else:
            marks.append([])
    if len(marks) != 1 + texts:
        raise InputError(
            "this encoder's tokenizer puts nothing between the two texts of a pair, so they cannot be told apart; "
            "give an encoder such as BERT"
        )
    return marks


def unwritable_ids(tokenizer: PreTrainedTokenizerBase, vocabulary: int, *, whole_words: bool) -> list[int]:
    """Ids that text cannot hold: special and unused tokens, and those that are read as others when written alone.

    Args:
        tokenizer: of the encoder.
        vocabulary: rows of its embedding matrix, of which the tokenizer may know fewer.
        whole_words: also those that do not begin a word, such as ``##ing``.

    """
    special = set(special_ids(tokenizer))
    candidates = [token for token in range(min(vocabulary, len(tokenizer))) if token not in special]
    alone = _read_again(tokenizer, [[token] for token in candidates])
    kept = {token for token, (_, again) in zip(candidates, alone, strict=True) if again == [token]}
    word = next((token for token, (text, _) in zip(candidates, alone, strict=True) if token in kept and _is_word(text)))
    before = len(tokenizer.decode([word]))
    for token, (text, again) in zip(candidates, _read_again(tokenizer, [[word, t] for t in candidates]), strict=True):
        if again == [word, token] and not whole_words:
            kept.add(token)
        if whole_words and (again != [word, token] or text[before : before + 1].isalnum()):
            kept.discard(token)
    return sorted(set(range(vocabulary)) - kept)


def _is_word(text: str) -> bool:
    return text.strip().isalpha()


def _read_again(tokenizer: PreTrainedTokenizerBase, sequences: list[list[int]]) -> list[tuple[str, list[int]]]:
    """Every sequence as text, and the ids that this text has."""
    texts = tokenizer.batch_decode(sequences)
    again = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return list(zip(texts, again, strict=True))


def read_back(tokenizer: PreTrainedTokenizerBase, samples: Sequence[list[int]]) -> dict[str, int]:
    """What a set's ids are worth as text: how many of its tokens and of its samples are read back as they were.

    Args:
        tokenizer: of the encoder.
        samples: token ids of each.

    """
    found = [surviving(tokenizer, ids) for ids in samples]
    return {
        "tokens": sum(total for _, total, _ in found),
        "tokens_read_back": sum(back for back, _, _ in found),
        "samples_read_back": sum(same for _, _, same in found),
    }


def surviving(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> tuple[int, int, bool]:
    """How many of a sample's ids, special ones apart, come back in their order when it is written and read again.

    Returns:
        Those that come back (by the longest matching blocks), all, and whether nothing else comes back either.

    """
    special = set(special_ids(tokenizer))
    content = [token for token in ids if token not in special]
    ((_, again),) = _read_again(tokenizer, [content])
    blocks = SequenceMatcher(None, content, again, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks), len(content), again == content
