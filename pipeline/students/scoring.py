"""Logits of a student over a whole split."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.data.tokenised import Batch
from pipeline.students.encoder import Parameters, Student


@torch.no_grad()
def score(student: Student, parameters: Parameters, batches: list[tuple[Tensor, Batch]]) -> Tensor:
    """[rows, C] logits on the CPU, in the split's own order.

    Args:
        student: the model as a function.
        parameters: θ.
        batches: the whole split as (row positions, batch), made once for many θ. Padding is masked, so that up to
            rounding the result does not depend on how rows are batched.

    """
    rows = torch.cat([positions for positions, _ in batches])
    logits = torch.cat([student.logits(parameters, batch).cpu() for _, batch in batches])
    return logits[rows.argsort()]
