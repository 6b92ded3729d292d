"""Stage 3: the recipes by which a student learns from a set, and how often that is repeated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pipeline.config.composed import Composed
from pipeline.config.data import OTHER_SPLITS, Prepare
from pipeline.config.making import SmallSet
from pipeline.config.methods import Distill, Method, Runtime
from pipeline.config.on_vectors import LearningFromVectors, OnVectors, RobustOnVectors
from pipeline.config.prompting import Prompted, Prompting, check_prompt
from pipeline.config.real import Empty, FullData, Majority
from pipeline.config.schema import Count, Frozen, Positive, by_key, runtime
from pipeline.config.students import VectorNetwork
from pipeline.config.training import BestEpoch, OptimizerName, Training
from pipeline.config.vectors import BPTT


class GradientSteps(Frozen):
    """The recipe ``ddal``: T steps of the set's own optimiser with its step sizes, order and attention labels.

    Revision 1 trained the same classifiers on all sets of an ``evaluate.seed``.

    Attributes:
        precision: of scoring; ``null`` takes the set's own.
        step_sizes: of the T plain steps, each on all samples, for sets of real sentences, which have none of their own.

    """

    name: Literal["ddal"]
    revision: int = 2
    precision: Literal["fp32", "bf16"] | None = None
    step_sizes: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None


class FineTune(Training):
    """The recipe ``finetune``: AdamW, cosine schedule with warm-up, as DiLM evaluates (defaults are its own).

    Revision 1 trained the same classifiers, in the same order, on all sets of an ``evaluate.seed``.

    Attributes:
        select: the best of ``epochs`` is kept, such as ``dev`` or ``{by: accuracy, examples: 1000}``; ``null`` keeps
            the last.

    """

    name: Literal["finetune"]
    revision: int = 2
    select: Annotated[BestEpoch | None, by_key("split")] = None

    @model_validator(mode="after")
    def _check(self) -> FineTune:
        if self.select is not None and self.epochs is None:
            raise ValueError("select: the best epoch is kept, so say of how many: epochs: 10")
        return self


class Robust(Frozen):
    """The protocol ``robust``: how much of a set's worth is left when it is not used as it was meant to be.

    Every initialisation trains by the set's own recipe and by variants of it, each of which differs in one thing.
    Variants that would train the very same student (the order of batches that all hold the whole set) are left out.

    Attributes:
        own: the recipe that is varied; ``null`` takes the T steps that the set was distilled for, or ``finetune`` for
            real sentences.
        orders: of the batches: backwards, a new permutation of the samples in every pass, or a draw per step.
        batches: samples per step: one, half of the recipe's, all; with at least the recipe's steps and passes.
        optimizers: plain gradient descent or SGD (``sgd``), with momentum 0.9, Adam; where both are SGD or both Adam,
            the step sizes stay. ``adamw`` on a set with T steps is the whole recipe in ``adamw``.
        sgd_lr, adam_lr: constant step sizes where SGD replaces Adam, or Adam SGD, whose own would mean nothing.
        adamw: the usual way to fine-tune, which takes no notice of step sizes, batches and attention labels.
        learning_rates: factors of all step sizes.
        steps: factors of the number of steps, at least one; longer ones repeat batches and step sizes from the start.
        dropout, attention_labels: whether to switch dropout on and attention labels off, where they are not.
        precisions: of training and scoring.

    """

    name: Literal["robust"]
    revision: int = 1
    own: FineTune | None = None
    orders: tuple[Literal["reversed", "shuffled", "random"], ...] = ("reversed", "shuffled", "random")
    batches: tuple[Literal["one", "half", "all"], ...] = ("one", "half", "all")
    optimizers: tuple[OptimizerName, ...] = ("sgd", "momentum", "adam", "adamw")
    sgd_lr: Positive = 1e-2
    adam_lr: Positive = 1e-3
    adamw: FineTune = FineTune(name="finetune")
    learning_rates: tuple[Positive, ...] = (0.1, 0.3, 3.0, 10.0)
    steps: tuple[Positive, ...] = (0.5, 2.0, 5.0, 10.0)
    dropout: bool = True
    attention_labels: bool = True
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")

    @model_validator(mode="after")
    def _check(self) -> Robust:
        for name, recipe in (("own", self.own), ("adamw", self.adamw)):
            if recipe is not None and recipe.select is not None:
                raise ValueError(f"{name}.select: no variant selects an epoch; remove it and say how many steps")
        return self


class AlwaysMajority(Frozen):
    """The recipe ``majority``: answers the set's most frequent label; nothing is trained, so it is scored once."""

    name: Literal["majority"]
    revision: int = 1


Recipe = GradientSteps | FineTune | AlwaysMajority | OnVectors | Prompting
Protocol = Annotated[
    GradientSteps | FineTune | AlwaysMajority | Robust | LearningFromVectors | Prompted,
    Field(discriminator="name"),
]
Split = Literal["dev", "test"]


