"""Stage 3: the recipes by which a student learns from a set, and how often that is repeated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.methods import Count, Distill, FullData, Majority, Positive, RandomReal, Runtime
from pipeline.config.schema import Frozen, runtime


class GradientSteps(Frozen):
    """The recipe ``ddal``: T steps of the set's own optimiser with its step sizes, order and attention labels.

    ``precision`` is that of scoring; ``null`` takes the set's own.
    """

    name: Literal["ddal"]
    revision: int = 1
    precision: Literal["fp32", "bf16"] | None = None


class FineTune(Frozen):
    """The recipe ``finetune``: AdamW, cosine schedule with warm-up, as DiLM evaluates (defaults are its own).

    ``epochs``, where given, replaces ``steps`` by passes over the set.
    """

    name: Literal["finetune"]
    revision: int = 1
    steps: Count = 200
    epochs: Count | None = None
    batch_size: Count = 64
    lr: Positive = 1e-4
    scheduler: Literal["cosine", "linear"] = "cosine"
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.5
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: Positive = 1.0
    dropout: bool = False


class AlwaysMajority(Frozen):
    """The recipe ``majority``: answers the set's most frequent label; nothing is trained, so it is scored once."""

    name: Literal["majority"]
    revision: int = 1


Protocol = Annotated[GradientSteps | FineTune | AlwaysMajority, Field(discriminator="name")]
Split = Literal["dev", "test"]


class Evaluate(Frozen):
    """Stage 3. Input: a distilled set. Output: ``results.csv``, one row per (initialisation, split, metric)."""

    revision: int = 1
    source: Distill
    protocol: Protocol
    initialisations: Count = 100
    splits: Annotated[tuple[Split, ...], Field(min_length=1)] = ("dev", "test")
    seed: int = 0
    runtime: Runtime = runtime(Runtime())

    @model_validator(mode="after")
    def _check(self) -> Evaluate:
        method, protocol = self.source.method, self.protocol
        if isinstance(protocol, AlwaysMajority) != isinstance(method, Majority):
            raise ValueError(
                f"protocol '{protocol.name}' cannot evaluate method '{method.name}'; 'majority' goes with 'majority'"
            )
        if isinstance(method, RandomReal | FullData) and not isinstance(protocol, FineTune):
            raise ValueError(
                f"method '{method.name}' has no step sizes for protocol '{protocol.name}'; use {{name: finetune}}"
            )
        return self

    @property
    def slug(self) -> str:
        """Readable part of the address."""
        return f"{self.source.slug}.{self.protocol.name}"
