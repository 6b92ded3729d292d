"""Stage 2 that ends with text: token ids are what is learned, or what learned embeddings are projected to."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.config.dilm import GENERATORS
from pipeline.config.loops import AdamSteps, InnerOptimizer, Learned, Validation, check_window
from pipeline.config.making import Parents, SmallSet
from pipeline.config.outer import Outer, Precision, on_real_text
from pipeline.config.schema import Count, Frozen, Positive, runtime
from pipeline.config.training import Training

Measure = Literal["cosine", "l2"]
Words = Literal["any", "writable", "whole"]


class Beginning(SmallSet):
    """Samples of exactly ``sequence_length`` tokens each, made of training sentences.

    Attributes:
        sequence_length: tokens per sample, special ones included; longer sentences are cut.
        words: that may be put in: ``any`` token but special ones, ``writable`` ones, which are read as themselves when
            they are written alone or after a word, or ``whole`` words and signs.
        initialise: ``real`` sentences drawn at random; ``centres``: those nearest to the centroids of k-means on the
            first token's vectors, class by class; ``telling``: those whose words speak most surely for their class and
            are not in the others chosen; all among ``candidates`` rows; or ``words``: such words themselves. What
            words say is counted on the whole training split.
        candidates: rows among which sentences are chosen, in equal parts of every class: a draw of those that have so
            many tokens or more.

    """

    sequence_length: Annotated[int, Field(ge=4)] = 16
    words: Words = "whole"
    initialise: Literal["real", "centres", "telling", "words"] = "telling"
    candidates: Count = 1000


class Sentences(Beginning):
    """What learned text begins as, with nothing learned: the same samples where options and seeds are the same."""

    name: Literal["sentences"]

    @property
    def is_drawn(self) -> bool:
        """Words are counted, and not drawn."""
        return self.initialise != "words"

    @property
    def slug(self) -> str:
        """Readable part of the address."""
        return f"sentences-{self.initialise}.{self.shots}shot.{self.sequence_length}tokens"


class Project(SmallSet):
    """The nearest token of every input embedding of a learned set, after its distillation: text, labels kept.

    Attributes:
        measure: by which nearest is meant.
        special: positions whose nearest token is a special one (padding, a separator) are ``dropped`` and the others
            framed as the tokenizer frames a text; or such tokens are ``kept`` where they are, without a frame; or are
            ``barred``, so that every position gives a word, framed.
        words: that are looked at: ``any`` token, ``writable`` or ``whole`` ones, as for ``text``.

    """

    parents: ClassVar[Parents] = Parents(("ddal",), "to project to text", same_encoder=True)

    name: Literal["project"]
    measure: Measure = "cosine"
    special: Literal["dropped", "kept", "barred"] = "dropped"
    words: Words = "any"

    @property
    def shared(self) -> tuple[str, ...]:
        """A projection keeps its parent's samples."""
        return ("shots",)

    @property
    def is_drawn(self) -> bool:
        """Never, of the same parent."""
        return False

    @property
    def slug(self) -> str:
        """Readable part of the address."""
        return f"project-{self.measure}.{self.shots}shot"


class StraightThrough(Frozen):
    """Students always train on tokens; the hypergradient moves a point per position, and its nearest token is taken.

    "Hard Prompts Made Easy" (Wen et al., NeurIPS 2023), with the outer optimiser's steps.

    Attributes:
        measure: by which nearest is meant.

    """

    name: Literal["straight_through"]
    measure: Measure = "l2"


class Projected(Frozen):
    """Students train on free embeddings, which are put on their nearest tokens now and then, and at last.

    Attributes:
        every: outer steps between two projections.
        penalty: μ of μ/2 ‖x − nearest token‖², summed over positions, whose gradient is added to the hypergradient.
        measure: by which nearest is meant.

    """

    name: Literal["projected"]
    every: Count = 10
    penalty: Annotated[float, Field(ge=0)] = 0.0
    measure: Measure = "l2"


