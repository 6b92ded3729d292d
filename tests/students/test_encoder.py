"""A student as a pure function: its draws, its attention maps, its two forward passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch.func import functional_call
from transformers import AutoModelForSequenceClassification

from pipeline.config import FineTune, Model, Runtime
from pipeline.data.tokenised import Split, tokenise
from pipeline.errors import InputError, StageError
from pipeline.students.device import pick_device
from pipeline.students.encoder import Student
from pipeline.students.finetune import finetune
from pipeline.students.scoring import score
from pipeline.students.snapshot import load_encoder, save
from tests.conftest import FAMILIES, build_tokenizer, corpus

ENCODERS = [family for family in FAMILIES if family not in ("gpt2", "xlnet")]
Students = Callable[[str], Student]


@pytest.fixture(scope="module")
def fresh(encoder_folder: Callable[[str], Path]) -> dict[str, list[str]]:
    return {family: load_encoder(Model(name=str(encoder_folder(family))), 2, 1)[2] for family in FAMILIES}


@pytest.fixture(scope="module")
def student(encoder_folder: Callable[[str], Path]) -> Students:
    """Family -> a student with two classes; made once."""
    made: dict[str, Student] = {}

    def student(family: str) -> Student:
        if family not in made:
            model, _, fresh = load_encoder(Model(name=str(encoder_folder(family))), 2, seed=1)
            made[family] = Student(model, fresh)
        return made[family]

    return student


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    tokenizer = build_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return Split(tokenise(Dataset.from_list(corpus(48, seed=1)), ("text",), tokenizer, 40), tokenizer)


def fitting(batch: dict[str, torch.Tensor], family: str) -> dict[str, torch.Tensor]:
    """The batch that the family's own tokenizer would give: most have no token types."""
    known = ("bert", "electra", "albert", "xlnet", "gpt2")
    return {name: tensor for name, tensor in batch.items() if name != "token_type_ids" or family in known}


@pytest.mark.parametrize("family", FAMILIES)
def test_initial_is_a_pure_function_of_seed_and_index(
    student: Students, fresh: dict[str, list[str]], family: str
) -> None:
    subject = student(family)
    torch.manual_seed(1)
    first = subject.initial(3, 0)
    torch.manual_seed(2)
    others = {(3, 1): subject.initial(3, 1), (4, 0): subject.initial(4, 0)}
    again = subject.initial(3, 0)
    assert list(first) == list(again)
    assert all(torch.equal(first[name], again[name]) for name in first), "whatever was drawn in between"
    weights = [name for name in fresh[family] if name.endswith("weight")]
    for other in others.values():
        assert all(not torch.equal(first[name], other[name]) for name in weights)
        assert all(torch.equal(first[name], other[name]) for name in first if name not in fresh[family])
    state = torch.random.get_rng_state()
    subject.initial(3, 0)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator is as it was"


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_fresh_parameters_are_drawn_as_the_library_does(
    student: Students, fresh: dict[str, list[str]], family: str
) -> None:
    drawn = student(family).initial(1, 1)
    for name in fresh[family]:
        if name.endswith("bias"):
            assert not drawn[name].any()
        else:
            # N(0, initializer_range): 0.15 in the tests, 0.02 for DistilBERT's own default
            assert drawn[name].std().item() == pytest.approx(0.02 if family == "distilbert" else 0.15, rel=0.35)


def test_drawing_does_not_touch_the_module(student: Students) -> None:
    subject = student("bert")
    before = {name: tensor.clone() for name, tensor in subject._module.state_dict().items()}
    parameters = subject.initial(9, 9)
    embeds = torch.randn(2, 8, subject.width)
    subject(parameters, embeds, rows="all")
    assert all(torch.equal(before[name], tensor) for name, tensor in subject._module.state_dict().items())


@pytest.mark.parametrize("family", ENCODERS)
def test_attention_maps_and_second_derivatives(student: Students, family: str) -> None:
    subject = student(family)
    parameters = {name: value.clone().requires_grad_() for name, value in subject.initial(1, 0).items()}
    embeds = torch.randn(2, 8, subject.width, requires_grad=True)
    logits, maps = subject(parameters, embeds, rows="all")
    _, first_row = subject(parameters, embeds, rows="cls")
    assert logits.shape == (2, 2)
    assert maps is not None
    assert first_row is not None
    assert maps.shape == (2, 2, 4, 8, 8)
    assert torch.equal(first_row, maps[..., :1, :])
    assert torch.allclose(maps.sum(-1), torch.ones(maps.shape[:-1]), atol=1e-5)
    # d/d embeds of the gradient with respect to a query projection: a second derivative through the attention itself
    key = next(name for name in parameters if name.endswith(("query.weight", "q_lin.weight", "attn.q.weight")))
    (gradient,) = torch.autograd.grad(
        logits[:, 0].sum() + maps[..., 0].square().sum(), parameters[key], create_graph=True
    )
    (second,) = torch.autograd.grad(gradient.square().sum(), embeds)
    assert second.abs().max() > 0
    assert torch.isfinite(second).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_fused_attention_is_the_eager_forward(student: Students, split: Split, family: str) -> None:
    subject = student(family)
    assert subject._scorer.config._attn_implementation == ("eager" if family in ("mpnet", "xlnet") else "sdpa")
    parameters = subject.initial(1, 0)
    batch = fitting(split.batch(range(12)), family)
    assert not batch["attention_mask"].all(), "rows of different lengths"
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with torch.no_grad():
        eager = functional_call(subject._module, parameters, kwargs=inputs).logits
        fused = subject.logits(parameters, batch)
    assert (eager - fused).abs().max() < 1e-5
    assert eager.std() > 1e-3, "the rows are told apart"


