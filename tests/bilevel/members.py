"""An ensemble for the tests of members and windows: K linear-tanh-linear classifiers on vectors, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from pipeline.bilevel import InnerBatch, Parameters, RealBatch

M, D, H, C = 6, 5, 4, 3


class Members:
    """Every parameter has a leading axis K; written with ``einsum``, apart from the product's own students."""

    def __call__(
        self, parameters: Parameters, inputs: Tensor, rows: Literal["none", "cls", "all"] = "none"
    ) -> tuple[Tensor, None]:
        pattern = "kdh,md->kmh" if inputs.ndim == 2 else "kdh,kmd->kmh"
        hidden = (torch.einsum(pattern, parameters["in"], inputs) + parameters["bias"][:, None]).tanh()
        return torch.einsum("khc,kmh->kmc", parameters["out"], hidden), None

    def logits(self, parameters: Parameters, batch: RealBatch) -> Tensor:
        return self(parameters, batch["vectors"])[0]


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def start(members: Sequence[int]) -> Parameters:
    """θ_0; each member is a function of its number alone."""
    shapes = {"in": (D, H), "bias": (H,), "out": (H, C)}
    return {
        name: torch.stack([drawn(100 * member + at, *shape) for member in members])
        for at, (name, shape) in enumerate(shapes.items())
    }


def leaves() -> dict[str, Tensor]:
    made = {"vectors": drawn(1, M, D), "labels": drawn(2, M, C).softmax(-1), "rate": torch.tensor(0.05).double()}
    return {name: tensor.requires_grad_() for name, tensor in made.items()}


def batches(tensors: dict[str, Tensor], steps: int) -> list[InnerBatch]:
    """Four of the six rows at every step."""
    rows = [torch.randperm(M, generator=torch.Generator().manual_seed(t))[:4] for t in range(steps)]
    return [InnerBatch(tensors["vectors"][r], tensors["labels"][r], None, 0.0, tensors["rate"]) for r in rows]


def of(steps: int) -> Callable[[dict[str, Tensor]], list[InnerBatch]]:
    return lambda tensors: batches(tensors, steps)


def real_batch() -> RealBatch:
    return {"vectors": drawn(3, 7, D), "labels": torch.tensor([0, 1, 2, 0, 1, 2, 2])}