class Mixture(Frozen):
    """Students train on mixtures of tokens, whose shares are learned and sharpened; the likeliest token is the text.

    With ``gumbel`` and ``straight_through`` the estimator of Jang, Gu and Poole (ICLR 2017); without both the softmax
    over the vocabulary of Sahni and Patel (2022), annealed. ``outer.lr`` is of logits: until another token is likelier,
    its logit has ``temperature`` · ln(share · (candidates − 1) / (1 − share)) to go, 4.1 by default.

    Attributes:
        candidates: tokens that a position may become: the one that it begins as and those nearest to it. More than the
            vocabulary has are all. Memory grows with samples x positions x candidates.
        measure: by which nearest is meant.
        share: of the token that a position begins as, at the first temperature.
        temperature: of the softmax over logits at the first outer step, ``last_temperature`` at the last one;
            geometric in between.
        straight_through: students see the likeliest token, and the derivative is the mixture's.
        gumbel: every outer step adds Gumbel noise of its own to the logits.

    """

    name: Literal["mixture"]
    candidates: Annotated[int, Field(ge=2)] = 64
    measure: Measure = "l2"
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    temperature: Positive = 1.0
    last_temperature: Positive = 0.1
    straight_through: bool = False
    gumbel: bool = False

    @model_validator(mode="after")
    def _check(self) -> Mixture:
        if self.last_temperature > self.temperature:
            raise ValueError(
                f"last_temperature: {self.last_temperature} is above temperature: {self.temperature}, which would "
                f"blur the mixture; give at most {self.temperature}"
            )
        return self


class ADMM(Frozen):
    """Students train on free embeddings x, which multipliers draw to the embeddings z of tokens: GRADMM's (2025).

    GRADMM matches gradients; with one plain inner step, so does the hypergradient here: its outer loss falls by
    η ⟨∇L of the real batch, ∇ℓ of the set⟩ to first order.

    Attributes:
        rho: ρ of ρ/2 ‖x − z + u‖², summed over positions, whose gradient is added to the hypergradient.
        every: outer steps between two projections of x + u onto tokens, each of which moves u by x − z.
        measure: by which nearest is meant.
        top_k: project onto so many tokens only, the likeliest after those before by a language model of the task
            (``distill.parent: {method: {name: lm}}``): GRADMM's 200; ``null`` looks at all.

    """

    name: Literal["admm"]
    rho: Positive = 0.1
    every: Count = 10
    measure: Measure = "l2"
    top_k: Count | None = None


class Swaps(Frozen):
    """Tokens and sentences are exchanged, and an exchange is kept where it truly lowers the outer loss.

    Tokens by the first-order effect of each on the outer loss, as HotFlip (Ebrahimi et al., ACL 2018) and GCG (Zou et
    al., 2023) find theirs; sentences in place of the sample whose weight the hypergradient would lower most. All are
    compared on the same classifiers and the same real batch.

    Attributes:
        tokens: proposals per outer step that exchange tokens: one of ``positions`` exchanges, the next of half, …
            None by default: such words fit the short inner loop (on SST-2 its loss falls) and not the long recipe.
        positions: of the largest proposal, at most; it is halved where none of an outer step helped, and doubled again
            where the largest did.
        sentences: proposals per outer step that put a real training sentence of the class in place of a sample.
        among: so many candidates of the class those sentences are drawn from; where samples begin as ``telling``
            sentences, the ones that tell most.
        fluency: weight of a language model's mean loss per token (``distill.parent: {method: {name: lm}}``), given the
            class, which is added to the outer loss where proposals are compared; 0 asks none.

    """

    name: Literal["swaps"]
    tokens: Annotated[int, Field(ge=0)] = 0
    positions: Count = 8
    sentences: Annotated[int, Field(ge=0)] = 6
    among: Count = 200
    fluency: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _check(self) -> Swaps:
        if self.tokens + self.sentences == 0:
            raise ValueError("tokens: 0 and sentences: 0 propose nothing; give one of them")
        return self


