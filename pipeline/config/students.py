"""Students on frozen sentence vectors: small networks that take one vector per text."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.schema import Count, Frozen, Share


class Mlp(Frozen):
    """features -> ``hidden_layers`` x (linear, ReLU, dropout) of ``width`` -> classes.

    The defaults are those of "Embarrassingly Simple Dataset Distillation for NLP": 768 -> 256 -> C.
    """

    name: Literal["mlp"]
    width: Count = 256
    hidden_layers: Count = 1
    dropout: Share = 0.0


class Transformer(Frozen):
    """A vector cut into ``tokens`` pseudo-tokens, an encoder over these, their mean, a linear classifier.

    Post-norm layers with ReLU, as torch's own; no positions. The defaults are those of the same project: 4 tokens of
    192 features, taken to a width of 256.
    """

    name: Literal["transformer"]
    tokens: Count = 4
    width: Count = 256
    layers: Count = 2
    heads: Count = 4
    feed_forward: Count = 1024
    dropout: Share = 0.1

    @model_validator(mode="after")
    def _check(self) -> Transformer:
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide width: {self.width}; give a divisor of it")
        return self


VectorNetwork = Mlp | Transformer
VectorStudentConfig = Annotated[VectorNetwork, Field(discriminator="name")]
