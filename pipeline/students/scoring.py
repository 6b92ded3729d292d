"""Logits of a student over a whole split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from pipeline.data.tokenised import Batch
from pipeline.students.encoder import Parameters, Student


@torch.no_grad()
def score(student: Student, parameters: Parameters, batches: Iterable[tuple[Tensor, Batch]]) -> Tensor:
    """[rows, C] logits on the CPU, in the split's own order, in the student's outer precision.

    By the hand-derived passes, without padding, where the student has them.

    Args:
        student: the model as a function.
        parameters: θ.
        batches: the whole split as (row positions, batch), made once where there are many θ. Padding is masked, so that
            up to rounding the result does not depend on how rows are batched.

    """
    found = list(_logits(student, parameters, batches))
    rows = torch.cat([positions for positions, _ in found])
    logits = torch.cat([of_rows for _, of_rows in found]).cpu()
    return logits[rows.cpu().argsort()]


def _logits(
    student: Student, parameters: Parameters, batches: Iterable[tuple[Tensor, Batch]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Row positions and logits of all rows, chunk by chunk."""
    passes = student.passes()
    if isinstance(passes, str):
        yield from ((positions, student.logits(parameters, batch)) for positions, batch in batches)
        return
    here = passes.at(passes.pack(parameters))
    for positions, batch in batches:
        # Packed anew for every θ: that takes a thousandth of the forward pass, and a split's vectors would not fit.
        for chunk in student.packed(batch, parameters):
            yield positions.to(chunk.order.device)[chunk.order], here.logits(chunk)
