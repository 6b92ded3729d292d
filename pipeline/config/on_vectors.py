"""Stage 3 on frozen sentence vectors: the recipes by which small students learn from a set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.schema import Count, Frozen, Positive, by_key, runtime
from pipeline.config.students import Mlp, Transformer, VectorStudentConfig
from pipeline.config.training import BestEpoch, OptimizerName, amount


class BestCheck(BestEpoch):
    """Which moment of a training is kept.

    Attributes:
        every: steps between two moments that are scored; by default an epoch where the recipe counts these, or else a
            twentieth of its steps. The last step is always one of them.

    """

    every: Count | None = None


class OnVectors(Frozen):
    """The recipe ``vectors``: a fresh student, to convergence; the same for distilled, chosen and all real rows.

    Long enough that the loss on a small set no longer falls, at a constant step size and without weight decay. On all
    rows of a task that is many passes, so ``select: dev`` is for them (and for whom it is allowed to look at dev).

    Attributes:
        student: its network, by name or as a mapping with its options; ``null`` takes the one that the set was
            distilled for, with the dropout that it had there.
        steps: of the optimiser; ``epochs``, where given, replaces them by passes over the samples.
        batch_size: samples per step at most; ``null`` takes all.
        weight_decay: of ``adamw``.
        select: the best moment on dev is kept, such as ``dev`` or ``{by: accuracy, every: 100}``; ``null`` keeps the
            last.
        together: initialisations that train at once; no part of the identity, results are equal up to rounding.

    """

    name: Literal["vectors"]
    revision: int = 1
    student: Annotated[VectorStudentConfig | None, by_key("name")] = None
    optimizer: OptimizerName = "adam"
    lr: Positive = 1e-3
    steps: Count = 1000
    epochs: Count | None = None
    batch_size: Count | None = 256
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    select: Annotated[BestCheck | None, by_key("split")] = None
    together: Count = runtime(10)

    @property
    def recipe(self) -> OnVectors:
        """Itself."""
        return self

    @property
    def amount(self) -> str:
        """How long it is, such as ``1000 steps`` or ``1 epoch``."""
        return amount(self.steps, self.epochs)

    def steps_on(self, samples: int) -> int:
        """Steps on a set of so many samples; an incomplete last batch of a pass is left out."""
        return self.steps if self.epochs is None else self.epochs * max(1, samples // self.batch_of(samples))

    def batch_of(self, samples: int) -> int:
        """Samples per step on a set of so many."""
        return min(self.batch_size or samples, samples)

    def checks_on(self, samples: int) -> tuple[int, ...]:
        """The steps after which a student is scored for ``select``; empty without it."""
        if self.select is None:
            return ()
        steps = self.steps_on(samples)
        default = -(-steps // 20) if self.epochs is None else max(1, steps // self.epochs)
        every = self.select.every or default
        return tuple(sorted({*range(every, steps + 1, every), steps}))


class PublishedMlp(Frozen):
    """The recipe ``published_mlp``: step 4 of "Embarrassingly Simple Dataset Distillation for NLP".

    The MLP 768 -> 256 -> C without dropout, 200 epochs of full-batch Adam with step size 1e-3; the last one counts.
    """

    name: Literal["published_mlp"]
    revision: int = 1
    together: Count = runtime(10)

    @property
    def recipe(self) -> OnVectors:
        """What it does."""
        student = Mlp(name="mlp")
        return OnVectors(name="vectors", student=student, epochs=200, batch_size=None, together=self.together)


class PublishedTransformer(Frozen):
    """The recipe ``published_transformer``: step 5 of the same project, for every set alike.

    The transformer over 4 pseudo-tokens with dropout 0.1, 1,000 epochs of Adam with step size 1e-3 on batches of 32;
    the last one counts. The project gave its random-real rows 200 epochs only; here they get as many as distilled ones.
    """

    name: Literal["published_transformer"]
    revision: int = 1
    together: Count = runtime(10)

    @property
    def recipe(self) -> OnVectors:
        """What it does."""
        student = Transformer(name="transformer")
        return OnVectors(name="vectors", student=student, epochs=1000, batch_size=32, together=self.together)


class RobustOnVectors(Frozen):
    """The protocol ``vectors_robust``: what is left when a student trains longer, or by another recipe.

    Every initialisation trains by ``own`` and by variants of it, each of which differs in one thing.

    Attributes:
        own: the recipe that is varied.
        steps: factors of the number of steps; the step size does not change.
        optimizers: others than the recipe's.
        sgd_lr, adam_lr: step sizes where SGD replaces Adam, or Adam SGD, whose own would mean nothing.
        learning_rates: factors of the step size.
        students: other networks than the recipe's, by name or as mappings.

    """

    name: Literal["vectors_robust"]
    revision: int = 1
    own: OnVectors = OnVectors(name="vectors")
    steps: tuple[Positive, ...] = (0.5, 2.0, 5.0, 10.0)
    optimizers: tuple[OptimizerName, ...] = ("sgd", "momentum", "adam", "adamw")
    sgd_lr: Positive = 1e-1
    adam_lr: Positive = 1e-3
    learning_rates: tuple[Positive, ...] = (0.1, 0.3, 3.0, 10.0)
    students: tuple[Annotated[VectorStudentConfig, by_key("name")], ...] = ()

    @model_validator(mode="after")
    def _check(self) -> RobustOnVectors:
        if self.own.select is not None:
            raise ValueError("own.select: no variant selects a moment; remove it and say how many steps")
        return self

    @property
    def recipe(self) -> OnVectors:
        """The one that is varied."""
        return self.own


LearningFromVectors = OnVectors | PublishedMlp | PublishedTransformer | RobustOnVectors