class Evaluate(Frozen):
    """Stage 3. Input: a distilled set and prepared data. Output: ``results.csv``, a row per initialisation and metric.

    Beside it ``predictions.h5``: what every initialisation answered on every row. The protocols ``robust`` and
    ``vectors_robust`` write both for the recipe that they vary, and everything to ``robustness.csv``.

    Attributes:
        data: prepared by another model (transfer): students are of that encoder, learn from the set's text and are
            scored on these rows; or a language model (``head: language``) is shown the text and asked about them; or
            one of the tasks that the set's source joins: the same students as without it are scored on its rows, and
            choose among its classes. ``null``, and the set's own source, is the data that the set was made from.
        prefix: only so many samples per class are learned from, the first ones of the set.

    """

    revision: int = 1
    source: Distill
    data: Prepare | None = None
    protocol: Protocol
    prefix: Count | None = None
    initialisations: Count = 100
    splits: Annotated[tuple[Split, ...], Field(min_length=1)] = ("dev", "test")
    seed: int = 0
    runtime: Runtime = runtime(Runtime())

    @field_validator("data")
    @classmethod
    def _other(cls, data: Prepare | None, above: ValidationInfo) -> Prepare | None:
        source = above.data.get("source")  # absent where it is itself refused
        return None if source is not None and data == source.source else data

    @model_validator(mode="after")
    def _check(self) -> Evaluate:
        method, protocol = self.source.method, self.protocol
        if method.makes == "language model":
            raise ValueError(
                f"method '{method.name}' makes a language model, which writes sets; evaluate one of them: "
                f"distill.method: {{name: generated}} with distill.parent: {{method: {{name: {method.name}}}}}"
            )
        if isinstance(protocol, AlwaysMajority) != isinstance(method, Majority):
            raise ValueError(
                f"protocol '{protocol.name}' cannot evaluate method '{method.name}'; 'majority' goes with 'majority'"
            )
        self._check_prompting()
        if isinstance(protocol, LearningFromVectors):
            if isinstance(method, Composed):
                raise ValueError(f"protocol '{protocol.name}' learns from vectors, and 'composed' makes {method.makes}")
            self._check_vectors(protocol)
        elif method.makes == "vectors":
            raise ValueError(
                f"protocol '{protocol.name}' learns from text, and method '{method.name}' makes vectors; use vectors"
            )
        if isinstance(protocol, GradientSteps):
            _check_steps(protocol, method)
        if isinstance(protocol, Robust | RobustOnVectors) and isinstance(method, FullData):
            raise ValueError(
                f"protocol '{protocol.name}' trains some 25 students per initialisation: on small sets, not on 'full'"
            )
        if isinstance(protocol, Robust) and isinstance(method, Composed):
            raise ValueError("protocol 'robust' varies the recipe of one set; evaluate the parts of 'composed' with it")
        if self.prefix is not None:
            _check_prefix(self.prefix, method, self.recipe)
        if self.data is not None:
            self._check_data(self.data)
        return self

    def _check_data(self, data: Prepare) -> None:
        """Refuses a transfer of what no other encoder reads."""
        method = self.source.method
        if self.asks_part:
            if not isinstance(self.protocol, FineTune | GradientSteps):
                raise ValueError(
                    f"data: protocol '{self.protocol.name}' is not scored on one of several tasks; remove data, or use "
                    f"{{name: finetune}}"
                )
            return
        if self.source.source.task.parts and data.task != self.source.source.task:
            names = ", ".join(task.name for task in self.source.source.task.parts)
            raise ValueError(
                f"data: {data.task.name}, prepared in this way, is none of the tasks that the set's source joins "
                f"({names}); give one of them, with the encoder, dev, test and seed of prepare"
            )
        if (key := data.split_otherwise(self.source.source)) is not None:
            raise ValueError(f"data.{key}: {OTHER_SPLITS}")
        if method.makes != "text":
            raise ValueError(
                f"data: method '{method.name}' makes {method.makes} of its own encoder, which "
                f"{data.model.name} cannot read; remove data, or evaluate a set of text that is made from this one"
            )
        if isinstance(method, FullData):
            raise ValueError(
                f"data: method 'full' has no set to transfer; give the encoder itself: prepare.model: {data.model.name}"
            )
        if isinstance(self.protocol, LearningFromVectors):
            raise ValueError(
                f"data: protocol '{self.protocol.name}' learns from vectors of the set's own encoder; remove data, or "
                f"use {{name: finetune}}"
            )

    def _check_prompting(self) -> None:
        """Refuses prompts without a language model or without text, and language models that are to be trained."""
        method, protocol, writes = self.source.method, self.protocol, self.prepared.model.head == "language"
        if not isinstance(protocol, Prompted):
            if isinstance(method, Empty):
                raise ValueError(
                    f"method 'empty' has no sample for protocol '{protocol.name}'; use {{name: prompting}}"
                )
            if writes:
                raise ValueError(
                    f"protocol '{protocol.name}' trains a classifier, and {self.prepared.model.name} is prepared as a "
                    f"language model; remove head, or show it the set: {{name: prompting}}"
                )
            return
        if not writes:
            raise ValueError(
                f"protocol '{protocol.name}' asks a causal language model; name one: "
                f"evaluate.data: {{model: {{name: openai-community/gpt2, head: language}}}}"
            )
        if isinstance(method, FullData):
            raise ValueError(f"protocol '{protocol.name}': all rows of train fit in no prompt; use a small set")
        task = self.source.source.task
        check_prompt(protocol.recipe_for(task.text), task.text, task.labels)

    def _check_vectors(self, protocol: LearningFromVectors) -> None:
        """Refuses recipes for vectors where there are none, and where nothing says which student learns."""
        method = self.source.method
        if method.makes == "embeddings":
            raise ValueError(
                f"protocol '{protocol.name}' learns from vectors, and method '{method.name}' makes embeddings of text"
            )
        if method.makes == "text" and not method.of_rows:
            raise ValueError(
                f"protocol '{protocol.name}' learns from vectors, which are stored of real rows alone; evaluate the "
                f"text of '{method.name}' with {{name: finetune}}"
            )
        if self.source.source.vectors is None:
            raise ValueError(
                f"protocol '{protocol.name}' needs the vectors of stage 1; add vectors: cls, or mean, to prepare"
            )
        if self.student is None:
            place = "own: {name: vectors, student: mlp}" if isinstance(protocol, RobustOnVectors) else "student: mlp"
            raise ValueError(
                f"protocol '{protocol.name}': a set of real rows has no student of its own; name one, "
                f"{{name: {protocol.name}, {place}}}, or a transformer"
            )

    @property
    def asks_part(self) -> bool:
        """Whether students of joined tasks are asked for one of them."""
        return self.data is not None and self.data.is_part_of(self.source.source)

    @property
    def recipe(self) -> Recipe:
        """How students learn from the set; of a robust protocol the recipe that it varies."""
        protocol = self.protocol
        if isinstance(protocol, Robust):
            steps = self.source.method.has_steps
            return protocol.own or (GradientSteps(name="ddal") if steps else FineTune(name="finetune"))
        if isinstance(protocol, Prompted):
            return protocol.recipe_for(self.source.source.task.text)
        return protocol.recipe if isinstance(protocol, LearningFromVectors) else protocol

    @property
    def prepared(self) -> Prepare:
        """The data on which students are scored."""
        return self.data or self.source.source

    @property
    def learned(self) -> Prepare:
        """The data whose encoder and classes students have: those that are scored, or the joined ones."""
        return self.source.source if self.asks_part else self.prepared

    @property
    def student(self) -> VectorNetwork | None:
        """The network that learns from vectors: the recipe's, or that which the set was distilled for."""
        if not isinstance(self.recipe, OnVectors):
            return None
        return self.recipe.student or (self.source.method.student if isinstance(self.source.method, BPTT) else None)

    @property
    def shots(self) -> int | None:
        """Samples per class that are learned from, or their mean; ``None`` for full data, majority and none."""
        method = self.source.method
        return self.prefix or method.shots if isinstance(method, SmallSet) else None

    @property
    def runs(self) -> int:
        """Initialisations that can differ: one where nothing is drawn."""
        return 1 if isinstance(self.source.method, Majority | Empty) else self.initialisations

    @property
    def examples(self) -> int | None:
        """Rows of each split that are scored, of a draw; ``None`` where all are."""
        return self.protocol.examples if isinstance(self.protocol, Prompted) else None

    @property
    def slug(self) -> str:
        """Readable part of the address."""
        slug = f"{self.source.slug}.{self.protocol.name}"
        slug += f"-{self.student.name}" if self.student is not None else ""
        if self.data is not None:
            slug += f".on-{self.data.task.name.lower() if self.asks_part else self.data.model_slug}"
        return slug if self.prefix is None else f"{slug}.first{self.prefix}"


