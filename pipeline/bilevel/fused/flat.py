"""All parameters of an encoder, or all their gradients, as one vector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.bilevel.fused.structure import PostNorm, places
from pipeline.bilevel.fused.sums import GradientSums, Sums


@dataclass(frozen=True)
class Views:
    """A flat vector by place: embeddings and classifier, and the layers, each place without its layer's number."""

    ends: dict[str, Tensor]
    layers: tuple[dict[str, Tensor], ...]

    def matrices_in(self, dtype: torch.dtype) -> Views:
        """The same with the linear layers' weights in another type (tables, norms and biases stay)."""

        def cast(part: dict[str, Tensor]) -> dict[str, Tensor]:
            tables = ("positions", "segments")
            return {k: v if v.ndim < 2 or k in tables else v.to(dtype) for k, v in part.items()}

        return Views(cast(self.ends), tuple(cast(layer) for layer in self.layers))


class FlatParameters:
    """Where each parameter lies in one flat vector θ.

    The word embeddings, which input embeddings replace, are not in it.
    """

    def __init__(self, structure: PostNorm) -> None:
        self._names = structure.names
        self._layers = structure.layers
        self._slices: dict[str, tuple[int, tuple[int, ...]]] = {}
        offset = 0
        for place in places(structure.layers):
            if place in structure.names:
                shape = structure.shapes[place]
                self._slices[place] = (offset, shape)
                offset += math.prod(shape)
        self.size = offset
        self._order = list(self._slices)
        H = structure.hidden
        for layer in range(structure.layers):
            self._slices[f"{layer}.key_value.weight"] = (self._slices[f"{layer}.key.weight"][0], (2 * H, H))
            self._slices[f"{layer}.key_value.bias"] = (self._slices[f"{layer}.key.bias"][0], (2 * H,))

    def pack(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """[size] from tensors by the model's own names."""
        return torch.cat([parameters[self._names[place]].detach().reshape(-1) for place in self._order])

    def unpack(self, flat: Tensor) -> dict[str, Tensor]:
        """The model's own name -> view of ``flat``."""
        return {self._names[place]: self._view(flat, place) for place in self._order}

    def views(self, flat: Tensor) -> Views:
        """``flat`` by place; ``key_value.*`` are key and value together. Nothing is copied."""
        ends: dict[str, Tensor] = {}
        layers: tuple[dict[str, Tensor], ...] = tuple({} for _ in range(self._layers))
        for place in self._slices:
            number, _, rest = place.partition(".")
            part, name = (layers[int(number)], rest) if number.isdigit() else (ends, place)
            part[name] = self._view(flat, place)
        return Views(ends, layers)

    def sums(self, flat: Tensor) -> GradientSums:
        """``flat`` as the place where a gradient adds up; what was in it does not matter."""
        views = self.views(flat)
        return GradientSums(Sums(views.ends), tuple(Sums(layer) for layer in views.layers))

    def _view(self, flat: Tensor, place: str) -> Tensor:
        offset, shape = self._slices[place]
        return flat[offset : offset + math.prod(shape)].view(shape)