Relaxation = Annotated[StraightThrough | Projected | Mixture | ADMM | Swaps, Field(discriminator="name")]


class TextValidation(Validation):
    """Checkpoint selection: fresh students train on the text as stage 3 trains them.

    Attributes:
        initialisations: as for ``ddal``.
        training: the recipe by which they train.

    """

    initialisations: Count = 2
    training: Training = Training()


class Text(Beginning, Learned):
    """A set of text learned through the training of students: its tokens change, and are tokens after every step.

    All samples are exactly ``sequence_length`` tokens, so that there is no padding in the inner loop, and begin as
    ``sentences`` of the same options are.

    Attributes:
        labels: ``hard`` one-hot and fixed; ``soft`` and ``unrestricted`` as for ``ddal``.
        starts: so many draws (``real``) of which the one with the lowest outer loss is taken.
        relaxation: how tokens, which are discrete, follow a gradient.
        steps: inner steps (T), each on all samples; of step size ``learning_rate`` by ``inner_optimizer``. They stand
            for the recipe of stage 3, which is too long to be differentiated in every outer step: three of Adam rank
            sets of real sentences as its 200 do (four random ones and two of words, SST-2, MiniLM). Its eps keeps the
            first step, which is the sign of the gradient otherwise, differentiable.
        window, draws, dropout, precision, estimator: as for ``ddal``.
        outer: the outer loop; of its step sizes only ``lr`` and ``lr_labels`` have a meaning, and neither for tokens
            that are swapped.
        validation: by training as in stage 3.

    """

    name: Literal["text"]
    revision: int = 3
    labels: Literal["hard", "soft", "unrestricted"] = "hard"
    starts: Count = 1
    relaxation: Relaxation = Swaps(name="swaps")
    steps: Count = 3
    inner_optimizer: InnerOptimizer = AdamSteps(name="adam", eps=1e-5)
    learning_rate: Positive = 5e-4
    window: Count | None = None
    draws: Count = 2
    dropout: bool = False
    outer: Outer = Outer(steps=20, batch_size=128, max_grad_norm=None)
    validation: TextValidation = TextValidation()
    precision: Precision = "fp32"
    estimator: Literal["auto", "unroll", "adjoint", "fused"] = runtime("auto")

    @model_validator(mode="after")
    def _check(self) -> Text:
        check_window(self.window, self.steps)
        unread = [name for name in ("lr_attention", "lr_learning_rates") if getattr(self.outer, name) is not None]
        if unread:
            raise ValueError(f"outer.{unread[0]}: a set of text has no such tensors to learn; remove it")
        if self.starts > 1 and self.initialise != "real":
            raise ValueError(
                f"starts: {self.starts} are drawn for initialise: real; {self.initialise} are one start, remove it"
            )
        return self

    @property
    def asks_language_model(self) -> bool:
        """What is fluent."""
        relaxation = self.relaxation
        if isinstance(relaxation, ADMM):
            return relaxation.top_k is not None
        return isinstance(relaxation, Swaps) and relaxation.fluency > 0

    @property
    def parents(self) -> Parents | None:  # type: ignore[override]
        """A language model of the task, where one is asked."""
        return Parents(GENERATORS, "that says what is fluent") if self.asks_language_model else None

    @property
    def checked_as(self) -> str:
        """One check for all cells of an encoder."""
        return "gradient_check.text.json"

    def planned_steps(self, rows: int) -> int:
        """Of the outer loop."""
        return self.outer.planned_steps(rows)

    @property
    def outer_precision(self) -> str:
        """Autocast on real text."""
        return self.outer.precision or on_real_text(self.precision)

    @property
    def slug(self) -> str:
        """Readable part of the address."""
        return f"text-{self.relaxation.name}.{self.shots}shot.{self.sequence_length}tokens"
