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
from pipeline.report.words.vectors import bptt_name, network_words


def recipe(distilled: DistilledSet, config: Distill) -> list[str]:
    """Sentences: how a student learns from the set, and how the set was made, with all that it goes back to."""
    return [*_learning(distilled, config), *_making(distilled, config), *map(_started, config.chain[1:])]


def _learning(distilled: DistilledSet, config: Distill) -> list[str]:
    """How a student learns from the set: by steps of its own, or by a recipe that its scores name."""
    learning = distilled.recipe
    if distilled.learning_rates is None or distilled.batch_order is None:
        return [f"A student learns from it by the recipe `{learning.name}`; see the scores' last column."]
    given, s = learning.inner_optimizer, "" if distilled.steps == 1 else "s"
    name = "plain gradient descent on all parameters"
    if isinstance(given, MomentumSteps):
        name = f"{'Nesterov' if given.nesterov else 'heavy-ball'} momentum {given.momentum:g}"
    elif isinstance(given, AdamSteps):
        name = f"Adam, betas {given.betas[0]:g} and {given.betas[1]:g}, eps {given.eps:g}"
    sizes = ", ".join(f"{rate:.4g}" for rate in distilled.learning_rates.tolist())
    has_attention = distilled.attention_labels is not None
    learned = "learned " if any(isinstance(one.method, DDAL | Imported) for one in config.chain) else ""
    attention = f"; weight of the attention loss {learning.attention_weight:g}" if has_attention else ""
    return [
        f"A student takes {distilled.steps} step{s} of {name}, on {_sizes(distilled)} samples each ({learning.order} "
        f"order), with the {learned}step size{s} {sizes}.",
        f"Precision {learning.precision}; dropout {'on' if learning.dropout else 'off'}{attention}. All of it is in "
        f"the file's attribute `recipe`, and `fine_tune` does it.",
    ]


def _making(distilled: DistilledSet, config: Distill) -> list[str]:
    """How the set was made."""
    method = config.method
    if isinstance(method, DDAL):
        return [_ddal(method)]
    if isinstance(method, BPTT):
        return [_bptt(method)]
    if isinstance(method, Generated):
        return [writer(config), _written(distilled)]
    if isinstance(method, Text):
        return [_text(method), *learned_for(config)]
    if isinstance(method, Composed):
        return [composition(method, distilled)]
    if isinstance(method, Sentences):
        return [
            f"What learned text begins as, with nothing learned: {STARTS[method.initialise]}; "
            f"{method.sequence_length} tokens per sample, hard labels."
        ]
    if isinstance(method, Imported):
        return ["Published by others; `about` names the file. How it was made and selected is for them to say."]
    if isinstance(method, Project):
        return [
            f"The tokens nearest ({method.measure}) to the input embeddings of a set that was distilled before, with "
            f"its labels; `about` has its config, the distances, and how many tokens text keeps."
        ]
    return [f"{'Chosen' if method.of_rows else 'Made'} by `{method.name}`: {_rule(config)}"]


def _ddal(method: DDAL) -> str:
    outer = method.outer
    amount = f"{outer.steps} outer steps" if outer.steps else f"{outer.epochs} epochs"
    start = "real training samples" if method.initialise == "real" else "N(0, 1)"
    return (
        f"Distilled by DDAL (Maekawa et al., ACL 2023): {amount} of {outer.optimizer} on real batches of "
        f"{outer.batch_size}, step size {outer.lr:g} ({outer.scheduler}, warm-up {outer.warmup_ratio:g}); "
        f"embeddings started from {start}, step sizes from {method.learning_rate:g}; {LABELS[method.labels]}: "
        f"{method.labels} labels; attention labels: {method.attention_labels}."
    )


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
    outer = method.outer
    stages = f", in stages of {', '.join(map(str, method.stages))} per class" if method.boost else ""
    return (
        f"Distilled by {bptt_name(method)} (Feng, Vedantam and Kempe, ICLR 2024) for the student "
        f"{network_words(method.student)}{stages}: {outer.steps} outer steps of {outer.optimizer} "
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
