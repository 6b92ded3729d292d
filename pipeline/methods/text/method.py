"""Text distilled through the training of students: ids are what is learned.

One step of the outer loop (:mod:`~pipeline.methods.text.run`) is that of ddal: draw a fresh classifier, train the
student T steps on the set, measure its cross-entropy on a real batch, and differentiate that through the T steps. What
follows is another: the set is text after every step, and is selected as text, by training as stage 3 does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.config import ADMM, Distill, Mixture, Text, TextValidation
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet
from pipeline.errors import InputError
from pipeline.methods.checkpoint import Checkpoint
from pipeline.methods.ddal import ADVICE, SCORES, Validator, load_student
from pipeline.methods.dilm.generator import Generator
from pipeline.methods.imbalance import check_classes
from pipeline.methods.learned import LearnedSet
from pipeline.methods.loop import check_selected, check_validation, loop
from pipeline.methods.outer import Estimation, OuterState
from pipeline.methods.text.admm import LearnedADMM
from pipeline.methods.text.ensemble import Companion
from pipeline.methods.text.fluency import Fluency
from pipeline.methods.text.mixture import LearnedMixture
from pipeline.methods.text.run import TextState
from pipeline.methods.text.set import LearnedText, Vocabulary
from pipeline.methods.text.start import candidates, check_length, starts
from pipeline.parallel import Ranks
from pipeline.students.device import pick_device
from pipeline.students.encoder import Parameters, Student
from pipeline.students.finetune import finetune
from pipeline.students.vocabulary import frame, read_back


def check(method: Text, manifest: dict[str, Any]) -> None:
    """Refuses what this encoder or this task cannot do, before anything is computed.

    Raises:
        InputError: the sequence is longer than the encoder's usable positions, the classifier does not read the first
            token, dev has fewer rows than classes, or see :func:`~pipeline.methods.imbalance.check_classes`.

    """
    check_classes(method, manifest)
    check_length(method, manifest)
    if not manifest["reads_first_token"]:
        raise InputError(
            f"{manifest['architecture']} does not classify by its first token, so it cannot be a student of text; "
            f"give an encoder such as BERT"
        )
    check_validation(method.validation, manifest)


def distill(
    config: Distill, prepared: Prepared, out: Path, parent: Path | None = None, others: Sequence[Prepared] = ()
) -> DistilledSet:
    """Learns the set; continues where a killed run left off, bit-equal on the same CPU and thread count.

    Args:
        config: stage 2's config with a ``text`` method.
        prepared: stage 1's output.
        out: the cell's folder; ``progress.pt`` and ``log.csv`` are written there.
        parent: the folder of the cell whose language model is asked what is fluent.
        others: what stage 1 made for the encoders of ``config.others``, whose students learn beside the first one's.

    Returns:
        The selected set of token ids; ``about["selection"]`` says how and with what score, ``about["text"]`` how many
        of its tokens come back when it is written and read again.

    Raises:
        InputError: see :func:`check`.
        StageError: the outer loss is no longer finite; the last good state is saved.
        Stopped: a signal came; the state after the outer step of that moment is saved.

    """
    method = config.method
    assert isinstance(method, Text)
    check(method, prepared.manifest)
    generator = None
    if parent is not None:
        generator = Generator.load(parent / "generator", len(prepared.classes), pick_device(config.runtime))
    run = begun(config, method, prepared, generator, others)
    run.ranks.say(f"hypergradient by {run.estimator.name}: {run.estimator.why}")
    for one in run.others:
        run.ranks.say(f"{one.name}: hypergradient by {one.estimation.name}: {one.estimation.why}")
    validate = _TextValidator(method, prepared, run.student, config.seed, run.ranks, run.others, config.encoders[0])
    checkpoint = Checkpoint(out, config.runtime.save_seconds, more=validate.columns)
    loop(run, validate, checkpoint, advice=ADVICE)
    check_selected(run, method.validation, prepared.manifest, ADVICE)
    run.learned.restore(run.best.tensors)
    encoders = {"encoders": list(config.encoders)} if others else {}
    about = {"selection": run.best.describe(method.validation) | encoders}
    return run.learned.text(about | {"text": read_back(prepared.tokenizer, run.learned.token_ids.tolist())})


def begun(
    config: Distill,
    method: Text,
    prepared: Prepared,
    generator: Generator | None = None,
    others: Sequence[Prepared] = (),
) -> TextState:
    """The state before the first outer step.

    Args:
        config: of the cell.
        method: its method.
        prepared: stage 1's output.
        generator: the language model that is asked, if one is.
        others: what stage 1 made for other encoders.

    Raises:
        InputError: a class has too few sentences of this length, this encoder's pairs cannot be learned, or another
            encoder cannot learn beside it.

    """
    beside = [
        _companion(name, config, method, prepared, one) for name, one in zip(config.encoders[1:], others, strict=True)
    ]
    student = load_student(method, prepared, pick_device(config.runtime))
    texts = len(config.source.task.text)
    marks, vocabulary = frame(prepared.tokenizer, texts), Vocabulary.of(method, prepared, student, texts)
    pools = candidates(method, prepared, vocabulary, marks, config.seed)
    first = starts(method, prepared, pools, vocabulary, marks, student, config.seed, method.starts)
    C, fluency = len(prepared.classes), None
    if generator is not None:
        fluency = Fluency(generator, prepared.tokenizer, vocabulary, marks, C)
    learned = _learned(method, C, first[0], vocabulary, fluency)
    estimator = Estimation.of(method, config.runtime, student)
    train = prepared.split("train")
    return TextState(method, learned, first, pools, student, train, config.seed, estimator, fluency, beside)


def _companion(name: str, config: Distill, method: Text, prepared: Prepared, other: Prepared) -> Companion:
    try:
        check(method, other.manifest)
    except InputError as error:
        raise InputError(f"distill.others, {name}: {error}") from None
    return Companion.load(name, method, prepared, other, config.runtime)


def _learned(
    method: Text, classes: int, token_ids: Tensor, vocabulary: Vocabulary, fluency: Fluency | None
) -> LearnedText:
    """What the relaxation learns."""
    if isinstance(method.relaxation, ADMM):
        return LearnedADMM(method, classes, token_ids, vocabulary, fluency)
    kind = LearnedMixture if isinstance(method.relaxation, Mixture) else LearnedText
    return kind(method, classes, token_ids, vocabulary)


def _as_in_stage_3(method: Text, prepared: Prepared, student: Student) -> Student:
    """The student for the recipe of validation; another one where the inner loop's has dropout or half precision."""
    training = method.validation.training
    precision = "tf32" if method.precision == "tf32" else "fp32"  # the recipe's own bf16 is autocast of the whole
    if (method.dropout, method.precision) == (training.dropout, precision):
        return student
    return Student.load(
        prepared.model_folder,
        prepared.manifest["fresh_parameters"],
        student.device,
        dropout=training.dropout,
        precision=precision,
        outer_precision=method.outer_precision,
    )


