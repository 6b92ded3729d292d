"""Options for unequal classes in a YAML file: shorthands, and what is refused with which words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import DDAL, ClassWeights, CrossEntropy, LogitAdjustment, Outer, RealLoss, load
from pipeline.errors import InputError

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("cross_entropy", CrossEntropy(name="cross_entropy")),
        ("class_weights", ClassWeights(name="class_weights")),
        ({"name": "class_weights", "beta": 0.99}, ClassWeights(name="class_weights", beta=0.99)),
        ("logit_adjustment", LogitAdjustment(name="logit_adjustment", tau=1.0)),
        ({"name": "logit_adjustment", "tau": 0.5}, LogitAdjustment(name="logit_adjustment", tau=0.5)),
    ],
)
def test_by_name_or_with_options(given: object, expected: RealLoss) -> None:
    assert Outer.model_validate({"loss": given}).loss == expected


def test_the_paper_is_the_default() -> None:
    method = DDAL(name="ddal")
    assert (method.budget, method.outer.sampling, method.outer.loss.name) == ("uniform", "shuffled", "cross_entropy")
    assert method.validation.by == "loss"


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"outer": {"loss": "class_weight"}}, r"did you mean 'class_weights'\?\); allowed: cross_entropy, class_w"),
        ({"outer": {"loss": {"name": "class_weights", "tau": 1}}}, r"outer.loss.tau: unknown key.*: name, beta"),
        ({"outer": {"sampling": "balance"}}, r"outer.sampling: 'balance' is not allowed \(did you mean 'balanced'\?\)"),
        ({"outer": {"loss": {"name": "logit_adjustment", "tau": 0}}}, "outer.loss.tau: input should be greater"),
        ({"outer": {"loss": {"name": "class_weights", "beta": 1.0}}}, "outer.loss.beta: input should be less than 1"),
        (
            {"outer": {"sampling": "balanced", "loss": "logit_adjustment"}},
            "outer: sampling: balanced and loss: logit_adjustment both correct .* keep one: sampling: shuffled, or",
        ),
        ({"validation": {"by": "macro"}}, "validation.by: 'macro' is not allowed; allowed: loss, accuracy, balanced"),
        (
            {"shots": 2, "steps": 2, "budget": "prior"},
            r"budget: prior gives .* set batch_shots: 2 \(all samples in every step\) or budget: uniform",
        ),
    ],
)
def test_mistakes_are_told(experiment: Write, method: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load(experiment(method=method))


def test_a_grid_sweeps_them(experiment: Write) -> None:
    path = experiment(grids=[{"distill.method.outer": [{"sampling": "balanced"}, {"loss": "class_weights"}, {}]}])
    found = [(cell.source.method.outer.sampling, cell.source.method.outer.loss.name) for cell in load(path).cells]
    assert found == [
        ("balanced", "cross_entropy"),
        ("shuffled", "class_weights"),
        ("shuffled", "cross_entropy"),
    ]
    assert all(cell.source.method.outer.batch_size == 8 for cell in load(path).cells), "the base is kept"
