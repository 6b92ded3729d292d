"""Stage 3: rows are whole and resumable, initialisations pure, every recipe trains."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.bilevel import Adam, GradientDescent, descend
from pipeline.config import load as load_experiment
from pipeline.data.prepared import Prepared
from pipeline.distilled import load
from pipeline.evaluation.results import Results
from pipeline.randomness import derive
from pipeline.store import Store
from pipeline.students.encoder import Student
from pipeline.students.scoring import score
from tests.conftest import carried_out, table
from tests.forked import Forked, module
from tests.methods.disturbance import Disturbance, launch

Write = Callable[..., Path]


def evaluated(path: Path, root: Path) -> tuple[list[dict[str, str]], Path]:
    experiment, store = carried_out(path, root)
    folder = store.cell(experiment.cells[0]).folder
    return rows(folder), folder


def rows(folder: Path) -> list[dict[str, str]]:
    return table(folder / "results.csv")


def values(found: list[dict[str, str]]) -> dict[tuple[int, str, str], str]:
    return {(int(row["initialisation"]), row["split"], row["metric"]): row["value"] for row in found}


def test_one_row_per_initialisation_split_and_metric(experiment: Write, tmp_path: Path) -> None:
    found, _ = evaluated(experiment(evaluate={"protocol": {"name": "ddal"}, "initialisations": 3}), tmp_path / "ck")
    metrics = {"accuracy", "balanced_accuracy", "macro_f1", "f1", "mcc", "ece", "loss", "accuracy_f1"}
    assert set(values(found)) == {(i, s, m) for i in range(3) for s in ("dev", "test") for m in metrics}
    assert len(found) == 3 * 2 * len(metrics)


def test_initialisations_differ_and_are_pure(experiment: Write, tmp_path: Path) -> None:
    few, _ = evaluated(experiment(evaluate={"protocol": {"name": "ddal"}, "initialisations": 2}), tmp_path / "ck")
    more, _ = evaluated(experiment(evaluate={"protocol": {"name": "ddal"}, "initialisations": 4}), tmp_path / "ck")
    assert values(few).items() <= values(more).items()
    losses = {values(more)[index, "test", "loss"] for index in range(4)}
    assert len(losses) == 4


@pytest.mark.parametrize("optimizer", ["gd", "adam"])
def test_students_learn_by_the_sets_own_optimiser(experiment: Write, tmp_path: Path, optimizer: str) -> None:
    """The loss of the first initialisation, worked out here."""
    options = {"inner_optimizer": optimizer, "steps": 2, "learning_rate": 0.01, "initialise": "real"}
    path = experiment(method=options, evaluate={"initialisations": 1})
    found, _ = evaluated(path, tmp_path / "ck")
    store, cell = Store(tmp_path / "ck"), load_experiment(path).cells[0]
    prepared = Prepared(store.cell(cell.source.source).folder)
    made = load(store.cell(cell.source).folder / "distilled.h5")
    student = Student.load(prepared.model_folder, prepared.manifest["fresh_parameters"], "cpu")
    seed, split = derive(cell.seed, "evaluation", cell.source.seed), prepared.split("test")
    losses = {}
    for name, rule in {"gd": GradientDescent(), "adam": Adam()}.items():
        trained = descend(student, student.initial(seed, 0), made.inner_batches(seed, 0), optimiser=rule)
        logits = score(student, trained, split.batches(student.device))
        losses[name] = torch.nn.functional.cross_entropy(logits, split.labels).item()
    assert float(values(found)[0, "test", "loss"]) == pytest.approx(losses[optimizer], rel=1e-5)
    assert losses["gd"] != pytest.approx(losses["adam"], rel=1e-3)


@pytest.mark.parametrize(
    "recipe",
    [
        {"name": "finetune", "steps": 5},
        {"name": "ddal", "step_sizes": [0.1]},
        {"name": "robust", "own": {"name": "finetune", "steps": 5}, "steps": [2.0]},
    ],
    ids=lambda recipe: recipe["name"],
)
def test_of_a_prefix_no_other_sample_is_learned_from(experiment: Write, tmp_path: Path, recipe: dict[str, Any]) -> None:
    """Herding takes one row after the other, so that two per class are the first two of five."""
    both = []
    for shots, prefix in ((5, 2), (2, None)):
        method, evaluate = {"name": "herding", "shots": shots}, {"protocol": recipe, "prefix": prefix}
        path = experiment(distill={"method": method}, evaluate=evaluate | {"initialisations": 2})
        both.append(values(evaluated(path, tmp_path / "ck")[0]))
    assert both[0] == both[1]


@pytest.mark.parametrize("recipe", [{"name": "ddal"}, {"name": "finetune", "steps": 5}])
def test_bfloat16_is_near(experiment: Write, tmp_path: Path, recipe: dict[str, Any]) -> None:
    """An address of its own, and other numbers that differ by rounding."""
    losses = []
    for protocol in (recipe, recipe | {"precision": "bf16"}):
        found, _ = evaluated(experiment(evaluate={"protocol": protocol, "initialisations": 1}), tmp_path / "ck")
        losses.append(float(values(found)[0, "test", "loss"]))
    assert 0 < abs(losses[0] - losses[1]) < 0.02


@pytest.mark.parametrize("recipe", ["ddal", "finetune"])
def test_killed_and_started_again_it_ends_with_the_same_rows(experiment: Write, tmp_path: Path, recipe: str) -> None:
    protocol = {"name": recipe} | ({"steps": 3} if recipe == "finetune" else {})
    path = experiment(evaluate={"protocol": protocol, "initialisations": 30, "runtime": {"threads": 1}})
    undisturbed, folder = evaluated(path, tmp_path / "a")
    carried_out(path, tmp_path / "b", "distill")
    command = module("pipeline.stage3_evaluate"), path, "--root", tmp_path / "b"
    target = tmp_path / "b" / "evaluate" / folder.name
    process = Forked(*command)
    while process.poll() is None and not _has(target, 30):
        time.sleep(0.01)
    assert process.poll() is None, "it was over before it could be killed; give it more initialisations"
    process.send_signal(signal.SIGKILL)
    process.wait()
    with open(target / "results.csv", "a") as file:
        file.write("29,dev,accuracy,0.5,0.1\n29,dev,ma")  # a torn line, as a crash would leave it
    assert Forked(*command).wait() == 0
    assert values(rows(target)) == values(undisturbed)
    assert len(rows(target)) == len(undisturbed)


MOMENTS = {  # function and call in which the signal comes: the first, second, second and first draw of a launch
    "load": ("pipeline.evaluation.protocols:Student.load", 1),
    "ddal": ("pipeline.evaluation.protocols:descend", 2),
    "finetune": ("torch.nn.utils:clip_grad_norm_", 5),  # three steps per draw
    "score": ("pipeline.evaluation.protocols:score", 3),  # two splits per draw
    "write": ("pipeline.evaluation.results:write_text", 2),  # the first is the header
}


@pytest.mark.parametrize(
    ("recipe", "name", "status", "draws"),
    [
        ("ddal", "SIGUSR2", 85, [0, 2, 4, 5]),  # the draw of the moment is finished
        ("finetune", "SIGTERM", 143, [0, 1, 3, 4]),  # unless it is being fine-tuned, which may take minutes
        ("ddal", "SIGKILL", -9, [0, 1, 2, 2]),
        ("finetune", "SIGKILL", -9, [0, 1, 2, 2]),
    ],
)
def test_disturbed_at_any_moment_it_ends_with_the_same_rows(
    experiment: Write, tmp_path: Path, recipe: str, name: str, status: int, draws: list[int]
) -> None:
    protocol = {"name": recipe} | ({"steps": 3} if recipe == "finetune" else {})
    path = experiment(evaluate={"protocol": protocol, "initialisations": 6, "runtime": {"threads": 1}})
    undisturbed, _ = evaluated(path, tmp_path / "a")
    plan, store = carried_out(path, tmp_path / "b", "distill")
    disturbances = [Disturbance(*MOMENTS[moment], name) for moment in ("load", recipe, "score", "write")]
    ended, said = launch("evaluate", path, store.root, [*disturbances, None])
    assert [end.status for end in ended] == [status] * 4 + [0], said
    cell = store.cell(plan.cells[0])
    found = cell.attempts()
    rows_per_draw = len(undisturbed) / 6
    assert [attempt.rows / rows_per_draw for attempt in found[1:]] == draws
    assert [attempt.outcome for attempt in found] == ["killed" if status == -9 else "stopped"] * 4 + ["done"]
    assert [row | {"seconds": ""} for row in rows(cell.folder)] == [row | {"seconds": ""} for row in undisturbed]


def _has(folder: Path, lines: int) -> bool:
    try:
        return len((folder / "results.csv").read_text().splitlines()) > lines
    except FileNotFoundError:
        return False


def test_a_torn_initialisation_is_dropped(tmp_path: Path) -> None:
    first = Results(tmp_path / "results.csv", ("dev", "test"))
    first.add(0, {"dev": {"accuracy": 0.5, "loss": 1.0}, "test": {"accuracy": 0.25, "loss": 2.0}}, 0.1)
    with open(tmp_path / "results.csv", "a") as file:
        file.write("1,dev,accuracy,0.5,0.1\n1,dev,loss,0.5,0.1\n1,test,accuracy,0.")
    again = Results(tmp_path / "results.csv", ("dev", "test"))
    assert again.done == {0}
    assert {row["initialisation"] for row in rows(tmp_path)} == {"0"}


def test_fine_tuning_on_everything_learns(
    experiment: Write, tmp_path: Path, encoder_folder: Callable[..., Path]
) -> None:
    path = experiment(
        prepare={"model": str(encoder_folder("bert", pretrained=True))},
        evaluate={"protocol": {"name": "finetune", "epochs": 6, "batch_size": 16, "lr": 3e-3}, "initialisations": 1},
        grids=[{"distill.method": [{"name": "full"}]}],
    )
    found, _ = evaluated(path, tmp_path / "ck")
    assert float(values(found)[0, "test", "accuracy"]) > 0.95


def test_random_real_draws_follow_the_seed(experiment: Write, tmp_path: Path) -> None:
    path = experiment(
        evaluate={"protocol": {"name": "finetune", "steps": 2}, "initialisations": 1},
        grids=[{"distill.method": [{"name": "random", "shots": 3}], "distill.seed": [0, 1]}],
    )
    from pipeline.distilled import load

    config, store = load_experiment(path), Store(tmp_path / "ck")
    evaluated(path, tmp_path / "ck")
    one, other = (load(store.cell(cell.source).folder / "distilled.h5") for cell in config.cells)
    assert one.label_ids.tolist() == [0, 1, 0, 1, 0, 1]
    assert one.token_ids is not None
    assert other.token_ids is not None
    assert one.token_ids.tolist() != other.token_ids.tolist()


def test_majority_answers_the_most_frequent_training_class(experiment: Write, tmp_path: Path) -> None:
    path = experiment(
        evaluate={"protocol": {"name": "majority"}, "initialisations": 1},
        grids=[{"distill.method": [{"name": "majority"}]}],
    )
    found, _ = evaluated(path, tmp_path / "ck")
    assert float(values(found)[0, "test", "accuracy"]) == 0.5
    assert float(values(found)[0, "test", "mcc"]) == 0
    assert (0, "test", "loss") not in values(found)  # nothing is trained: it has no probabilities


def test_a_set_is_also_evaluated_by_fine_tuning(experiment: Write, tmp_path: Path) -> None:
    """The recipe is independent of where the set came from."""
    found, _ = evaluated(
        experiment(evaluate={"protocol": {"name": "finetune", "steps": 3}, "initialisations": 1}), tmp_path / "ck"
    )
    assert values(found)


@pytest.mark.parametrize("family", ["gpt2", "xlnet"])
def test_causal_and_xlnet_classifiers_are_fine_tuned(
    experiment: Write, tmp_path: Path, encoder_folder: Callable[..., Path], family: str
) -> None:
    path = experiment(
        prepare={"model": str(encoder_folder(family))},
        evaluate={"protocol": {"name": "finetune", "steps": 3}, "initialisations": 1},
        grids=[{"distill.method": [{"name": "random", "shots": 2}]}],
    )
    found, _ = evaluated(path, tmp_path / "ck")
    assert values(found)


@pytest.mark.parametrize("family", ["roberta", "mpnet", "distilbert", "gpt2", "xlnet"])
def test_real_rows_teach_another_encoder_what_they_teach_as_its_own(
    experiment: Write, tmp_path: Path, encoder_folder: Callable[..., Path], family: str
) -> None:
    """Random rows do not depend on the encoder that they were drawn with."""
    other = str(encoder_folder(family))
    path = experiment(
        evaluate={"protocol": {"name": "finetune", "steps": 3}, "initialisations": 2},
        grids=[
            {"distill.method": [{"name": "random", "shots": 3}], "evaluate.data": [{"model": other}]},
            {"distill.method": [{"name": "random", "shots": 3}], "prepare.model": [other]},
        ],
    )
    evaluated(path, tmp_path / "ck")
    store = Store(tmp_path / "ck")
    moved, own = (rows(store.cell(cell).folder) for cell in load_experiment(path).cells)
    assert len(values(moved)) == 2 * 2 * 8
    assert values(moved) == values(own)