@pytest.mark.parametrize("family", ENCODERS)
def test_padding_changes_nothing(student: Students, split: Split, family: str) -> None:
    subject = student(family)
    parameters = subject.initial(1, 0)
    together = subject.logits(parameters, fitting(split.batch(range(8)), family))
    alone = torch.cat([subject.logits(parameters, fitting(split.batch([row]), family)) for row in range(8)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_scores_are_in_the_order_of_the_split(student: Students, split: Split) -> None:
    subject = student("bert")
    parameters = subject.initial(1, 0)
    one_by_one = torch.cat([subject.logits(parameters, split.batch([row])) for row in range(len(split))])
    assert torch.allclose(score(subject, parameters, split.batches(size=7)), one_by_one, atol=1e-5)


def test_another_attention_than_eager_is_refused(encoder_folder: Callable[[str], Path]) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(encoder_folder("bert"), attn_implementation="sdpa")
    with pytest.raises(StageError) as refusal:
        Student(model, ["classifier.weight", "classifier.bias"])
    for word in ("'sdpa' attention", "no second derivatives", "attn_implementation='eager'"):
        assert word in str(refusal.value)


def test_a_student_is_loaded_from_a_snapshot(encoder_folder: Callable[[str], Path], tmp_path: Path) -> None:
    model, tokenizer, fresh = load_encoder(Model(name=str(encoder_folder("roberta"))), 3, seed=1)
    save(model, tokenizer, tmp_path)
    loaded, direct = Student.load(tmp_path, fresh, "cpu"), Student(model, fresh)
    one, other = loaded.initial(5, 2), direct.initial(5, 2)
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert loaded.width == 32
    assert torch.equal(loaded.embedding_matrix, direct.embedding_matrix)


def test_dropout_is_drawn_by_seed_and_step(encoder_folder: Callable[[str], Path]) -> None:
    model, _, fresh = load_encoder(Model(name=str(encoder_folder("bert"))), 2, seed=1)
    subject = Student(model, fresh, dropout=True)
    parameters, embeds = subject.initial(1, 0), torch.randn(2, 8, subject.width)

    def at(*steps: int) -> torch.Tensor:
        with subject.dropping(1, *steps):
            return subject(parameters, embeds)[0]

    assert torch.equal(at(0), at(0))
    assert not torch.equal(at(0), at(1))


def test_install_writes_the_parameters_into_the_model(encoder_folder: Callable[[str], Path]) -> None:
    model, _, fresh = load_encoder(Model(name=str(encoder_folder("bert"))), 2, seed=1)
    subject = Student(model, fresh)
    parameters = {name: value + 1 for name, value in subject.initial(1, 0).items()}
    installed = subject.install(parameters)
    assert all(torch.equal(parameters[name], value) for name, value in installed.named_parameters())
    assert not installed.training


@pytest.mark.parametrize("family", ["bert", "gpt2", "xlnet"])
def test_finetune_learns(student: Students, split: Split, family: str) -> None:
    """The recipe of full-data and random-real baselines, which every architecture can be trained with."""
    subject = student(family)
    theta_0 = subject.initial(1, 0)
    before = {name: value.clone() for name, value in theta_0.items()}
    recipe = FineTune(name="finetune", steps=40, batch_size=16, lr=5e-3, warmup_ratio=0.1, dropout=True)

    def examples(rows: torch.Tensor) -> dict[str, torch.Tensor]:
        batch = fitting(split.batch(rows.tolist()), family)
        return batch | {"labels": torch.nn.functional.one_hot(batch["labels"], 2).float()}

    losses: list[float] = []
    theta = finetune(subject, theta_0, len(split), examples, recipe, 1, 0, lambda _, __, loss: losses.append(loss))
    batches = [(rows, fitting(batch, family)) for rows, batch in split.batches()]
    accuracy = (score(subject, theta, batches).argmax(-1) == split.labels).float().mean().item()
    assert len(losses) == 40
    assert accuracy > 0.9
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert all(torch.equal(before[name], theta_0[name]) for name in theta_0), "θ_0 is not changed"
    again = finetune(subject, theta_0, len(split), examples, recipe.model_copy(update={"steps": 3}), 1, 0)
    once_more = finetune(subject, theta_0, len(split), examples, recipe.model_copy(update={"steps": 3}), 1, 0)
    assert all(torch.equal(again[name], once_more[name]) for name in again)


def test_devices() -> None:
    assert pick_device(Runtime(device="cpu")) == torch.device("cpu")
    with pytest.raises(InputError) as refusal:
        pick_device(Runtime(device="cuba"))
    for word in ("runtime.device: 'cuba' is not to be had here", "allowed: auto, cpu, cuda, cuda:N"):
        assert word in str(refusal.value)
    threads = torch.get_num_threads()
    pick_device(Runtime(threads=threads))
    assert torch.get_num_threads() == threads
