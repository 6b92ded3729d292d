"""Methods of real sentences and the recipes that take them: addresses, defaults, refusals."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import BestEpoch, Distill, Evaluate, FineTune, GradientSteps, Training, load
from pipeline.config.schema import canonical
from pipeline.errors import InputError

TASK = {"name": "mine", "source": {"kind": "hub", "id": "a/b"}, "text": ["text"]}
PREPARE = {"task": TASK, "model": "bert-base-uncased"}
FINETUNE = {"name": "finetune"}
NAMES = ["random", "herding", "k_centres", "moderate", "loss_rank", "el2n"]
Said = Callable[..., str]


def cell(method: dict[str, Any], protocol: dict[str, Any] = FINETUNE) -> Evaluate:
    distill = {"source": PREPARE, "method": method}
    return Evaluate.model_validate({"source": distill, "protocol": protocol})


@pytest.fixture
def refusal(tmp_path: Path) -> Said:
    """What ``load`` says of a method and a protocol."""

    def refusal(method: dict[str, Any], protocol: dict[str, Any] = FINETUNE) -> str:
        path = tmp_path / "mine.yaml"
        base = {"prepare": PREPARE, "distill": {"method": method}, "evaluate": {"protocol": protocol}}
        path.write_text(yaml.safe_dump({"base": base}))
        with pytest.raises(InputError) as raised:
            load(path)
        return str(raised.value)

    return refusal


# every option away from its default
CHANGES: list[dict[str, Any]] = [
    *({"name": name} for name in NAMES),
    *({"name": name, "shots": 2} for name in NAMES),
    *({"name": name, "budget": budget} for name in NAMES for budget in ("prior", "sqrt")),
    *({"name": name, "candidates": 50} for name in NAMES[1:]),
    *({"name": name, "pooling": "mean"} for name in NAMES[1:4]),
    *({"name": name, "training": {}} for name in NAMES[1:4]),
    *({"name": name, "training": {"steps": 7}} for name in NAMES[1:]),
    *({"name": name, "trainings": 2} for name in NAMES[4:]),
    {"name": "k_centres", "centres": "kmeans"},
    {"name": "k_centres", "start": "random"},
    {"name": "loss_rank", "keep": "highest"},
    {"name": "el2n", "keep": "lowest"},
    *({"name": name, "revision": 2} for name in NAMES),
]


def test_every_option_is_an_identity_of_its_own() -> None:
    found = [canonical(cell(method).source) for method in CHANGES]
    assert all(one != other for one, other in itertools.combinations(found, 2))


def test_random_real_of_the_first_version_keeps_its_address() -> None:
    """As it was stored before budgets were an option."""
    assert canonical(cell({"name": "random"}).source.method) == {"name": "random", "revision": 1}
    assert set(canonical(cell({"name": "random"}, FINETUNE).protocol)) == {"name", "revision"}
    assert set(canonical(cell({"name": "ddal"}, {"name": "ddal"}).protocol)) == {"name", "revision"}
    assert cell({"name": "random", "shots": 3}).source.method.slug == "random.3shot"
    assert cell({"name": "herding", "budget": "prior"}).source.method.slug == "herding.1shot.prior"


def test_recipes_differ_by_what_they_select_and_by_their_steps() -> None:
    protocols: list[dict[str, Any]] = [
        {"name": "finetune", "epochs": 3},
        {"name": "finetune", "epochs": 3, "select": "dev"},
        {"name": "finetune", "epochs": 3, "select": {"by": "accuracy"}},
        {"name": "finetune", "epochs": 3, "select": {"examples": 100}},
        {"name": "ddal", "step_sizes": [0.1]},
        {"name": "ddal", "step_sizes": [0.1, 0.1]},
    ]
    found = [canonical(cell({"name": "random"}, protocol).protocol) for protocol in protocols]
    assert all(one != other for one, other in itertools.combinations(found, 2))


def test_short_and_long_forms_are_the_same() -> None:
    short, long = (
        cell({"name": "full"}, {"name": "finetune", "epochs": 2, "select": select}).protocol
        for select in ("dev", {"split": "dev", "by": "loss"})
    )
    assert short == long
    assert isinstance(short, FineTune)
    assert short.select == BestEpoch()


def test_trainings_of_scores_have_the_defaults_of_finetune() -> None:
    method = cell({"name": "el2n"}).source.method
    assert method.training == Training()
    assert (FineTune(name="finetune").steps, FineTune(name="finetune").lr) == (200, 1e-4)


@pytest.mark.parametrize(
    ("method", "protocol", "words"),
    [
        *(
            ({"name": name}, {"name": "ddal"}, [f"method '{name}' has no step sizes", "step_sizes: [0.1]", "finetune"])
            for name in NAMES
        ),
        ({"name": "ddal"}, {"name": "ddal", "step_sizes": [0.1]}, ["has its own step sizes; remove step_sizes"]),
        ({"name": "full"}, {"name": "ddal", "step_sizes": [0.1]}, ["method 'full' is too large", "finetune"]),
        ({"name": "random"}, {"name": "ddal", "step_sizes": []}, ["step_sizes", "at least 1 item"]),
        ({"name": "random"}, {"name": "ddal", "step_sizes": [0]}, ["greater than 0"]),
        ({"name": "full"}, FINETUNE | {"select": "dev"}, ["say of how many: epochs: 10"]),
        ({"name": "full"}, FINETUNE | {"epochs": 2, "select": "test"}, ["'test' is not allowed", "allowed: dev"]),
        (
            {"name": "k_centres", "centres": "kmeans", "start": "random"},
            FINETUNE,
            ["start: random is of centres: greedy"],
        ),
        ({"name": "herding", "budget": "priors"}, FINETUNE, ["'priors' is not allowed", "did you mean 'prior'"]),
        ({"name": "herdings"}, FINETUNE, ["did you mean 'herding'", "k_centres"]),
        ({"name": "herding", "trainings": 3}, FINETUNE, ["trainings: unknown key", "did you mean 'training'"]),
    ],
)
def test_refusals(refusal: Said, method: dict[str, Any], protocol: dict[str, Any], words: list[str]) -> None:
    said = refusal(method, protocol)
    for word in words:
        assert word in said, said


def test_every_small_set_goes_with_both_recipes() -> None:
    for name in NAMES:
        for protocol in (FINETUNE, {"name": "ddal", "step_sizes": [0.1]}):
            assert cell({"name": name}, protocol).protocol.name == protocol["name"]
    assert isinstance(cell({"name": "ddal"}, {"name": "ddal"}).protocol, GradientSteps)
    assert isinstance(cell({"name": "ddal"}, FINETUNE).source, Distill)
