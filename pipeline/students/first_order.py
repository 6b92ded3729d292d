"""Torch's own optimisers, for training that nothing is differentiated through."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.config import OnVectors, Training


def optimizer_of(recipe: Training | OnVectors, tensors: list[Tensor]) -> torch.optim.Optimizer:
    """The optimiser that a recipe names, over ``tensors``; weight decay is AdamW's alone, momentum is 0.9."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(tensors, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(tensors, lr=recipe.lr, fused=True)
    return torch.optim.SGD(tensors, lr=recipe.lr, momentum=0.9 if recipe.optimizer == "momentum" else 0.0)
