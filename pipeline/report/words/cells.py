"""What a cell is, in a few words: its rule for real sentences, how its set was selected, how students learn from it."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import (
    DDAL,
    EL2N,
    AlwaysMajority,
    ByScores,
    ByVectors,
    ClassWeights,
    Composed,
    Coreset,
    Distill,
    Evaluate,
    FineTune,
    Generated,
    GradientSteps,
    Herding,
    Imported,
    KCentres,
    Learned,
    LogitAdjustment,
    LossRank,
    Method,
    OnVectors,
    Prepare,
    Project,
    Prompting,
    RandomReal,
    Rank,
)
from pipeline.config.protocols import Recipe
from pipeline.report.words.language import kept_state
from pipeline.report.words.prompts import prompt_recipe
from pipeline.report.words.vectors import network_words

REAL = (
    *("random real", "herding", "k-centres", "k-centres (k-means)", "moderate"),
    *("loss rank (lowest)", "loss rank (highest)", "EL2N", "EL2N (lowest)", "rank"),
)

LABELS = {"hard": "HL", "unrestricted": "SL", "soft": "SL (softmax)"}
ATTENTION = {"none": "", "cls": " + AL", "all": " + AL (all)"}
BUDGETS = {"uniform": "", "prior": ", by prior", "sqrt": ", by square root of the prior"}
_OPTIMIZERS = {"sgd": "SGD", "momentum": "SGD with momentum", "adam": "Adam", "adamw": "AdamW"}


def encoder_name(prepare: Prepare) -> str:
    """What tables call the encoder."""
    where, _, rest = prepare.model.name.partition(":")
    model = rest.split("/")[0] if where == "package" else Path(prepare.model.name).name
    return model if prepare.model.pretrained else f"{model} (random weights)"


def real_name(method: RandomReal | Coreset) -> str:
    """What tables call a rule that chooses real sentences; one of ``REAL``."""
    if isinstance(method, RandomReal):
        return "random real"
    if isinstance(method, LossRank):
        return f"loss rank ({method.keep})"
    if isinstance(method, EL2N):
        return "EL2N" if method.keep == "highest" else f"EL2N ({method.keep})"
    if isinstance(method, KCentres):
        return "k-centres" if method.centres == "greedy" else "k-centres (k-means)"
    return method.name


def correction(method: Learned) -> str:
    """What a row's name says of another inner optimiser and of unequal classes; empty for the paper's method.

    Of unequal classes: budget, real batches, outer loss.
    """
    loss = method.outer.loss
    parts = [
        _OPTIMIZERS[method.inner_optimizer.name]
        if isinstance(method, DDAL) and method.inner_optimizer.name != "gd"
        else "",
        BUDGETS[method.division].removeprefix(", "),
        "balanced batches" if method.outer.sampling == "balanced" else "",
        "class weights" if isinstance(loss, ClassWeights) else "",
        f"β = {loss.beta:g}" if isinstance(loss, ClassWeights) and loss.beta is not None else "",
        f"logit adjustment, τ = {loss.tau:g}" if isinstance(loss, LogitAdjustment) else "",
    ]
    words = ", ".join(part for part in parts if part)
    return f" ({words})" if words else ""


def is_on_test(made: Distill) -> bool:
    """Whether a checkpoint was selected on the test split: the set's own, or one of those that it is made of."""
    own = isinstance(made.method, Learned) and made.method.validation.split == "test"
    return own or any(map(is_on_test, made.made_of))


def is_unknown(made: Distill) -> bool:
    """Whether others published the set, or a part of it: what selected it is not known."""
    return any(isinstance(one.method, Imported) for one in made.chain)


def selection(cell: Evaluate) -> str:
    """How the distilled set's checkpoint, or the epoch of a training on it, was selected."""
    made, protocol = cell.source, cell.protocol
    if isinstance(made.method, Composed):
        ways_of_parts = [selection(cell.model_copy(update={"source": one, "data": None})) for one in made.made_of]
        return "; ".join(dict.fromkeys(ways_of_parts))
    if isinstance(made.method, Project):
        assert made.parent is not None
        made = made.parent
    method = made.method
    ways = []
    if isinstance(method, Imported):
        ways.append("not known (published by others)")
    if isinstance(method, Generated):
        ways.append(f"generator: {kept_state(cell.source)}")
    if isinstance(method, Learned):
        where, by = method.validation.split, method.validation.by.replace("_", " ")
        way = {"none": "last step", "test": f"TEST {by} (as published)", "dev": f"dev {by}"}[where]
        encoders = f", mean over {len(made.encoders)} encoders" if made.others and where != "none" else ""
        ways.append(way + encoders)
    if isinstance(protocol, FineTune) and protocol.select is not None:
        ways.append(f"epoch by {protocol.select.split} {protocol.select.by}")
    if isinstance(protocol, OnVectors) and protocol.select is not None:
        ways.append(f"moment of training by {protocol.select.split} {protocol.select.by}")
    return ", ".join(ways) or "none"


