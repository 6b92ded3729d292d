"""What a post-norm encoder is made of: sizes, activations, and the name of every parameter by its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Activation = Literal["gelu", "relu", "tanh"]


@dataclass(frozen=True)
class PostNorm:
    """An encoder whose every sub-layer ends in a layer norm, with a two-layer classifier on the first token.

    word + position (+ segment) embeddings → norm (→ projection E → H) → L × [attention → + → norm → feed-forward → +
    → norm] → first token → dense → activation → logits.

    Attributes:
        hidden: H.
        heads: attention heads of H / heads each.
        layers: L.
        epsilon: of every layer norm.
        first_position: row of the position table that the first token uses (RoBERTa's tables start later).
        activation: of the feed-forward.
        head_activation: of the classifier.
        names: place -> the model's own parameter name; :func:`places` lists the places, in the order of the
            flat parameter vector. ``segments`` and ``project.*`` may be absent.
        shapes: place -> shape.

    """

    hidden: int
    heads: int
    layers: int
    epsilon: float
    first_position: int
    activation: Activation
    head_activation: Activation
    names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]


def places(layers: int) -> list[str]:
    """Every place a parameter can have, in the order of the forward pass.

    Key and value stand side by side so that one slice of the flat vector is both.
    """
    found = ["positions", "segments", *_pair("norm"), *_pair("project")]
    for layer in range(layers):
        found += _pair(f"{layer}.query")
        found += [f"{layer}.{part}.{kind}" for kind in ("weight", "bias") for part in ("key", "value")]
        for part in ("context", "attention_norm", "up", "down", "output_norm"):
            found += _pair(f"{layer}.{part}")
    return found + _pair("dense") + _pair("logits")


def _pair(place: str) -> list[str]:
    return [f"{place}.weight", f"{place}.bias"]
