"""Students of texts of several lengths: padding is not attended."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.students.encoder import Parameters, Rows, Student


class Masked:
    """A student whose samples have a column more, which says what is padding.

    It has no hand-derived passes: its derivatives are autograd's.

    Args:
        student: that learns.

    """

    def __init__(self, student: Student) -> None:
        self._student = student

    def __call__(self, parameters: Parameters, inputs: Tensor, rows: Rows = "none") -> tuple[Tensor, Tensor | None]:
        """As of the student, on samples [m, S, E + 1]; the last column is 1 at tokens and 0 at padding."""
        return self._student(parameters, inputs[..., :-1], rows, mask=inputs[..., -1].long())

    def logits(self, parameters: Parameters, batch: dict[str, Tensor]) -> Tensor:
        """As of the student, on real text."""
        return self._student.logits(parameters, batch)


def with_mask(inputs: Tensor, mask: Tensor) -> Tensor:
    """[m, S, E + 1] what :class:`Masked` reads of embeddings [m, S, E] and a mask [m, S]."""
    return torch.cat([inputs, mask.to(inputs).unsqueeze(-1)], dim=-1)