def recipe(cell: Evaluate) -> str:
    """How a student learns from the set: the protocol's name, its revision and what it does, in a few words."""
    protocol = cell.recipe
    if isinstance(protocol, OnVectors):
        named = cell.protocol
        return f"{named.name} (revision {named.revision}: {_on_vectors(protocol, cell)})"
    if isinstance(protocol, Prompting):
        return f"{cell.protocol.name} (revision {cell.protocol.revision}: {prompt_recipe(cell)})"
    return f"{protocol.name} (revision {protocol.revision}: {_what_it_does(protocol, cell.source.method)})"


def _on_vectors(recipe: OnVectors, cell: Evaluate) -> str:
    samples = "all samples" if recipe.batch_size is None else f"{recipe.batch_size} at most"
    assert cell.student is not None
    text = network_words(cell.student)
    text += f"; {_OPTIMIZERS[recipe.optimizer]}, step size {recipe.lr:g}, batches of {samples}, {recipe.amount}"
    chosen = recipe.select
    return text if chosen is None else f"{text}, the best moment by {chosen.split} {chosen.by} is kept"


def _what_it_does(protocol: Recipe, method: Method) -> str:
    if isinstance(protocol, FineTune):
        text = f"{_OPTIMIZERS[protocol.optimizer]}, step size {protocol.lr:g}"
        text += f", batch {protocol.batch_size} at most, {protocol.amount}"
        text += ", in bf16" if protocol.precision == "bf16" else ""
        phases = max(part.phase for part in method.parts) if isinstance(method, Composed) else 1
        text += f" in each of {phases} phases" if phases > 1 else ""
        chosen = protocol.select
        return text if chosen is None else f"{text}, the best by {chosen.split} {chosen.by} is kept"
    if isinstance(protocol, GradientSteps):
        sizes = protocol.step_sizes or ()
        if isinstance(method, Imported):
            return "gradient steps as published"
        if isinstance(method, Composed):
            return "the gradient steps of its parts, those of a phase as one"
        if sizes:
            given = ", ".join(f"{size:g}" for size in dict.fromkeys(sizes))
            return f"{_gradient_steps(len(sizes))} of size {given} on all samples"
        if isinstance(method, DDAL):
            return f"{_gradient_steps(method.steps)} with learned step sizes"
        return "the gradient steps that the set gives"
    if isinstance(protocol, AlwaysMajority):
        return "nothing is trained"
    options = protocol.model_dump(exclude={"name", "revision"})
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in options.items())


def _gradient_steps(count: int) -> str:
    return f"{count} gradient step{'' if count == 1 else 's'}"


def rule(made: Distill) -> str | None:
    """What a coreset was chosen by, in a few words; None for everything else."""
    method = made.method
    if isinstance(method, ByVectors):
        encoder = "the frozen encoder" if method.training is None else f"the encoder after {method.training.amount}"
        text = f"{'first-token' if method.pooling == 'first' else 'mean-token'} vectors of {encoder}"
        text += ", the row nearest to the mean of its class" if _is_nearest_to_mean(method) else ""
    elif isinstance(method, ByScores):
        students = "1 student" if method.trainings == 1 else f"{method.trainings} students"
        text = f"{students} trained for {method.training.amount} on the training split"
    elif isinstance(method, Rank):
        assert made.parent is not None
        text = f"the loss of the language model by {made.parent.method.name}"
    else:
        return None
    text += f", among {method.candidates:,} rows" if method.candidates is not None else ""
    return text if method.is_drawn else f"{text} (the same for every seed)"


def _is_nearest_to_mean(method: ByVectors) -> bool:
    """With one sample per class herding and k-centres choose the same row."""
    alone = method.shots == 1 and method.budget == "uniform"
    return alone and (isinstance(method, Herding) or (isinstance(method, KCentres) and method.start == "mean"))
