"""The hand-derived passes of a student: when it has them, and that they score and learn as the model does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from pipeline.bilevel.fused import Fused
from pipeline.config import FineTune, Model
from pipeline.data.tokenised import Split, tokenise
from pipeline.errors import StageError
from pipeline.students import encoder
from pipeline.students.encoder import Student
from pipeline.students.finetune import finetune
from pipeline.students.scoring import score
from pipeline.students.snapshot import load_encoder, save
from tests.conftest import build_tokenizer, corpus

COVERED = ["bert", "roberta", "electra", "distilbert"]
Make = Callable[..., Student]


@pytest.fixture(scope="module")
def make(encoder_folder: Callable[[str], Path]) -> Make:
    """Family and options -> a new student."""

    def make(family: str, dtype: torch.dtype = torch.float32, **options: Any) -> Student:
        model, _, fresh = load_encoder(Model(name=str(encoder_folder(family))), 2, seed=1)
        return Student(model.to(dtype), fresh, **options)

    return make


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    tokenizer = build_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return Split(tokenise(Dataset.from_list(corpus(48, seed=1)), ("text",), tokenizer, 40), tokenizer)


def fitting(batch: dict[str, Tensor], family: str) -> dict[str, Tensor]:
    """As the family's own tokenizer would give it; two segments where it knows them, as a pair has."""
    if family not in ("bert", "electra"):
        return {name: tensor for name, tensor in batch.items() if name != "token_type_ids"}
    second = (torch.arange(batch["input_ids"].shape[1]) > 3).long() * batch["attention_mask"]
    return batch | {"token_type_ids": second}


def without_passes(student: Student) -> Student:
    student._passes = "switched off"
    return student


def moved(student: Student) -> dict[str, Tensor]:
    """θ with every parameter, the word embeddings too, away from the pretrained ones."""
    generator = torch.Generator().manual_seed(5)
    return {
        name: value + 0.05 * torch.randn(value.shape, generator=generator).to(value)
        for name, value in student.initial(1, 0).items()
    }


@pytest.mark.parametrize("family", COVERED)
def test_built_and_proven_once(make: Make, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proofs: list[bool] = []

    def counted(*arguments: Any) -> bool:
        proofs.append(encoder_proof(*arguments))
        return proofs[-1]

    encoder_proof = encoder.proof
    monkeypatch.setattr(encoder, "proof", counted)
    student = make(family)
    assert isinstance(student.fused(), Fused)
    assert student.fused() is student.fused() is student.passes()
    assert proofs == [True]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dropout": True}, "dropout is on"),
        ({"precision": "bf16"}, "the inner loop's precision is bf16"),
        ({"precision": "fp16"}, "the inner loop's precision is fp16"),
    ],
)
def test_an_inner_loop_that_is_not_covered(make: Make, options: dict[str, Any], reason: str) -> None:
    student = make("bert", **options)
    assert student.fused() == reason
    assert isinstance(student.passes(), Fused), "scoring has neither dropout nor the inner loop's precision"


