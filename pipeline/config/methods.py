"""Stage 2: the ways to make a small set, one typed config each; the field ``name`` tells them apart."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.config.composed import Composed, Part
from pipeline.config.data import OTHER_SPLITS, Prepare
from pipeline.config.dilm import LM, DiLM, Generated, Rank
from pipeline.config.ensemble import check_others, told_apart
from pipeline.config.files import FileByPath
from pipeline.config.imported import Imported
from pipeline.config.loops import InnerOptimizer, Learned, PlainSteps, Validation, check_window
from pipeline.config.making import Budget, Parents
from pipeline.config.outer import Outer, Precision, on_real_text
from pipeline.config.real import (
    EL2N,
    Empty,
    FullData,
    Herding,
    KCentres,
    LossRank,
    Majority,
    Moderate,
    RandomReal,
)
from pipeline.config.schema import Count, Frozen, Positive, runtime
from pipeline.config.text import Project, Sentences, Text
from pipeline.config.vectors import BPTT


class DDAL(Learned):
    """Dataset distillation with attention labels (ACL 2023). Defaults are the published repository's.

    Attributes:
        budget: how the classes x shots samples are divided, as for real sentences (``prior``, ``sqrt``: by the classes'
            training rows); not uniform, every step needs all samples.
        sequence_length: input embeddings per sample (S); every position is attended.
        labels: ``hard`` one-hot and fixed; ``soft`` softmax of learned logits that start at one-hot; ``unrestricted``
            learned reals that start at one-hot (the paper's SL).
        attention_labels: none, the [CLS] query row, or all rows.
        attention_weight: λ of the attention loss.
        initialise: embeddings from N(0, 1) as published, or from real training samples.
        warm_start: path of a ``distilled.h5`` of the same shape to start from; ``distill.parent`` names a cell instead.
        steps: inner steps (T).
        inner_optimizer: of the inner steps: ``gd`` (the paper), ``momentum`` or ``adam``, by name or as a mapping with
            its options; the set remembers it.
        window: differentiate only this many of the last inner steps (a truncated hypergradient); ``null`` for all.
        draws: fresh classifiers per outer step, over which the hypergradient is averaged.
        batch_shots: samples per class in one inner batch.
        order: ``fixed`` cycles through blocks of the set; ``random`` draws an unstratified batch per step.
        learning_rate_per_step: one learned step size per inner step, or a single one.
        learning_rate_decay: with a single one, decay it linearly over the steps.
        dropout: keep the encoder's dropout on in the inner loop.
        precision: of the inner loop: ``fp32``, ``tf32`` (matrix products on CUDA alone), or autocast to ``bf16`` or
            ``fp16`` (which scales the loss).
        estimator: how the hypergradient is computed; no part of a set's identity, because all compute the same number
            up to rounding. ``unroll`` keeps the graph of all steps, ``adjoint`` that of one step and the parameters of
            each, ``fused`` does the same with hand-derived passes, ``auto`` takes the fastest that this encoder has.

    """

    name: Literal["ddal"]
    budget: Budget = "uniform"
    sequence_length: Count = 512
    labels: Literal["hard", "soft", "unrestricted"] = "hard"
    attention_labels: Literal["none", "cls", "all"] = "none"
    attention_weight: Annotated[float, Field(ge=0)] = 1.0
    initialise: Literal["noise", "real"] = "noise"
    warm_start: FileByPath | None = None
    steps: Count = 1
    inner_optimizer: InnerOptimizer = PlainSteps(name="gd")
    window: Count | None = None
    draws: Count = 1
    batch_shots: Count = 1
    order: Literal["fixed", "random"] = "fixed"
    learning_rate: Positive = 1e-2
    learning_rate_per_step: bool = True
    learning_rate_decay: bool = False
    dropout: bool = False
    outer: Outer = Outer()
    validation: Validation = Validation()
    precision: Precision = "fp32"
    estimator: Literal["auto", "unroll", "adjoint", "fused"] = runtime("auto")
    makes: ClassVar[Literal["embeddings"]] = "embeddings"
    parents: ClassVar[Parents | None] = Parents(("ddal",), "to start from", required=False, same_encoder=True)

    @model_validator(mode="after")
    def _check(self) -> DDAL:
        check_window(self.window, self.steps)
        if self.shots % self.batch_shots:
            raise ValueError(
                f"batch_shots: {self.batch_shots} does not divide shots: {self.shots}; "
                f"allowed: {', '.join(str(n) for n in range(1, self.shots + 1) if self.shots % n == 0)}"
            )
        if self.budget != "uniform" and self.batch_shots != self.shots:
            raise ValueError(
                f"budget: {self.budget} gives classes different numbers of samples, so they cannot share batches of "
                f"batch_shots: {self.batch_shots} equally; set batch_shots: {self.shots} (all samples in every step) "
                f"or budget: uniform"
            )
        learned = min(self.steps, self.window or self.steps)
        if self.order == "fixed" and learned * self.batch_shots < self.shots:
            raise ValueError(
                f"{learned} steps of {self.batch_shots} samples per class never reach all of shots: {self.shots}; "
                f"set batch_shots to at least {-(-self.shots // learned)} or "
                f"{'steps' if learned == self.steps else 'window'} to at least {self.shots // self.batch_shots}"
            )
        if self.learning_rate_decay and self.learning_rate_per_step:
            raise ValueError("learning_rate_decay needs learning_rate_per_step: false (a single step size to decay)")
        return self

    @property
    def division(self) -> Budget:
        """As the budget says."""
        return self.budget

    @property
    def checked_as(self) -> str:
        """One check for all cells of an encoder."""
        return "gradient_check.json"

    def planned_steps(self, rows: int) -> int:
        """Of the outer loop."""
        return self.outer.planned_steps(rows)

    @property
    def shared(self) -> tuple[str, ...]:
        """What the shapes of its tensors follow from."""
        attention = () if self.attention_labels == "none" else ("attention_labels",)
        return ("shots", "budget", "sequence_length", *attention)

    @property
    def has_steps(self) -> bool:
        """Always."""
        return True

    @property
    def outer_precision(self) -> str:
        """Autocast on real text."""
        return self.outer.precision or on_real_text(self.precision)

    @property
    def slug(self) -> str:
        """Readable part of the address."""
        slug = f"ddal-{self.labels}-{self.attention_labels}.{self.shots}shot.{self.steps}step"
        return slug if self.budget == "uniform" else f"{slug}.{self.budget}"


Method = Annotated[
    DDAL
    | RandomReal
    | Herding
    | KCentres
    | Moderate
    | LossRank
    | EL2N
    | Rank
    | FullData
    | Majority
    | Empty
    | BPTT
    | Sentences
    | Text
    | Project
    | Imported
    | Composed
    | LM
    | DiLM
    | Generated,
    Field(discriminator="name"),
]


class Runtime(Frozen):
    """How a cell runs; no part of its identity.

    Attributes:
        device: ``auto`` takes CUDA where there is one.
        threads: CPU threads of torch; by default all cores. Results are bit-equal only at the same number.
        save_seconds: longest time between two saves of a running cell.
        snapshots: where the parameters of every inner step wait for the recursion: ``device``, ``host`` (of a GPU),
            ``disk`` ($TMPDIR), ``recompute`` (every √T-th is kept, the others are computed twice), or ``auto`` by
            memory. Results are the same.
        memory_mb: what the recursion may keep of the inner loop: parameters of its steps, then activations. By default
            a quarter of the free memory for parameters, and the last step's activations.

    """

    device: str = "auto"
    threads: Count | None = None
    save_seconds: Annotated[float, Field(ge=0)] = 60.0
    snapshots: Literal["auto", "device", "host", "disk", "recompute"] = "auto"
    memory_mb: Count | None = None


class Distill(Frozen):
    """Stage 2. Input: a prepared task, maybe another cell of stage 2. Output: ``distilled.h5`` and ``log.csv``.

    Attributes:
        parent: the cell whose artifact this one starts from, of the same splits and maybe of another encoder; which
            ones a method takes is in its ``parents``. A chain of parents may have any length. ``composed`` has parts
            instead.
        others: the same splits as prepared for other encoders, whose students a set of text is learned for, too.

    """

    revision: int = 1
    source: Prepare
    method: Method
    parent: Distill | None = None
    others: tuple[Prepare, ...] = ()
    seed: int = 42
    runtime: Runtime = runtime(Runtime())

    @model_validator(mode="after")
    def _check(self) -> Distill:
        if isinstance(self.method, BPTT) and self.source.vectors is None:
            raise ValueError("method 'bptt' learns from sentence vectors; add vectors: cls, or mean, to prepare")
        if (self.source.model.head == "language") != isinstance(self.method, LM):
            self._refuse_head()
        check_others(self.method, self.source, self.others)
        if isinstance(self.method, Composed):
            for number, part in enumerate(self.method.parts):
                self._check_part(f"method.parts.{number}.of.source", part.of.source)
        if self.parent is not None:
            self._check_parent(self.parent)
        elif self.method.parents is not None and self.method.parents.required:
            names, purpose = self.method.parents.names, self.method.parents.purpose
            raise ValueError(
                f"method '{self.method.name}' needs another cell of stage 2 {purpose} (by {' or '.join(names)}); "
                f"name it: parent: {{method: {{name: {names[0]}}}}}"
            )
        return self

    def _refuse_head(self) -> None:
        name = self.source.model.name
        if isinstance(self.method, LM):
            raise ValueError(
                f"method 'lm' trains a language model, and {name} is prepared as a classifier; "
                f"write source.model: {{name: {name}, head: language}}"
            )
        raise ValueError(
            f"method '{self.method.name}' needs a classifier, and {name} is prepared as a language model; remove head"
        )

    def _check_parent(self, parent: Distill) -> None:
        """Refuses a parent that the method cannot start from."""
        allowed, name = self.method.parents, self.method.name
        if allowed is None:
            raise ValueError(f"parent: method '{name}' starts from no other cell; remove it")
        if parent.method.name not in allowed.names:
            raise ValueError(
                f"parent.method: method '{name}' takes none by '{parent.method.name}' {allowed.purpose}; "
                f"allowed: {', '.join(allowed.names)}"
            )
        if isinstance(self.method, DDAL) and self.method.warm_start is not None:
            raise ValueError("parent and method.warm_start both say what to start from; keep one")
        if (key := parent.source.split_otherwise(self.source)) is not None:
            raise ValueError(f"parent.source.{key}: {OTHER_SPLITS}")
        if allowed.same_encoder and parent.source.model != self.source.model:
            raise ValueError(
                f"parent.source.model: method '{name}' takes the embeddings of its own encoder {allowed.purpose}, not "
                f"those of {parent.source.model.name}; remove it"
            )
        for key in self.method.shared:
            ours, theirs = getattr(self.method, key), getattr(parent.method, key)
            if ours != theirs:
                raise ValueError(
                    f"parent.method.{key}: {theirs!r}, and this method's is {ours!r}; they have to be the same"
                )

    def _check_part(self, place: str, source: Prepare) -> None:
        """Refuses a part of other rows, classes or tokens than those of this cell."""
        own = self.source
        if source.task != own.task and source.task not in own.task.parts:
            allowed = ", ".join(task.name for task in (own.task, *own.task.parts))
            raise ValueError(
                f"{place}.task: {source.task.name} is neither the task of prepare nor one that it joins ({allowed}); "
                f"join it: prepare.task: {{name: both, source: {{kind: joined, tasks: […]}}, text: text}}"
            )
        if source.model != own.model:
            raise ValueError(
                f"{place}.model: the part is of {source.model.name}, and students are {own.model.name}; remove it"
            )
        there = own.model_copy(update={"task": source.task})  # the splits of a joined task are those of each
        if (key := source.split_otherwise(there)) is not None:
            raise ValueError(f"{place}.{key}: {OTHER_SPLITS}")

    @property
    def made_of(self) -> tuple[Distill, ...]:
        """The cells of stage 2 that it reads: the one that it starts from, or those that it is put together of."""
        if isinstance(self.method, Composed):
            return tuple(part.of for part in self.method.parts)
        return () if self.parent is None else (self.parent,)

    @property
    def chain(self) -> tuple[Distill, ...]:
        """This cell, those that it reads, what these read, and so on."""
        return (self, *(one for start in self.made_of for one in start.chain))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Its own and those of its parents: what sets that are alike otherwise are told apart by."""
        return tuple(one.seed for one in self.chain)

    @property
    def is_drawn(self) -> bool:
        """Whether another seed, of this cell or of one that it starts from, may give another set."""
        return self.method.is_drawn or any(one.is_drawn for one in self.made_of)

    @property
    def encoders(self) -> tuple[str, ...]:
        """Readable names of the encoders whose students it is learned for, that of ``source`` first, all different."""
        return tuple(told_apart([one.model_slug for one in (self.source, *self.others)]))

    @property
    def slug(self) -> str:
        """Readable part of the address; of a parent the name of its method, and its encoder where that is another."""
        slug = f"{self.source.slug}.{self.method.slug}.seed{self.seed}"
        slug += f".with-{'+'.join(self.encoders[1:])}"[:80] if self.others else ""
        if self.parent is None:
            return slug
        there = self.parent.source.model_slug
        return f"{slug}.from-{self.parent.method.name}" + (f"@{there}" if there != self.source.model_slug else "")


Part.model_rebuild(_types_namespace={"Distill": Distill})
Composed.model_rebuild(force=True)
Distill.model_rebuild(force=True)
