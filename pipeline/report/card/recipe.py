"""The section of a card that says how students learn from the set, and how it was made."""

from __future__ import annotations

from pipeline.config import (
    BPTT,
    DDAL,
    AdamSteps,
    Composed,
    Distill,
    FullData,
    Generated,
    Imported,
    Majority,
    MomentumSteps,
    Project,
    RandomReal,
    Sentences,
    Text,
)
from pipeline.distilled import DistilledSet
from pipeline.report.words.cells import LABELS, rule
from pipeline.report.words.composed import composition
from pipeline.report.words.language import writer
from pipeline.report.words.text import STARTS, learned_for
from pipeline.report.words.vectors import bptt_name


def recipe(distilled: DistilledSet, config: Distill) -> list[str]:
    """Sentences: how a student learns from the set, and how the set was made, with all that it goes back to."""
    method, learning = config.method, distilled.recipe
    lines = []
    if distilled.learning_rates is not None and distilled.batch_order is not None:
        sizes = ", ".join(f"{rate:.4g}" for rate in distilled.learning_rates.tolist())
        given = learning.inner_optimizer
        name = "plain gradient descent on all parameters"
        if isinstance(given, MomentumSteps):
            name = f"{'Nesterov' if given.nesterov else 'heavy-ball'} momentum {given.momentum:g}"
        elif isinstance(given, AdamSteps):
            name = f"Adam, betas {given.betas[0]:g} and {given.betas[1]:g}, eps {given.eps:g}"
        lines += [
            f"A student takes {distilled.steps} step{'' if distilled.steps == 1 else 's'} of {name}, on "
            f"{_sizes(distilled)} samples each ({learning.order} order), with the learned step "
            f"size{'' if distilled.steps == 1 else 's'} {sizes}.",
            f"Precision {learning.precision}; dropout {'on' if learning.dropout else 'off'}"
            + (
                f"; weight of the attention loss {learning.attention_weight:g}"
                if distilled.attention_labels is not None
                else ""
            )
            + ". All of it is in the file's attribute `recipe`, and `fine_tune` does it.",
        ]
    else:
        lines.append(f"A student learns from it by the recipe `{learning.name}`; see the scores' last column.")
    if isinstance(method, DDAL):
        outer = method.outer
        amount = f"{outer.steps} outer steps" if outer.steps else f"{outer.epochs} epochs"
        start = "real training samples" if method.initialise == "real" else "N(0, 1)"
        lines.append(
            f"Distilled by DDAL (Maekawa et al., ACL 2023): {amount} of {outer.optimizer} on real batches of "
            f"{outer.batch_size}, step size {outer.lr:g} ({outer.scheduler}, warm-up {outer.warmup_ratio:g}); "
            f"embeddings started from {start}, step sizes from {method.learning_rate:g}; {LABELS[method.labels]}: "
            f"{method.labels} labels; attention labels: {method.attention_labels}."
        )
    elif isinstance(method, BPTT):
        lines.append(_bptt(method))
    elif isinstance(method, Generated):
        lines += [writer(config), _written(distilled)]
    elif isinstance(method, Text):
        lines += [_text(method), *learned_for(config)]
    elif isinstance(method, Sentences):
        lines.append(
            f"What learned text begins as, with nothing learned: {STARTS[method.initialise]}; "
            f"{method.sequence_length} tokens per sample, hard labels."
        )
    elif isinstance(method, Imported):
        lines.append("Published by others; `about` names the file. How it was made and selected is for them to say.")
    elif isinstance(method, Composed):
        lines.append(composition(method, distilled))
    elif isinstance(method, Project):
        lines.append(
            f"The tokens nearest ({method.measure}) to the input embeddings of a set that was distilled before, with "
            f"its labels; `about` has its config, the distances, and how many tokens text keeps."
        )
    else:
        lines.append(f"Chosen by `{method.name}`: {_rule(config)}")
    return [*lines, *map(_started, config.chain[1:])]


def _sizes(distilled: DistilledSet) -> str:
    assert distilled.batch_order is not None
    return " or ".join(map(str, (distilled.batch_order >= 0).sum(dim=1).unique().tolist()))


def _started(parent: Distill) -> str:
    """One cell of the chain that a set goes back to."""
    return (
        f"It goes back to what `{parent.method.name}` made with `{parent.source.model.name}` "
        f"({parent.method.slug}, seed {parent.seed}); its config is in that of the set."
    )


def _text(method: Text) -> str:
    outer, start = method.outer, STARTS[method.initialise]
    return (
        f"Text learned through the training of students, by {method.relaxation.name.replace('_', '-')}, from {start}: "
        f"{outer.steps or f'{outer.epochs} epochs of'} outer steps on real batches of {outer.batch_size}, each through "
        f"{method.steps} inner steps of {method.inner_optimizer.name}, step size {method.learning_rate:g}; "
        f"{method.sequence_length} tokens per sample, {method.labels} labels."
    )


def _bptt(method: BPTT) -> str:
    outer, student = method.outer, method.student
    stages = f", in stages of {', '.join(map(str, method.stages))} per class" if method.boost else ""
    return (
        f"Distilled by {bptt_name(method)} (Feng, Vedantam and Kempe, ICLR 2024) for the student `{student.name}` of "
        f"width {student.width}, dropout {student.dropout:g}{stages}: {outer.steps} outer steps of {outer.optimizer} "
        f"on {outer.batch_size} real vectors, step size {outer.lr:g}; inner steps by {method.inner_optimizer.name}, "
        f"step size {method.learning_rate:g}; vectors started from {method.initialise}; {method.labels} labels."
    )


def _written(distilled: DistilledSet) -> str:
    found = distilled.about["generated"]
    return (
        f"Of what was written, {found['unusable']:,} texts were left out as empty or no pair and "
        f"{found['repeated']:,} as repeated; the generator's loss per token is {found['loss']:.3f} on what was kept "
        f"and {found['loss_of_candidates']:.3f} on all candidates. The texts are in the file's attribute `about`."
    )


def _rule(config: Distill) -> str:
    if isinstance(config.method, Majority):
        return "a row of the most frequent class."
    if isinstance(config.method, RandomReal):
        return "a draw from every class of train."
    if isinstance(config.method, FullData):
        return "all rows of train."
    words = rule(config)
    return "see the method's configuration in the file." if words is None else f"{words}."
