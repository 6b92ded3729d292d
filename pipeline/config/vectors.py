"""Stage 2 on frozen sentence vectors: back-propagation through (a window of) the training of a small student.

"Embarrassingly Simple Dataset Distillation" (Feng, Vedantam, Kempe, ICLR 2024): RaT-BPTT and Boost-DD.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.config.imbalance import CrossEntropy, RealLoss, Sampling, check_sampling
from pipeline.config.loops import AdamSteps, InnerOptimizer, Learned, Validation, check_window
from pipeline.config.schema import Count, Frozen, Positive, Share, runtime
from pipeline.config.students import Mlp, VectorStudentConfig


class MovingClip(Frozen):
    """Hypergradients longer than ``factor`` times the moving average of their lengths are cut to that.

    Attributes:
        coefficient: of the average: so much of the old one stays; it starts at the first length.

    """

    coefficient: Share = 0.9
    factor: Positive = 2.0


class HardMining(Frozen):
    """A part of every real batch is drawn by how badly a student of the current set does on the rows.

    Attributes:
        share: of the batch; its rows are drawn in proportion to their loss, the others as ever.
        every: outer steps after which all training rows are scored anew, by one fresh student.

    """

    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    every: Count = 50


class VectorOuter(Frozen):
    """The outer loop: how the set itself is optimised on real vectors.

    Attributes:
        steps: outer steps; with ``boost`` of each stage.
        batch_size: real rows per outer step.
        sampling, loss: as for ``ddal``: what is done about classes of unequal size.
        lr: step size of the vectors.
        lr_labels: of learned labels; ``null`` takes ``lr``.
        lr_learning_rate: of the learned inner step size (its logarithm, roughly); ``null`` takes ``lr``.
        clip: ``null`` does not clip.
        hard_mining: ``null`` draws all rows as ``sampling`` says.

    """

    steps: Count = 500
    batch_size: Count = 1024
    sampling: Sampling = "shuffled"
    loss: RealLoss = CrossEntropy(name="cross_entropy")
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: Positive = 1e-2
    lr_labels: Positive | None = None
    lr_learning_rate: Positive | None = None
    scheduler: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: Share = 0.0
    clip: MovingClip | None = MovingClip()
    hard_mining: HardMining | None = None

    @model_validator(mode="after")
    def _check(self) -> VectorOuter:
        check_sampling(self.sampling, self.loss)
        return self


class VectorValidation(Validation):
    """Checkpoint selection; all students of a validation train at once.

    Attributes:
        every: outer steps between two; by default a twentieth of ``outer.steps``.
        initialisations: as for ``ddal``.
        steps: inner steps of those students; ``null`` takes the method's T. Longer than T favours sets that hold when
            students are trained to convergence.

    """

    initialisations: Count = 4
    steps: Count | None = None


class Augment(Frozen):
    """What is done to a batch of synthetic vectors in the inner loop, drawn anew at every step.

    Attributes:
        noise: standard deviation of what is added to every entry.
        mixup: α: rows and labels are mixed with another row's by λ ~ Beta(α, α); 0 is without.

    """

    noise: Annotated[float, Field(ge=0)] = 0.0
    mixup: Annotated[float, Field(ge=0)] = 0.0


class Boost(Frozen):
    """Boost-DD: the set grows in stages, so that each of its prefixes is a set of its own.

    Attributes:
        stages: samples per class at the end of each stage, the last one ``shots``. A stage begins with the samples
            that the one before it selected.
        beta: what older samples keep of the step that the outer optimiser makes: 0 freezes them, 1 is no boosting. It
            has no default: the published 0.3 leaves the prefixes of the final set of no use. On AG News one sample
            per class trains an MLP to 88 % of dev with 0 and to 30 % with 0.3 (``configs/vectors_boost.yaml``).

    """

    stages: Annotated[tuple[Count, ...], Field(min_length=2)]
    beta: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _check(self) -> Boost:
        if list(self.stages) != sorted(set(self.stages)):
            raise ValueError(f"stages: {list(self.stages)} do not grow; give them in order, each once")
        return self


class BPTT(Learned):
    """Vectors learned by back-propagation through the training of a student: Full-BPTT, T-BPTT, RaT-BPTT, Boost-DD.

    An outer step draws fresh students, trains them for N steps without a graph and for ``window`` steps with one,
    measures their cross-entropy on a real batch at step N + ``window`` and moves the set against its gradient.

    Attributes:
        student: what is trained; its dropout is on in the inner loop and off on real vectors.
        labels: ``hard`` one-hot and fixed; ``soft`` softmax of learned logits that start at ``soft_start`` times
            one-hot; ``unrestricted`` learned reals that start at one-hot. Students that train on and on never end with
            hard labels, which push logits apart for ever, nor with negative ones, whose loss has no floor; with soft
            ones they come to rest.
        soft_start: 1 starts nearly uniform, as ``ddal`` does; larger ones start near hard labels.
        initialise: vectors from training rows drawn at random (``real``), from the centroids of k-means on each class
            (``centres``; of one sample the class mean), or from N(0, 1) as published (``noise``).
        steps: T, the horizon.
        window: W, how many steps are differentiated; ``null`` for all T.
        start: N of a window: ``random`` uniform in [``min_start``, T − W], drawn per outer step (RaT-BPTT); ``end``
            always T − W (T-BPTT); ``forward`` from ``min_start``, W further whenever ``patience`` validations have not
            improved.
        patience: of ``forward``.
        batch_shots: samples per class in an inner step, drawn per step without replacement; ``null`` takes all, as do
            stages of ``boost`` that have no more.
        classes_per_batch: classes in an inner step, drawn per step; ``null`` takes all.
        inner_optimizer: of the student.
        learning_rate: its step size.
        learn_learning_rate: it is learned with the set, where students will be trained by it.
        draws: fresh students per outer step, trained at once, over which the hypergradient is averaged.
        nonnegative_labels: unrestricted labels are cut at 0 after every outer step.
        unit_norm: vectors are scaled to length 1 at the ``start`` or after ``every_step``.
        augment: of synthetic vectors.
        boost: in stages.
        estimator: how the hypergradient is computed; no part of a set's identity.

    """

    name: Literal["bptt"]
    student: VectorStudentConfig = Mlp(name="mlp")
    labels: Literal["hard", "soft", "unrestricted"] = "hard"
    soft_start: Positive = 3.0
    initialise: Literal["real", "centres", "noise"] = "real"
    steps: Count = 40
    window: Count | None = None
    start: Literal["random", "end", "forward"] = "random"
    min_start: Annotated[int, Field(ge=0)] = 0
    patience: Count = 3
    batch_shots: Count | None = None
    classes_per_batch: Count | None = None
    inner_optimizer: InnerOptimizer = AdamSteps(name="adam")
    learning_rate: Positive = 1e-3
    learn_learning_rate: bool = False
    draws: Count = 1
    nonnegative_labels: bool = False
    unit_norm: Literal["start", "every_step"] | None = None
    augment: Augment = Augment()
    boost: Boost | None = None
    outer: VectorOuter = VectorOuter()
    validation: VectorValidation = VectorValidation()
    estimator: Literal["auto", "unroll", "adjoint", "fused"] = runtime("auto")
    makes: ClassVar[Literal["vectors"]] = "vectors"

    @model_validator(mode="after")
    def _check(self) -> BPTT:
        check_window(self.window, self.steps)
        if self.min_start > self.steps - self.differentiated:
            raise ValueError(
                f"min_start: {self.min_start} leaves no room for the {self.differentiated} differentiated of "
                f"{self.steps} steps; give at most {self.steps - self.differentiated}"
            )
        if self.batch_shots is not None and self.batch_shots > self.shots:
            raise ValueError(
                f"batch_shots: {self.batch_shots} samples per class are not there; leave it out to use all"
            )
        if self.boost is not None and self.boost.stages[-1] != self.shots:
            raise ValueError(
                f"boost.stages end at {self.boost.stages[-1]} and shots is {self.shots}; make them the same"
            )
        if self.nonnegative_labels and self.labels != "unrestricted":
            raise ValueError(f"nonnegative_labels is for labels: unrestricted; remove it with labels: {self.labels}")
        return self

    @property
    def differentiated(self) -> int:
        """W, or T where there is no window."""
        return self.window or self.steps

    @property
    def mean_start(self) -> float:
        """Inner steps before the window, on average."""
        last = self.steps - self.differentiated
        return last if self.start == "end" else (self.min_start + last) / 2

    @property
    def every(self) -> int:
        """Outer steps between two validations."""
        return self.validation.every or max(1, self.outer.steps // 20)

    @property
    def stages(self) -> tuple[int, ...]:
        """Samples per class at the end of each stage; one stage without boosting."""
        return (self.shots,) if self.boost is None else self.boost.stages

    @property
    def checked_as(self) -> str:
        """One check for all cells of a student."""
        return f"gradient_check.{self.student.name}.json"

    def planned_steps(self, rows: int) -> int:
        """Of the outer loops of all stages."""
        return self.outer.steps * len(self.stages)

    @property
    def slug(self) -> str:
        """Readable part of the address."""
        window = "" if self.window is None else f".w{self.window}"
        boost = "" if self.boost is None else ".boost"
        return f"bptt-{self.student.name}-{self.labels}.{self.shots}shot.{self.steps}step{window}{boost}"
