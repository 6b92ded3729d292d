"""The outer loop of every method that learns a set: steps, validations and saves, until the last step or a signal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor

from pipeline import stopping
from pipeline.config import Validation
from pipeline.errors import InputError, StageError
from pipeline.methods.checkpoint import Checkpoint
from pipeline.parallel import Ranks
from pipeline.progress import bar


@dataclass
class Best:
    """The best state so far; without validation, the last one. ``score`` is what was compared, lower is better."""

    step: int
    score: float
    loss: float | None
    accuracy: float | None
    tensors: dict[str, Tensor]

    def describe(self, validation: Validation) -> dict[str, Any]:
        """How this state was chosen; plain JSON values."""
        facts = {"split": validation.split, "step": self.step}
        if validation.split == "none":
            return facts
        return facts | {
            "by": validation.by,
            validation.by: self.score if validation.lower_is_better else -self.score,
            "loss": self.loss,
            "accuracy": self.accuracy,
            "initialisations": validation.initialisations,
            "examples": validation.examples,
        }


def check_selected(run: Run, validation: Validation, manifest: dict[str, Any], advice: str) -> None:
    """Refuses to end with a state that nothing selected, and says so where it teaches next to nothing.

    Raises:
        StageError: no validation had a finite loss; ``advice`` says what to try.

    """
    split, accuracy = validation.split, run.best.accuracy
    if split == "none":
        return
    if math.isinf(run.best.score):
        raise StageError(f"no validation had a finite loss, so there is nothing to select; try {advice}")
    if accuracy is None or validation.by not in ("loss", "accuracy"):
        return  # a set that is to be right on every class alike may well be right on fewer rows
    rows = min(manifest["sizes"][split], validation.examples or math.inf)
    largest = max(manifest["class_counts"][split]) / manifest["sizes"][split]
    if accuracy <= largest + 2 * math.sqrt(largest * (1 - largest) / rows):
        run.ranks.say(
            f"note: students of the set are right on {accuracy:.1%} of {split}, whose largest class has {largest:.1%}: "
            f"they learn next to nothing from it; try more outer.steps, another outer.lr, another seed"
        )


def check_validation(validation: Validation, manifest: dict[str, Any]) -> None:
    """Refuses to score fewer rows than there are classes.

    Raises:
        InputError: dev, or the part of it that is scored, is too small.

    """
    split, rows = validation.split, validation.examples
    scored = math.inf if split == "none" else min(manifest["sizes"][split], rows or math.inf)
    if scored < len(manifest["classes"]):
        raise InputError(
            f"validation on {scored} {split} rows for {len(manifest['classes'])} classes; "
            f"give more rows (prepare.dev, validation.examples)"
        )


class Run(Protocol):
    """What outer steps change: all that a resumed run needs.

    Attributes:
        step: outer steps that are taken.
        steps: of all of them.
        epoch_steps: of one pass over the training split.
        best: the best state so far.
        ranks: the processes that work on it.

    """

    step: int
    steps: int
    epoch_steps: int
    best: Best
    ranks: Ranks

    @property
    def validates(self) -> bool:
        """Whether the set is scored after the step that was just taken."""
        ...

    @property
    def learning_rate(self) -> float:
        """Mean step size of the inner loop, for the log."""
        ...

    def advance(self) -> tuple[float, float]:
        """One outer step: the outer loss and the length of the gradient before clipping.

        Raises:
            FloatingPointError: one of them is not finite; nothing was changed.

        """
        ...

    def state(self) -> dict[str, Any]:
        """Everything that decides what comes next."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Puts a saved state back."""
        ...

    def conditions(self) -> dict[str, Any]:
        """What changes the rounding and nothing else."""
        ...


R = TypeVar("R", bound=Run)


def loop(run: R, validate: Callable[[R], dict[str, float]], checkpoint: Checkpoint, *, advice: str) -> None:
    """Goes on from the checkpoint to the last step; saves at once where a signal asks to stop.

    Args:
        run: at its first step.
        validate: what the log says of the current set's scores; replaces ``run.best`` where they are better.
        checkpoint: of the cell.
        advice: what to try where the loss is not finite.

    Raises:
        StageError: the outer loss is no longer finite; the last good state is saved.
        Stopped: a signal came; the state after the outer step of that moment is saved.

    """
    row = _resumed(run, checkpoint)
    with stopping.polled(), bar(run.steps, "distill", "step", run.step, shown=run.ranks.first) as shown:
        try:
            while run.step < run.steps or row:
                began = time.perf_counter()
                leave_if_asked(run.ranks)
                row = row or _advance(run, checkpoint, advice)
                if run.validates:
                    shown.set_postfix_str("scoring", refresh=False)
                    shown.update(run.step - shown.n)
                    row |= validate(run)
                facts = {"loss": row["loss"]} | ({} if run.best.accuracy is None else {"accuracy": run.best.accuracy})
                shown.set_postfix({name: f"{value:.3f}" for name, value in facts.items()}, refresh=False)
                shown.update(run.step - shown.n)
                checkpoint.log(
                    **row, learning_rate=run.learning_rate, seconds=round(time.perf_counter() - began, 4)
                )  # fmt: skip
                row = {}
                if checkpoint.due() or run.step == run.steps:
                    checkpoint.save(run.state())
        except stopping.Stopped:
            checkpoint.save(run.state() | {"row": row})
            raise


def leave_if_asked(ranks: Ranks) -> None:
    """Raises where a signal came.

    Raises:
        Stopped: with its name.

    """
    if ranks.asked is not None:
        raise stopping.Stopped(ranks.asked)


def _resumed(run: Run, checkpoint: Checkpoint) -> dict[str, Any]:
    """Puts the saved state back; what the log says of a step that is taken but not validated."""
    saved = run.ranks.share(checkpoint.load())
    if saved is None:
        return {}
    run.restore(saved)
    for name, value in run.conditions().items():
        if saved.get(name, value) != value:
            run.ranks.say(f"resumed with {name} {value} instead of {saved[name]}: not bit-equal to an unbroken run")
    row: dict[str, Any] = saved.get("row", {})
    return row


def _advance(run: Run, checkpoint: Checkpoint, advice: str) -> dict[str, Any]:
    """One outer step; what the log says of it."""
    try:
        loss, norm = run.advance()
    except FloatingPointError as error:
        checkpoint.save(run.state())
        raise StageError(f"step {run.step + 1}: {error}; the state before it is saved. Try {advice}") from error
    return {"step": run.step, "epoch": (run.step - 1) // run.epoch_steps, "loss": loss, "gradient_norm": norm}
