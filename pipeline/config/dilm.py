"""Stage 2 by a language model that writes the set (DiLM: Maekawa et al., Findings of NAACL 2024; JNLP 32(1), 2025).

Three cells, chained by ``distill.parent``: ``lm`` teaches a causal language model the task's text, ``dilm`` makes it
prefer texts whose gradients are those of real ones, ``generated`` writes a set with either. One generator serves every
budget, selection and set. Defaults are the published repository's.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.config.making import Making, Parents, SmallSet
from pipeline.config.real import Coreset
from pipeline.config.schema import Count, Frozen, Positive, Share, by_key, runtime
from pipeline.config.training import Training

GENERATORS = ("lm", "dilm")


class LoRA(Frozen):
    """Low-rank adapters on the linear layers; they and the new tokens are all that is trained; merged at the end.

    Attributes:
        rank, alpha, dropout: of the adapters (Hu et al., ICLR 2022).
        modules: names of the layers; ``null`` takes all linear ones but the head.

    """

    rank: Count = 16
    alpha: Count = 32
    dropout: Share = 0.0
    modules: tuple[str, ...] | None = None


class GeneratorTraining(Frozen):
    """How a language model is optimised: AdamW, by whichever loss.

    Attributes:
        steps, lr, scheduler, warmup_ratio, weight_decay, max_grad_norm: of the optimiser.
        dropout: whether there is any, the model's own and of adapters.
        precision: autocast of the language model; its weights and its losses are float32.
        lora: train adapters alone; ``null`` trains every weight.
        gradient_checkpointing: compute activations again in the backward pass; no part of the identity.

    """

    steps: Count
    lr: Positive
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: Share = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: Positive = 1.0
    dropout: bool = True
    precision: Literal["fp32", "bf16"] = "bf16"
    lora: LoRA | None = None
    gradient_checkpointing: bool = runtime(False)

    @model_validator(mode="after")
    def _check_dropout(self) -> GeneratorTraining:
        if self.lora is not None and self.lora.dropout and not self.dropout:
            raise ValueError(f"lora.dropout: {self.lora.dropout} has no effect with dropout: false; change one of them")
        return self

    def planned_steps(self, rows: int) -> int:
        """As the config says."""
        return self.steps


class DevLoss(Frozen):
    """The language model's loss on dev, and the share of rows that are likeliest as texts of their own class.

    Attributes:
        every: steps between two measurements; ``null`` never measures.
        keep: the ``last`` state, as published, or the ``best`` by this loss.
        examples: rows of dev, a fixed stratified draw; ``null`` takes all.

    """

    every: Count | None = None
    keep: Literal["last", "best"] = "last"
    examples: Count | None = None

    @model_validator(mode="after")
    def _check(self) -> DevLoss:
        if self.keep == "best" and self.every is None:
            raise ValueError("keep: best needs a measurement; say after how many steps: every: 5000")
        return self


class LM(GeneratorTraining, Making):
    """The generator before matching, and the baseline "LM": class-conditional causal language modelling.

    A sequence is the begin token of its class, the text (of a pair both, with a separator in between), the end token.

    Attributes:
        batch_size: sequences per step.
        begin: a prompt for each class, in the order of its labels, which is read before every text of the class; its
            last token is what the class's begin token starts as. ``null``, as published: nothing is read before begin
            tokens, and all start alike, as the model's token for the start of a text.
        validation: of the loss on dev.

    """

    name: Literal["lm"]
    steps: Count = 80_000
    lr: Positive = 1e-5
    batch_size: Count = 64
    begin: tuple[Annotated[str, Field(pattern=r"\S")], ...] | None = None
    validation: DevLoss = DevLoss()
    makes: ClassVar[Literal["language model"]] = "language model"

    @property
    def slug(self) -> str:
        """Readable part of the address."""
        return f"lm.{self.steps}step" + (".lora" if self.lora else "")


class Sampling(Frozen):
    """How texts are drawn from a generator.

    Attributes:
        top_p: nucleus: the smallest set of tokens with this much probability.
        top_k: no other than so many most probable tokens; ``null`` does not limit.
        temperature, repetition_penalty: of the logits.
        max_tokens: of a text; ``null`` takes the longest training row's.
        batch_size: texts drawn together; another one draws other texts.
        precision: autocast of the language model meanwhile.

    """

    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    top_k: Count | None = None
    temperature: Positive = 1.0
    repetition_penalty: Positive = 1.0
    max_tokens: Count | None = None
    batch_size: Count = 512
    precision: Literal["fp32", "bf16"] = "bf16"


class Teachers(Frozen):
    """The real rows whose gradients are matched.

    Attributes:
        sets: of rows, served in turn; each is drawn or clustered with a seed of its own.
        shots: rows per class in each.
        choose: ``k_centres``: the rows nearest to the centroids of k-means on vectors of the frozen encoder
            (the paper's representative teacher); ``random``: a new draw in every step (the ablation).
        candidates: choose among so many training rows, a draw with the classes' shares; ``null`` looks at all.

    """

    sets: Count = 10
    shots: Count = 200
    choose: Literal["k_centres", "random"] = "k_centres"
    candidates: Count | None = None


class Pool(Frozen):
    """The texts that generator updates look at.

    Attributes:
        every: students after which a new pool is written.
        size: texts per class; ``null`` takes as many as the updates until the next pool look at.
        clusters: of each class, by k-means on vectors of the frozen encoder (the published code has those of the last
            student); a mini-batch has equally many texts of each, the next ones in turn (diverse mini-batches).
            ``null`` takes one text of each, 1 takes the next texts of the class (the ablation).

    """

    every: Count = 20
    size: Count | None = None
    clusters: Count | None = None


class DiLM(GeneratorTraining, Making):
    """Gradient matching: the texts that a real batch's gradient looks like become more likely.

    An update takes ``shots`` texts x_i per class from the pool, weights w = softmax(−ℓ / τ) of their losses ℓ under the
    generator, and matches the gradient of Σ w_i CE(x_i) on a student with that of real rows; the signal reaches the
    generator through the weights. Between two updates the student takes steps on real data.

    Attributes:
        shots: texts per class in an update.
        teachers, pool, sampling: real rows, texts, and how these are drawn.
        pooling: the vectors by which teachers are chosen and texts clustered, of the frozen encoder: of the ``first``
            token as published, or their ``mean``.
        temperature: τ.
        normalise: a text's loss is its sum over tokens divided by its own ``length``, or by the ``padded`` length of
            the batch as published (the longest text's, rounded up to a multiple of 8), which favours short texts.
        gradients: that are matched: of the classifier (``head``, as published), of it and what follows the last but
            one layer (``last_layer``), or of ``all`` parameters.
        updates: of the generator along one student's training, after which there is a fresh student.
        student_steps: of the student between two updates.
        student: how it trains; ``steps`` is the length of its schedule.
        lm_weight: λ of (1 − λ) · matching + λ · language modelling.
        lm_batch_size: sequences of the latter.

    """

    name: Literal["dilm"]
    steps: Count = 20_000
    lr: Positive = 3e-7
    warmup_ratio: Share = 0.05
    shots: Count = 64
    teachers: Teachers = Teachers()
    pool: Pool = Pool()
    sampling: Sampling = Sampling()
    pooling: Literal["first", "mean"] = "first"
    temperature: Positive = 1.0
    normalise: Literal["length", "padded"] = "length"
    gradients: Literal["head", "last_layer", "all"] = "head"
    updates: Count = 10
    student_steps: Count = 20
    student: Training = Training()
    lm_weight: Annotated[float, Field(ge=0, lt=1)] = 0.0
    lm_batch_size: Count = 64
    revision: int = 2
    makes: ClassVar[Literal["language model"]] = "language model"
    parents: ClassVar[Parents | None] = Parents(("lm", "dilm"), "to go on from")

    @model_validator(mode="after")
    def _check(self) -> DiLM:
        if self.shots % self.clusters:
            raise ValueError(
                f"pool.clusters: {self.clusters} does not divide shots: {self.shots}, each gives equally many; "
                f"allowed: {', '.join(str(n) for n in range(1, self.shots + 1) if self.shots % n == 0)}"
            )
        if self.pool_size < self.shots:
            raise ValueError(
                f"pool.size: {self.pool_size} texts per class are fewer than the {self.shots} of an update"
            )
        if self.student.epochs is not None:
            raise ValueError("student.epochs: the student's steps follow from updates and student_steps; remove it")
        if self.student.steps < self.longest:
            raise ValueError(
                f"student.steps: {self.student.steps} is shorter than the {self.longest} steps between the first and "
                f"the last of {self.updates} updates; give at least {self.longest}"
            )
        return self

    @property
    def clusters(self) -> int:
        """Of the pool, per class."""
        return self.pool.clusters or self.shots

    @property
    def longest(self) -> int:
        """Steps of a student until the last update that looks at it."""
        return (self.updates - 1) * self.student_steps

    @property
    def pool_size(self) -> int:
        """Texts per class."""
        return self.pool.size or self.shots * self.updates * self.pool.every

    @property
    def slug(self) -> str:
        """Readable part of the address."""
        return f"dilm.{self.steps}step" + (".lora" if self.lora else "")


class ByCentres(Frozen):
    """The texts that cover their class: see ``distill.method: {name: k_centres}`` for the options."""

    name: Literal["k_centres"]
    centres: Literal["kmeans", "greedy"] = "kmeans"
    pooling: Literal["first", "mean"] = "first"


class ByHerding(Frozen):
    """The texts whose mean is their class's."""

    name: Literal["herding"]
    pooling: Literal["first", "mean"] = "first"


class ByRank(Frozen):
    """The texts with the lowest loss of the generator, per token or, as published, per padded length."""

    name: Literal["rank"]
    normalise: Literal["length", "padded"] = "length"


class Rank(Coreset):
    """DiLM's ``rank`` of real rows: those with the lowest loss of a generator, begun with the token of their class.

    Attributes:
        normalise: the loss of a row is per token, or per token of the longest candidate (rounded up to a multiple of 8)
            as published, which favours short rows.

    """

    name: Literal["rank"]
    normalise: Literal["length", "padded"] = "length"
    parents: ClassVar[Parents | None] = Parents(GENERATORS, "whose loss ranks the rows")


class AtRandom(Frozen):
    """A draw of the candidates."""

    name: Literal["random"]


class Unselected(Frozen):
    """The first texts that are written; no others are."""

    name: Literal["none"]


TextSelection = Annotated[
    Annotated[ByCentres | ByHerding | ByRank | AtRandom | Unselected, Field(discriminator="name")],
    by_key("name"),
]


class Generated(SmallSet):
    """A set that a generator writes: ``over_sample`` times as many texts as are needed, of which a rule selects.

    Attributes:
        shots: samples per class.
        over_sample: candidates per sample. (The published configs have 100 for the LM and 1, no selection, for DiLM:
            the other way round than in the paper.)
        selection: by name, or as a mapping with its options; ``none`` writes no more than is needed.
        sampling: how texts are drawn.
        distinct: each text once per class.

    """

    name: Literal["generated"]
    shots: Count = 20
    over_sample: Count = 100
    selection: TextSelection = ByCentres(name="k_centres")
    sampling: Sampling = Sampling()
    distinct: bool = True
    parents: ClassVar[Parents | None] = Parents(GENERATORS, "that writes the set")

    @property
    def candidates(self) -> int:
        """Texts per class that are written."""
        return self.shots if isinstance(self.selection, Unselected) else self.shots * self.over_sample

    @property
    def slug(self) -> str:
        """Readable part of the address."""
        return f"generated-{self.selection.name}.{self.shots}shot"
