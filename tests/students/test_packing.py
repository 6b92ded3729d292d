"""Real batches without padding: nothing is lost, nothing is added, and rows can be put back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.bilevel.fused import Packed
from pipeline.errors import StageError
from pipeline.students.packing import packed, whole

MATRIX = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
Batch = dict[str, Tensor]


def made(lengths: list[int], width: int, seed: int = 0, segments: bool = False) -> Batch:
    """Rows of these lengths, padded on the right with token 0, which is also a token like any other."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(width)[None] < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(0, 50, (len(lengths), width), generator=generator) * mask
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(len(lengths))}
    if segments:
        batch["token_type_ids"] = torch.randint(0, 2, ids.shape, generator=generator) * mask
    return batch


def grid(chunk: Packed, values: Tensor) -> Tensor:
    """[n, ·] back on the chunk's grid [B, S, ·], zero where there is no token."""
    rows, length = chunk.size
    places = torch.arange(rows * length) if chunk.places is None else chunk.places
    return values.new_zeros(rows * length, *values.shape[1:]).index_copy_(0, places, values).unflatten(0, chunk.size)


def put_back(chunks: list[Packed], batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The batch's vectors, mask and segments [B, S, ·] from its chunks; zero where there is no token."""
    rows, width = batch["input_ids"].shape
    vectors, mask = torch.zeros(rows, width, 3), torch.zeros(rows, width, dtype=torch.bool)
    segments = torch.zeros(rows, width, dtype=torch.long)
    for chunk in chunks:
        S = chunk.size[1]
        vectors[chunk.order, :S] = grid(chunk, chunk.vectors)
        mask[chunk.order, :S] = torch.ones(chunk.size, dtype=torch.bool) if chunk.mask is None else chunk.mask
        if chunk.segments is not None:
            segments[chunk.order, :S] = grid(chunk, chunk.segments)
    return vectors, mask, segments


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    extra=st.integers(0, 3),
    tokens=st.integers(1, 40),
    seed=st.integers(0, 3),
    segments=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_round_trip(lengths: list[int], extra: int, tokens: int, seed: int, segments: bool) -> None:
    batch = made(lengths, max(lengths) + extra, seed, segments)
    chunks = packed(batch, MATRIX, tokens)
    mask = batch["attention_mask"].bool()
    vectors, found, of_segments = put_back(chunks, batch)
    assert torch.equal(found, mask)
    assert torch.equal(vectors, MATRIX[batch["input_ids"]] * mask[..., None])
    assert torch.equal(of_segments, batch.get("token_type_ids", torch.zeros_like(of_segments)))
    order = torch.cat([chunk.order for chunk in chunks])
    assert sorted(order.tolist()) == list(range(len(lengths))), "every row once"
    assert torch.tensor(lengths)[order].tolist() == sorted(lengths), "in order of length"
    for chunk in chunks:
        own = [lengths[row] for row in chunk.order]
        assert chunk.size == (len(own), max(own)), "no column without a token"
        assert len(chunk.vectors) == sum(own), "no padding"
        assert sum(own) <= tokens or len(own) == 1
        assert (chunk.places is None) == (chunk.mask is None) == (len(set(own)) == 1)
    sums = [sum(lengths[row] for row in chunk.order) for chunk in chunks]
    firsts = [lengths[chunk.order[0]] for chunk in chunks]
    assert all(one + nxt > tokens for one, nxt in zip(sums, firsts[1:], strict=False)), "no chunk is cut too early"


def test_equal_rows_keep_their_order() -> None:
    (chunk,) = packed(made([4, 2, 4, 2, 4], 4), MATRIX)
    assert chunk.order.tolist() == [1, 3, 0, 2, 4]


def test_segments_that_are_all_0_are_none() -> None:
    batch = made([3, 5], 6) | {"token_type_ids": torch.zeros(2, 6, dtype=torch.long)}
    assert all(chunk.segments is None for chunk in packed(batch, MATRIX))


def test_without_a_mask_every_token_is_real() -> None:
    batch = made([5, 5], 5)
    del batch["attention_mask"]
    (chunk,) = packed(batch, MATRIX)
    assert (chunk.size, chunk.places, chunk.mask) == ((2, 5), None, None)
    assert len(chunk.vectors) == 10


NOT_RIGHT = {
    "left padding": [[0, 0, 1, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]],
    "a hole": [[1, 1, 0, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]],
    "an empty row": [[0, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]],
}


@pytest.mark.parametrize("name", NOT_RIGHT)
@pytest.mark.parametrize(("tokens", "rows"), [(512, [3]), (10, [2, 1]), (1, [1, 1, 1])])
def test_other_paddings_keep_their_grid(name: str, tokens: int, rows: list[int]) -> None:
    mask = torch.tensor(NOT_RIGHT[name])
    batch = made([5, 5, 5], 5, segments=True) | {"attention_mask": mask}
    chunks = packed(batch, MATRIX, tokens)
    assert [chunk.size for chunk in chunks] == [(count, 5) for count in rows]
    assert all(chunk.places is None for chunk in chunks)
    vectors, found, segments = put_back(chunks, batch)
    assert torch.equal(vectors, MATRIX[batch["input_ids"]]), "padding is computed"
    assert torch.equal(found, mask.bool()), "and masked"
    assert torch.equal(segments, batch["token_type_ids"])
    with pytest.raises(StageError, match="padding_side='right'"):
        packed(batch, MATRIX, tokens, counted=True)


def test_counted_positions_are_the_same_with_padding_on_the_right() -> None:
    batch = made([2, 4], 5)
    one, other = packed(batch, MATRIX), packed(batch, MATRIX, counted=True)
    assert [chunk.order.tolist() for chunk in one] == [chunk.order.tolist() for chunk in other]


def test_a_batch_on_another_device_is_one_grid_that_nobody_looks_at() -> None:
    """As on CUDA, where looking at the mask would make the host wait; ``meta`` tensors have nothing to look at."""
    batch = {name: tensor.to("meta") for name, tensor in made([2, 4], 5, segments=True).items()}
    (chunk,) = packed(batch, MATRIX.to("meta"), 1, counted=True)
    assert (chunk.size, chunk.places) == ((2, 5), None)
    assert chunk.vectors.shape == (10, 3)
    assert chunk.mask is not None
    assert chunk.mask.shape == (2, 5)
    assert chunk.segments is not None
    assert chunk.segments.shape == (10,)


def test_the_whole_grid_in_the_given_order() -> None:
    batch = made([2, 4], 5)
    chunk = whole(batch, batch["attention_mask"].bool(), MATRIX, torch.tensor([1, 0]))
    assert torch.equal(chunk.vectors.view(2, 5, 3), MATRIX[batch["input_ids"]][[1, 0]])
    assert chunk.order.tolist() == [1, 0]
    assert chunk.segments is None