def _check_prefix(prefix: int, method: Method, recipe: Recipe) -> None:
    """Refuses a part of a set that has none, or whose parts mean nothing."""
    if isinstance(method, Composed):
        raise ValueError("prefix: a composed set takes the first samples of each part; write parts.….shots instead")
    if not isinstance(method, SmallSet):
        raise ValueError(f"prefix: method '{method.name}' has no samples per class to take the first of; remove it")
    if method.has_steps and isinstance(recipe, GradientSteps):
        raise ValueError("prefix: the steps of a ddal set are made for all of its samples; remove it, or use finetune")
    if prefix > method.shots and method.division == "uniform":
        raise ValueError(f"prefix: {prefix} samples per class are more than shots: {method.shots}")


def _check_steps(protocol: GradientSteps, method: Method) -> None:
    """Refuses gradient steps without step sizes, and with two kinds of them."""
    if method.has_steps:
        if protocol.step_sizes is not None:
            raise ValueError(f"method '{method.name}' has its own step sizes; remove step_sizes from the protocol")
    elif isinstance(method, FullData):
        raise ValueError("method 'full' is too large for steps on all samples, protocol 'ddal'; use {name: finetune}")
    elif protocol.step_sizes is None:
        raise ValueError(
            f"method '{method.name}' has no step sizes for protocol 'ddal'; give them, "
            f"{{name: ddal, step_sizes: [0.1]}}, or use {{name: finetune}}"
        )
