"""Where the tokens of a batch of sequences stand: rows for the linear layers, heads for attention."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """B sequences of at most S tokens, n of them real.

    Attributes:
        rows: B.
        length: S.
        places: [n] place of every real token in the grid of B · S; ``None`` where all n = B · S are real.
        mask: [B, S] true where a token may be attended; ``None`` for all.

    """

    rows: int
    length: int
    places: Tensor | None = None
    mask: Tensor | None = None

    @cached_property
    def first(self) -> Grid:
        """The grid of the first tokens alone."""
        return Grid(self.rows, 1)

    def to_heads(self, x: Tensor, heads: int) -> Tensor:
        """[n, H] -> [B · heads, S, H / heads], zero where there is no token."""
        if self.places is not None:
            x = x.new_zeros(self.rows * self.length, x.shape[1]).index_copy_(0, self.places, x)
        split = x.view(self.rows, self.length, heads, -1).transpose(1, 2)
        # oneDNN has fast kernels for contiguous matrices only, and of a single row a view would do
        return split.reshape(self.rows * heads, self.length, -1).contiguous()

    def to_tokens(self, *parts: Tensor, heads: int) -> Tensor:
        """[B · heads, S, d] each -> [n, parts · heads · d]: the inverse, for several side by side."""
        d = parts[0].shape[-1]
        joined = parts[0].new_empty(self.rows, self.length, len(parts), heads, d)
        for number, part in enumerate(parts):
            joined[:, :, number] = part.view(self.rows, heads, self.length, d).transpose(1, 2)
        tokens = joined.view(self.rows * self.length, -1)
        return tokens if self.places is None else tokens.index_select(0, self.places)

    def take(self, x: Tensor, query: Grid) -> Tensor:
        """The rows of [n, H] that ``query`` (this grid, or :attr:`first`) has."""
        if query is self:
            return x
        return x.index_select(0, self._firsts(x))

    def spread(self, x: Tensor, query: Grid, tokens: int) -> Tensor:
        """The transpose of :meth:`take`: rows of ``query`` at their places among n = ``tokens``, zero elsewhere."""
        if query is self:
            return x
        return x.new_zeros(tokens, x.shape[1]).index_copy_(0, self._firsts(x), x)

    def _firsts(self, x: Tensor) -> Tensor:
        starts = torch.arange(0, self.rows * self.length, self.length, device=x.device)
        return starts if self.places is None else torch.searchsorted(self.places, starts)

    def bias(self, heads: int, like: Tensor) -> Tensor | None:
        """[B · heads, 1, S] to be added to attention scores: 0 at tokens, the lowest number elsewhere."""
        if self.mask is None:
            return None
        lowest = torch.finfo(like.dtype).min
        bias = torch.zeros_like(self.mask, dtype=like.dtype).masked_fill_(~self.mask, lowest)
        return bias[:, None, None].expand(-1, heads, -1, -1).reshape(-1, 1, self.length)