def test_other_reasons(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "has no place in a post-norm encoder" in str(make("albert").fused())
    assert make("bert", outer_precision="fp16").fused() == "the precision on real text is fp16"
    monkeypatch.setattr(encoder, "proof", lambda *arguments: False)
    assert make("bert").fused() == "its passes do not give what the model gives"


@pytest.mark.parametrize("family", COVERED)
def test_scores_are_the_model_s(make: Make, split: Split, family: str) -> None:
    """Also of batches that are in no order, and with word embeddings that were trained."""
    subject, plain = make(family, torch.float64), without_passes(make(family, torch.float64))
    theta = moved(subject)
    mixed = torch.randperm(len(split), generator=torch.Generator().manual_seed(1)).split(20)
    batches = [(rows, fitting(split.batch(rows.tolist()), family)) for rows in mixed]
    assert isinstance(subject.passes(), Fused)
    found, wanted = score(subject, theta, batches), score(plain, theta, batches)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert wanted.std() > 1e-3, "the rows are told apart"


def test_scoring_in_bf16(make: Make, split: Split) -> None:
    batches = split.batches()
    exact = score(make("bert"), make("bert").initial(1, 0), batches)
    errors = {}
    for name, student in {
        "passes": make("bert", outer_precision="bf16"),
        "library": without_passes(make("bert", outer_precision="bf16")),
        "inner only": make("bert", precision="bf16"),
    }.items():
        found = score(student, student.initial(1, 0), batches)
        assert found.dtype == torch.float32
        errors[name] = ((found - exact).abs().max() / exact.abs().max()).item()
    assert 1e-5 < errors["passes"] < 5e-2
    assert 1e-5 < errors["library"] < 5e-2
    assert errors["inner only"] < 1e-5


def test_each_precision_has_its_forward_pass(make: Make, split: Split) -> None:
    exact, batch = make("bert"), split.batch(range(8))
    theta, embeds = exact.initial(1, 0), torch.randn(2, 8, 32)
    inner, outer = make("bert", precision="bf16"), make("bert", outer_precision="bf16")
    for student, same_inner, same_outer in [(inner, False, True), (outer, True, False)]:
        assert torch.equal(student(theta, embeds)[0], exact(theta, embeds)[0]) is same_inner
        assert torch.equal(student.logits(theta, batch), exact.logits(theta, batch)) is same_outer
        assert torch.equal(student.logits(theta, batch, learning=True), exact.logits(theta, batch)) is same_inner


def test_tf32_is_for_cuda_alone_and_fp32_is_fp32(make: Make, split: Split, encoder_folder: Any, tmp_path: Path) -> None:
    plain = make("bert")
    assert not torch.backends.cuda.matmul.allow_tf32
    model, tokenizer, fresh = load_encoder(Model(name=str(encoder_folder("bert"))), 2, seed=1)
    save(model, tokenizer, tmp_path)
    rounded = Student.load(tmp_path, fresh, "cpu", precision="tf32", outer_precision="bf16")
    assert torch.backends.cuda.matmul.allow_tf32
    assert isinstance(rounded.fused(), Fused)
    assert torch.backends.cuda.matmul.allow_tf32, "also after the proof, which is in full precision"
    theta, embeds = plain.initial(1, 0), torch.randn(2, 8, 32)
    assert torch.equal(rounded(theta, embeds)[0], plain(theta, embeds)[0])
    batch = split.batch(range(8))
    assert not torch.equal(rounded.logits(theta, batch), plain.logits(theta, batch)), "bf16"
    make("bert")
    assert not torch.backends.cuda.matmul.allow_tf32


def test_an_encoder_that_counts_positions_refuses_padding_on_the_left(make: Make) -> None:
    batch = {"input_ids": torch.tensor([[0, 5, 6], [5, 6, 7]]), "attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1]])}
    with pytest.raises(StageError, match="padding_side='right'"):
        make("roberta").packed(batch)
    bert = make("bert", torch.float64)
    (chunk,) = bert.packed(batch)
    passes = bert.passes()
    assert isinstance(passes, Fused)
    theta = bert.initial(1, 0)
    found = passes.at(passes.pack(theta)).logits(chunk)
    torch.testing.assert_close(found, bert.logits(theta, batch)[chunk.order], rtol=0, atol=1e-12)


# --- finetune ------------------------------------------------------------------------------------------------------


def trained(student: Student, split: Split, family: str, size: int, **recipe: Any) -> tuple[dict[str, Tensor], Any]:
    def examples(rows: Tensor) -> dict[str, Tensor]:
        batch = fitting(split.batch(rows.tolist()), family)
        # soft labels of different mass: every sample counts by what it has
        soft = torch.nn.functional.one_hot(batch["labels"], 2) * torch.linspace(0.5, 1.5, len(rows))[:, None]
        return batch | {"labels": soft.to(student.embedding_matrix.dtype)}

    given = {"name": "finetune", "steps": 12, "batch_size": 16, "lr": 1e-3, "warmup_ratio": 0.2, "weight_decay": 0.3}
    losses: list[float] = []
    config = FineTune(**given | recipe)
    theta_0, untouched = moved(student), moved(student)
    theta = finetune(student, theta_0, size, examples, config, 1, 0, lambda _, __, loss: losses.append(loss))
    assert all(torch.equal(theta_0[name], value) for name, value in untouched.items()), "θ_0 is not changed"
    return theta, losses


@pytest.mark.parametrize("family", COVERED)
@pytest.mark.parametrize(("size", "clip"), [(3, 1.0), (48, 0.05)])
def test_fine_tuning_by_the_passes_is_the_same(make: Make, split: Split, family: str, size: int, clip: float) -> None:
    """Every parameter, those of words that no sample has too, which weight decay alone moves."""
    subject, plain = make(family, torch.float64), without_passes(make(family, torch.float64))
    assert isinstance(subject.fused(), Fused)
    found, losses = trained(subject, split, family, size, max_grad_norm=clip)
    wanted, other_losses = trained(plain, split, family, size, max_grad_norm=clip)
    assert losses == pytest.approx(other_losses, rel=1e-9)
    assert list(found) == list(wanted)
    start = moved(subject)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-8, atol=1e-10, msg=name)
        changed = not torch.equal(found[name], start[name])
        # softmax does not see what is added to all keys, so their bias has no gradient
        assert changed or name.endswith(("key.bias", "k_lin.bias")), name


@pytest.mark.parametrize("passes", [True, False])
def test_fine_tuning_has_the_precision_of_learning(make: Make, split: Split, passes: bool) -> None:
    def losses(**precision: str) -> list[float]:
        student = make("bert", **precision)
        return trained(student if passes else without_passes(student), split, "bert", 20, steps=2)[1]

    assert losses() == losses(outer_precision="bf16")
    assert losses() != losses(precision="bf16")


@pytest.mark.parametrize("reason", ["dropout", "vectors"])
def test_fine_tuning_that_the_passes_do_not_cover(
    make: Make, split: Split, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = make("bert")
    monkeypatch.setattr(Student, "packed", lambda *arguments: pytest.fail("the passes were used"))
    if reason == "dropout":
        trained(subject, split, "bert", 4, steps=2, dropout=True)
        return
    vectors = torch.randn(4, 6, 32)
    start = subject.initial(1, 0)
    theta = finetune(
        subject, start, 4, lambda rows: {"inputs_embeds": vectors[rows], "labels": torch.eye(2)[rows % 2]},
        FineTune(name="finetune", steps=2), 1,
    )  # fmt: skip
    assert torch.equal(theta[subject.words], start[subject.words]), "no gradient, no decay"
    assert not torch.equal(theta["classifier.weight"], start["classifier.weight"])
