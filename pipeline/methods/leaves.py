"""What a method learns: tensors by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Leaves:
    """The learned tensors of a set, with their graphs' ends; saved and put back as a whole."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)

    def state(self) -> dict[str, Tensor]:
        """Copies of the leaves."""
        return {name: tensor.detach().clone() for name, tensor in self.tensors.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Puts saved leaves back in place."""
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(state[name])
