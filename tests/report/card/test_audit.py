"""The audit: every flag is raised by a set made to raise it, and not by one that is as it should be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import Prepare
from pipeline.data.prepared import Prepared
from pipeline.distilled import DistilledSet, Recipe
from pipeline.errors import InputError
from pipeline.launch import run_stage
from pipeline.report.card.audit import Audit, audit
from pipeline.report.card.facts import Finding
from pipeline.store import Store
from pipeline.students.encoder import Student

S = 12


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Callable[..., Path]) -> Prepared:
    """A task of two classes called "bad" and "good", of rows of eleven words."""
    folder = tmp_path_factory.mktemp("audit")
    lines = ["text,label"]
    for row in range(60):
        words = [f"word{(7 * row + 11 * at + row * at) % 30}" for at in range(10)]
        lines.append(f"{' '.join(words)} {'bright' if row % 2 else 'dull'},{'good' if row % 2 else 'bad'}")
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    source = {"kind": "files", "train": str(folder / "data.csv")}
    task = {"name": "words", "source": source, "text": "text"}
    config = Prepare.model_validate(
        {"task": task, "model": str(encoder_folder("bert", pretrained=True)), "dev": 10, "test": 20}
    )
    store = Store(folder / "root")
    assert not run_stage([store.cell(config)], "prepare", store).failed
    return Prepared(store.cell(config).folder)


@pytest.fixture(scope="module")
def student(prepared: Prepared) -> Student:
    return Student.load(prepared.model_folder, prepared.manifest["fresh_parameters"], "cpu")


def made(prepared: Prepared, **tensors: Any) -> DistilledSet:
    whole = {"labels": torch.eye(2), "label_ids": torch.arange(2), "recipe": Recipe("ddal")} | tensors
    model = {"name": "tiny", "embedding_hash": prepared.manifest["embedding_hash"]}
    return DistilledSet(**whole, about={"model": model})  # type: ignore[arg-type]


def noise(student: Student, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, S, student.width, generator=torch.Generator().manual_seed(seed))


def one(found: Audit, words: str) -> Finding:
    (finding,) = [each for each in found.findings if words in each.about]
    return finding


def ids_of(prepared: Prepared, split: str, *rows: int) -> torch.Tensor:
    return torch.tensor([prepared.split(split).rows[row]["input_ids"][:S] for row in rows])


def test_noise_raises_no_flag(prepared: Prepared, student: Student) -> None:
    attention = torch.randn(2, 2, 4, 1, S, generator=torch.Generator().manual_seed(1))
    found = audit(made(prepared, inputs_embeds=noise(student), attention_labels=attention), prepared)
    assert [each.about for each in found.findings if each.flagged] == []
    assert len(found.looks_like) == 2
    assert audit(made(prepared, inputs_embeds=noise(student), attention_labels=attention), prepared) == found


@pytest.mark.parametrize("split", ["train", "test"])
def test_embeddings_that_spell_a_row_are_flagged(prepared: Prepared, student: Student, split: str) -> None:
    matrix = student.embedding_matrix
    rows = ids_of(prepared, split, 0, 1)
    near = matrix[rows] + 1e-3 * noise(student) * matrix.norm(dim=1).mean()
    found = audit(made(prepared, inputs_embeds=near), prepared)
    run = one(found, f"longest run of tokens shared with one row of {split}")
    assert run.flagged
    assert run.measured == "11 tokens"
    assert one(found, f"3-grams of the nearest-token sequences that occur in {split}").measured == "100.0 %"
    assert one(found, "distance to the nearest token").measured.startswith("cosine distance 0.000 on average")
    assert found.looks_like[0] == prepared.tokenizer.decode(rows[0], skip_special_tokens=True)


def test_real_rows_of_test_are_flagged_and_those_of_train_are_not(prepared: Prepared) -> None:
    for split, flagged in (("train", False), ("test", True)):
        real = made(prepared, token_ids=ids_of(prepared, split, 0, 1), recipe=Recipe("finetune"))
        finding = one(audit(real, prepared), f"samples that are a whole row of {split}")
        # rows of S tokens with [CLS] and [SEP]: the first S are the row but for its end
        assert finding.flagged_if == ("any" if flagged else "")
    whole = [prepared.split("test").rows[row]["input_ids"] for row in (0, 1)]
    width = max(map(len, whole))
    padded = torch.tensor([ids + [-1] * (width - len(ids)) for ids in whole])
    finding = one(audit(made(prepared, token_ids=padded), prepared), "samples that are a whole row of test")
    assert (finding.measured, finding.flagged) == ("2 of 2", True)


@pytest.mark.parametrize(
    "about",
    [{"generated": {"candidates": 2}}, {"config": {"method": {"name": "text"}}}, {"composed": [{"method": "project"}]}],
    ids=["generated", "learned", "composed"],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_written_text_that_is_a_row_is_flagged_whichever_split_it_is_of(
    prepared: Prepared, split: str, about: dict[str, Any]
) -> None:
    row = prepared.split(split).rows[0]["input_ids"]
    other = prepared.tokenizer("word1 word1 word2 word2 dull")["input_ids"]
    ids = torch.tensor([row, other + [-1] * (len(row) - len(other))])
    written = made(prepared, token_ids=ids, recipe=Recipe("finetune"))
    written.about.update(about)
    finding = one(audit(written, prepared), f"samples that are a whole row of {split}")
    assert (finding.measured, finding.flagged) == ("1 of 2", True)
    run = one(audit(written, prepared), f"longest run of tokens shared with one row of {split}")
    assert (run.measured, run.flagged) == ("11 tokens", True)


def test_the_name_of_the_class_is_a_leak(prepared: Prepared) -> None:
    def leaks(*texts: str) -> Finding:
        rows = prepared.tokenizer(list(texts), padding=True, return_tensors="pt")["input_ids"]
        return one(audit(made(prepared, token_ids=rows), prepared), "their class's name")

    assert leaks("word1 bad word2", "word3 good").measured == "2 of 2"
    swapped = leaks("word1 good word2", "word3 word4 word5")
    assert (swapped.measured, swapped.beside, swapped.flagged) == ("0 of 2", "another class's name: 1", False)


def test_a_label_that_says_another_class_is_flagged(prepared: Prepared, student: Student) -> None:
    labels = torch.tensor([[0.9, -0.2], [0.6, 0.4]])
    finding = one(audit(made(prepared, inputs_embeds=noise(student), labels=labels), prepared), "margin")
    assert finding.flagged
    assert finding.measured == (
        "-0.200 at least, 0.450 on average; 1 of 2 labels have negative entries; sums 0.700 to 1.000"
    )


def test_attention_labels_on_one_position_are_flagged(prepared: Prepared, student: Student) -> None:
    logits = torch.zeros(2, 2, 4, 1, S)
    logits[..., -1] = 20.0
    found = audit(made(prepared, inputs_embeds=noise(student), attention_labels=logits), prepared)
    assert one(found, "more than 90%").flagged
    assert one(found, "more than 90%").measured == "100.0 %"
    assert one(found, "last position").flagged
    assert not one(found, "first position").flagged
    assert one(found, "entropy of the attention labels").measured.startswith("0.000 on average")


def test_one_head_unlike_the_others_is_flagged(prepared: Prepared, student: Student) -> None:
    """As somebody would make it who hides something in one head."""
    logits = torch.randn(2, 2, 4, 1, S, generator=torch.Generator().manual_seed(1))
    logits[1, 0, 2] = 0.0
    logits[1, 0, 2, 0, 5] = 30.0
    found = audit(made(prepared, inputs_embeds=noise(student), attention_labels=logits), prepared)
    assert one(found, "unlike the others").measured == "1 of 16"
    assert one(found, "unlike the others").flagged


def test_the_encoders_own_attention_is_the_encoders(prepared: Prepared, student: Student) -> None:
    """Uniform labels have an entropy of one; the encoder's share beside it is that of its maps on real rows."""
    found = audit(made(prepared, inputs_embeds=noise(student), attention_labels=torch.zeros(2, 2, 4, 1, S)), prepared)
    entropy = one(found, "entropy of the attention labels")
    assert entropy.measured == "1.000 on average, 1.000 to 1.000"
    train = prepared.split("train")
    shares = []
    for row in range(len(train)):
        ids = torch.tensor([train.rows[row]["input_ids"]])
        _, maps = student(student.initial(3, 3), student.embedding_matrix[ids], "cls")
        assert maps is not None
        shares.append(
            torch.distributions.Categorical(probs=maps).entropy().mean().item()
            / torch.log(torch.tensor(float(ids.shape[1]))).item()
        )
    assert f"the encoder on {len(train)} train rows: {sum(shares) / len(shares):.3f}," in entropy.beside


def test_a_set_of_another_encoder_is_refused(prepared: Prepared, student: Student) -> None:
    other = made(prepared, inputs_embeds=noise(student))
    other.about["model"]["embedding_hash"] = "of another"
    with pytest.raises(InputError, match="another embedding matrix"):
        audit(other, prepared)
