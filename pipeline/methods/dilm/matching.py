"""The matching loss: do texts, weighted by how likely the generator finds them, have the gradient of real rows?

(DiLM, section 3.2.) Text is discrete, so the generator learns through the weights alone, and of the student no second
derivative is needed: with g_i the gradient of text i's cross-entropy, ∂loss/∂w_i = ⟨∂loss/∂(Σ w_i g_i), g_i⟩ is the
derivative of that cross-entropy along one direction of the parameters, which forward mode gives for all texts at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.data.tokenised import Batch
from pipeline.students.encoder import Parameters, Student

Matched = Literal["head", "last_layer", "all"]


def matched_names(parameters: Parameters, body: str, matched: Matched) -> list[str]:
    """The parameters whose gradients are matched.

    Args:
        parameters: θ by name.
        body: the prefix of the encoder's own parameters, such as ``bert``.
        matched: ``head``: those outside of the body; ``last_layer``: also those of its last layer and what comes after
            all layers (a pooler); ``all``.

    """
    if matched == "all":
        return list(parameters)
    head = [name for name in parameters if not name.startswith(f"{body}.")]
    if matched == "head":
        return head
    numbered = {name: _layer(name) for name in parameters if name not in head}
    last = max((number for number in numbered.values() if number is not None), default=None)
    seen, after = False, []
    for name, number in numbered.items():  # in the order of the module: what follows the layers comes after them
        seen = seen or number is not None
        if number == last or (number is None and seen):
            after.append(name)
    return [*after, *head]


def _layer(name: str) -> int | None:
    """The number of the layer that a parameter belongs to."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def weights(losses: Tensor, temperature: float) -> Tensor:
    """[rows] softmax(−ℓ / τ) over the texts of one class; sums to 1."""
    return (-losses / temperature).softmax(dim=0)


def gradient(
    student: Student, parameters: Parameters, names: Sequence[str], batch: Batch, of_rows: Tensor | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """The gradient of Σ w_i CE_i with respect to some parameters, and the logits [rows, C].

    Args:
        student: the model as a function.
        parameters: θ.
        names: of those to differentiate with respect to.
        batch: real text with ``labels``.
        of_rows: [rows] w; by default their mean, 1 / rows.

    """
    leaves = {name: parameters[name].detach().requires_grad_() for name in names}
    logits = student.logits(parameters | leaves, batch)
    each = F.cross_entropy(logits, batch["labels"], reduction="none")
    total = each.mean() if of_rows is None else (of_rows.to(each) * each).sum()
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    named = zip(leaves.items(), found, strict=True)
    return {name: torch.zeros_like(leaf) if of is None else of for (name, leaf), of in named}, logits.detach()


def match(
    student: Student, parameters: Parameters, names: Sequence[str], teacher: Mapping[str, Tensor], batch: Batch,
    of_rows: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """1 − cos(teacher's gradient, Σ w_i g_i), and its derivative with respect to the weights w [rows].

    The cosine is of all matched parameters as one vector; of a vector of length 0 it is 0 and has no derivative.
    """
    made, logits = gradient(student, parameters, names, batch, of_rows.detach())
    product = sum(((teacher[name] * made[name]).sum() for name in names), torch.zeros(()).to(logits))
    real, own = _length(teacher), _length(made)
    if not float(real) or not float(own):
        return torch.ones(()), torch.zeros_like(of_rows)
    cosine = product / (real * own)
    direction = {name: cosine * made[name] / own**2 - teacher[name] / (real * own) for name in names}
    slope = student.slope(parameters, direction, batch)
    error = logits.softmax(dim=-1) - F.one_hot(batch["labels"], logits.shape[1])
    return (1 - cosine).cpu(), (error * slope).sum(dim=-1).to(of_rows)


def _length(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([tensor.double().square().sum() for tensor in tensors.values()]).sum().sqrt().float()