class _TextValidator(Validator):
    """Scores the text by the recipe of stage 3, not by the inner loop that stands for it.

    With students of several encoders a score is the mean over encoders; the log has that of each, too.
    """

    config: TextValidation

    def __init__(
        self,
        method: Text,
        prepared: Prepared,
        student: Student,
        seed: int,
        ranks: Ranks,
        others: Sequence[Companion] = (),
        name: str = "",
    ) -> None:
        super().__init__(method.validation, prepared, _as_in_stage_3(method, prepared, student), seed, ranks)
        self.name = name
        self.others = [(one, _TextValidator(method, one.prepared, one.student, seed, ranks)) for one in others]

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the log, besides the usual ones."""
        names = [self.name, *(one.name for one, _ in self.others)] if self.others else []
        return tuple(f"{score}@{name}" for name in names for score in SCORES)

    def scored(self, distilled: DistilledSet) -> dict[str, float]:
        """See :class:`~pipeline.methods.ddal.Validator`; the mean over encoders, and those of each of several."""
        own = super().scored(distilled)
        if not self.others:
            return own
        each = [own, *(validator.scored(one.read(distilled)) for one, validator in self.others)]
        means = {score: sum(found[score] for found in each) / len(each) for score in SCORES}
        return means | dict(zip(self.columns, (found[score] for found in each for score in SCORES), strict=True))

    def __call__(self, run: OuterState) -> dict[str, float]:
        """See :class:`~pipeline.methods.ddal.Validator`; the first time, what was started from is a candidate, too."""
        assert isinstance(run, TextState)
        if self.config.split != "none" and math.isinf(run.best.score):
            now, run.step = (run.learned.state(), run.step), 0
            run.learned.restore(run.start)
            try:
                super().__call__(run)
            finally:
                run.learned.restore(now[0])
                run.step = now[1]
        return super().__call__(run)

    def made(self, learned: LearnedSet | LearnedText) -> DistilledSet:
        """The set as text."""
        assert isinstance(learned, LearnedText)
        return learned.text().to(self.student.device)

    def trained(self, distilled: DistilledSet, index: int) -> Parameters:
        """θ_T of one student."""
        theta_0, size = self.student.initial(self.seed, index), len(distilled)
        return finetune(self.student, theta_0, size, distilled.examples, self.config.training, self.seed, index)
