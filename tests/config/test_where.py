"""Which cells a list of dotted keys means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import load
from pipeline.config.where import restricted
from pipeline.errors import InputError

Write = Callable[..., Path]
GRID = [
    {"distill.method.labels": ["hard", "soft"], "distill.seed": [1, 2]},
    {"distill.method": [{"name": "random"}], "evaluate.protocol": [{"name": "finetune"}]},
]


@pytest.mark.parametrize(
    ("only", "positions"),
    [
        ([], None),
        (["distill.method.labels=hard"], (0, 1)),
        (["distill.method.labels=hard", "distill.seed=2"], (1,)),
        (["distill.seed=2,42"], (1, 3, 4)),
        (["distill.method=random"], (4,)),
        (["prepare.task=keywords"], (0, 1, 2, 3, 4)),
        (["evaluate.protocol.name=ddal", "distill.method.labels=soft"], (2, 3)),
    ],
)
def test_the_cells_that_have_all_of_it(experiment: Write, only: list[str], positions: tuple[int, ...] | None) -> None:
    whole = load(experiment(grids=GRID))
    part = restricted(whole, only)
    assert part.only == positions
    assert (part.name, part.cells) == (whole.name, whole.cells)
    assert part.computed == {index: whole.cells[index] for index in positions or range(5)}


@pytest.mark.parametrize(
    ("only", "sentence"),
    [
        ("distill.method.label=hard", "distill.method.label: no config has that key (did you mean 'labels'?)"),
        ("distill.method.labels=hrad", "distill.method.labels: 'hrad' is no value of it (did you mean 'hard'?)"),
        (
            "labels=hard",
            "labels: not a dotted key (did you mean distill.method.labels or evaluate.protocol.labels or prepare.",
        ),
        ("outer.lr=1", "outer.lr: not a dotted key (did you mean distill.method.outer.lr?); allowed"),
        ("distill.seed", "dotted.key=value is needed"),
        ("distill.seed=7", "no cell of tiny has distill.seed=7; distill.seed is 1, 2, 42"),
        ("prepare.task=keyword", "no cell of tiny has prepare.task=keyword; prepare.task is keywords"),
    ],
)
def test_what_fits_nothing_is_a_sentence(experiment: Write, only: str, sentence: str) -> None:
    with pytest.raises(InputError, match=r"^--only") as error:
        restricted(load(experiment(grids=GRID)), [only])
    assert sentence in str(error.value)


def test_values_that_cells_have_one_by_one_are_not_listed(experiment: Write) -> None:
    with pytest.raises(InputError) as error:
        restricted(load(experiment(grids=GRID)), ["distill.method=random", "distill.seed=1"])
    assert str(error.value) == "--only: no cell of tiny has distill.method=random and distill.seed=1"
