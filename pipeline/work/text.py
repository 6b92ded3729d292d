"""FLOPs of distilling text: hypergradients as for ddal, proposals that are tried, trainings as in stage 3."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import ADMM, Distill, Swaps, Text
from pipeline.store import Store
from pipeline.students import flops
from pipeline.students.flops import Lengths, Sizes, Way


def others_of(config: Distill, folder: Path) -> list[Path]:
    """What stage 1 made for the other encoders of a cell; ``folder`` is the first one's, of that store."""
    return [Store.of(folder).cell(one).folder for one in config.others]


def beside(method: Text, way: Way) -> Way:
    """How another encoder's hypergradient is computed where the first one's would be ``way``: never with all steps."""
    return "adjoint" if method.estimator == "auto" and way == "unroll" else way


def of_text(
    method: Text, sizes: Sizes, way: Way, read: Lengths, steps: int, validations: int, *, fused: bool
) -> dict[str, float]:
    """Outer loop and trainings of its validations, by part.

    Args:
        method: of the cell.
        sizes: of the encoder.
        way: how the hypergradient is computed.
        read: tokens of every real row of all outer steps.
        steps: outer steps.
        validations: how often the set is scored.
        fused: whether the encoder has hand-derived passes.

    """
    samples, relaxation = sizes.classes * method.shots, method.relaxation
    one = flops.hypergradient(
        sizes, samples, method.sequence_length, method.steps, way, window=method.window, rows=False
    )
    lengths = [method.sequence_length] * samples
    tried = relaxation.tokens + relaxation.sentences if isinstance(relaxation, Swaps) else 0
    once = method.steps * flops.training(sizes, lengths, fused=fused)
    trials = method.draws * tried * (steps * once + flops.forward(sizes, read, fused=fused))
    starts = (method.starts if method.starts > 1 else 0) * method.draws * once
    outer = method.draws * (steps * one + flops.training(sizes, read, fused=way == "fused"))
    times = validations * method.validation.initialisations
    recipe = method.validation.training
    share = min(recipe.batch_size, samples) / samples
    step = flops.training(sizes, lengths, fused=fused and not recipe.dropout)
    training = times * recipe.steps_on(samples) * share * step
    return {"outer": outer + trials + starts, "training": training}


def asked(method: Text, classes: int, steps: int) -> int:
    """Tokens that a language model reads where it is asked, about as many of its own as of the encoder.

    Every proposal and the tokens of now; or, at every projection, what stands before each position.
    """
    samples, length, relaxation = classes * method.shots, method.sequence_length, method.relaxation
    if isinstance(relaxation, ADMM):
        return steps // relaxation.every * samples * length * (length - 1) // 2
    assert isinstance(relaxation, Swaps)
    return steps * (relaxation.tokens + relaxation.sentences + 1) * samples * length
