"""Token sequences of a language model, flat in memory however many there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.methods.budgets import Integers


@dataclass(frozen=True)
class Sequences:
    """n sequences, one after the other.

    Attributes:
        tokens: int32 [all tokens].
        ends: int64 [n] where each sequence ends in ``tokens``.
        labels: int64 [n] its class.

    """

    tokens: Tensor
    ends: Tensor
    labels: Tensor

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]], labels: Sequence[int]) -> Sequences:
        """Lists of token ids, read one at a time."""
        pieces, ends, total = [], [], 0
        for row in rows:
            pieces.append(np.asarray(row, dtype=np.int32))
            total += len(row)
            ends.append(total)
        tokens = np.concatenate(pieces) if pieces else np.empty(0, np.int32)
        return cls(torch.from_numpy(tokens), torch.tensor(ends, dtype=torch.int64), torch.tensor(labels).long())

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> Tensor:
        """[n] tokens of each."""
        return torch.diff(self.ends, prepend=torch.zeros(1, dtype=torch.int64))

    def row(self, index: int) -> list[int]:
        """One sequence."""
        end = int(self.ends[index])
        found: list[int] = self.tokens[end - int(self.lengths[index]) : end].tolist()
        return found

    def batch(self, rows: Integers | Tensor, pad: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Token ids and mask [rows, longest], padded on the right."""
        rows = torch.as_tensor(rows)
        lengths = self.lengths[rows]
        starts = self.ends[rows] - lengths
        places = torch.arange(int(lengths.max()))
        mask = places < lengths[:, None]
        ids = self.tokens[(starts[:, None] + places).clamp(max=len(self.tokens) - 1)].long()
        return ids.masked_fill(~mask, pad).to(device), mask.long().to(device)

    def state(self) -> dict[str, Tensor]:
        """Tensors that :class:`Sequences` can be made of again."""
        return {"tokens": self.tokens, "ends": self.ends, "labels": self.labels}


def joined(parts: Sequence[Sequences]) -> Sequences:
    """All of them, one after the other."""
    offsets = np.cumsum([0, *(len(part.tokens) for part in parts)])
    return Sequences(
        torch.cat([part.tokens for part in parts]),
        torch.cat([part.ends + int(offset) for part, offset in zip(parts, offsets, strict=False)]),
        torch.cat([part.labels for part in parts]),
    )
