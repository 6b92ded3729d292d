"""Sets of sentence vectors: the file, prefixes, what is refused, and the classifier that comes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from pipeline.bilevel import InnerBatch, descend
from pipeline.config import FineTune, Mlp, OnVectors
from pipeline.distilled import DistilledSet, Recipe, load, save
from pipeline.errors import InputError
from pipeline.students.sentences import encoder_hash
from pipeline.students.vectors import VectorStudent
from tests.conftest import build_tokenizer, encoder


def made(**changes: object) -> DistilledSet:
    """Six samples of two classes, interleaved; row r's vector begins with r."""
    vectors = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    vectors[:, 0] = torch.arange(6.0)
    parts: dict[str, object] = {
        "labels": torch.eye(2).repeat(3, 1),
        "label_ids": torch.arange(6) % 2,
        "recipe": Recipe("vectors"),
        "vectors": vectors,
        "about": {
            "vectors": {"pooling": "cls", "encoder_hash": encoder_hash(encoder("bert"))},
            "model": {"name": "mine"},
            "config": {"method": {"student": {"name": "mlp", "width": 4}}},
        },
    }
    return DistilledSet(**(parts | changes))  # type: ignore[arg-type]


def test_the_file_gives_the_set_back(tmp_path: Path) -> None:
    save(made(), tmp_path / "set.h5")
    found = load(tmp_path / "set.h5")
    assert found.vectors is not None
    assert torch.equal(found.vectors, made().vectors)
    assert found.vectors.dtype == torch.float32
    assert found.inputs_embeds is None
    assert found.token_ids is None
    assert found.about == made().about
    assert found.recipe == Recipe("vectors")


def test_a_set_holds_one_kind_of_input() -> None:
    for also in ({"token_ids": torch.ones(6, 3, dtype=torch.long)}, {"vectors": None}):
        with pytest.raises(AssertionError):
            made(**also)


def test_examples_are_rows(tmp_path: Path) -> None:
    batch = made().examples(torch.tensor([4, 1]))
    assert batch.keys() == {"vectors", "labels"}
    assert batch["vectors"][:, 0].tolist() == [4, 1]
    assert batch["labels"].tolist() == [[1, 0], [0, 1]]


def test_prefixes_hold_the_first_of_every_class() -> None:
    uneven = made(label_ids=torch.tensor([0, 0, 0, 1, 0, 1]), about={"chosen": {"rows": [9, 8, 7, 6, 5, 4]}})
    part = uneven.prefix(2)
    assert part.vectors is not None
    assert part.vectors[:, 0].tolist() == [0, 1, 3, 5]
    assert part.label_ids.tolist() == [0, 0, 1, 1]
    assert part.about["chosen"]["rows"] == [9, 8, 6, 4]
    assert uneven.about["chosen"]["rows"] == [9, 8, 7, 6, 5, 4]
    whole = made().prefix(3)
    assert torch.equal(whole.vectors, made().vectors)  # type: ignore[arg-type]


def test_prefixes_leave_out_the_steps_that_see_all_samples() -> None:
    stepped = made(learning_rates=torch.tensor([0.1]), batch_order=torch.tensor([[0, 1, 2, 3, 4, 5]]))
    assert stepped.prefix(1).steps == 0
    assert stepped.prefix(1).batch_order is None


def test_inner_batches_read_vectors() -> None:
    stepped = made(learning_rates=torch.tensor([0.1, 0.2]), batch_order=torch.tensor([[0, 1], [2, 3]]))
    first, second = stepped.inner_batches()
    assert first.inputs[:, 0].tolist() == [0, 1]
    assert second.inputs[:, 0].tolist() == [2, 3]


def test_an_encoder_does_not_learn_from_vectors() -> None:
    with pytest.raises(InputError, match="use classifier\\(encoder\\) instead of fine_tune"):
        made().fine_tune(encoder("bert"))
    with pytest.raises(InputError, match="use classifier\\(encoder\\) instead of fine_tune"):
        made().fine_tune(encoder("bert"), recipe=FineTune(name="finetune"))


def test_another_encoder_is_refused() -> None:
    with pytest.raises(InputError, match="this set holds sentence vectors of mine"):
        made().classifier(encoder("roberta"))
    trained = encoder("bert")
    with torch.no_grad():
        next(trained.bert.encoder.parameters()).mul_(1.01)
    with pytest.raises(InputError, match="or of other weights"):
        made().classifier(trained)
    with pytest.raises(InputError, match="for which student it was made"):
        made(about=made().about | {"config": {}}).classifier(encoder("bert"))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_classifier_is_the_encoder_and_a_student_that_learned(pooling: str, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path / "encoder")
    body = encoder("bert").bert
    body.save_pretrained(tmp_path / "encoder")
    loaded = AutoModel.from_pretrained(tmp_path / "encoder")
    about = made().about
    found = made(about=about | {"vectors": about["vectors"] | {"pooling": pooling}})
    recipe = OnVectors(name="vectors", optimizer="sgd", lr=0.1, steps=5)
    model = found.classifier(loaded, recipe=recipe, seed=3)
    student = VectorStudent(Mlp(name="mlp", width=4), 32, 2, "cpu")
    assert found.vectors is not None
    step = InnerBatch(found.vectors, found.labels, None, 0.0, torch.tensor(0.1))
    theta = descend(student, student.initial(3, [0]), [step] * 5)
    texts = ["good word1 word2", "bad word3"]
    assert model.mean is None
    for text, name in zip(texts, found.predict(model, texts, tokenizer), strict=True):
        ids = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            hidden = body.eval()(**ids).last_hidden_state[0]
        vector = hidden[0] if pooling == "cls" else hidden.mean(dim=0)
        logits = student.logits(theta, {"vectors": vector[None]})[0, 0]
        assert name == str(int(logits.argmax()))
        torch.testing.assert_close(model(**ids).logits[0], logits, rtol=1e-4, atol=1e-5)


def test_a_centred_set_brings_the_mean_that_is_taken_from_texts(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path / "encoder")
    encoder("bert").bert.save_pretrained(tmp_path / "encoder")
    loaded = AutoModel.from_pretrained(tmp_path / "encoder")
    mean = torch.linspace(-2, 2, 32)
    save(made(vector_mean=mean), tmp_path / "set.h5")
    found = load(tmp_path / "set.h5")
    assert found.vector_mean is not None
    assert torch.equal(found.vector_mean, mean)
    assert torch.equal(found.prefix(1).vector_mean, mean)  # type: ignore[arg-type]
    plain = made().classifier(loaded, seed=3)
    centred = found.classifier(loaded, seed=3)
    ids = tokenizer("good word1", return_tensors="pt")
    with torch.no_grad():
        vector = loaded.eval()(**ids).last_hidden_state[:, 0]
        torch.testing.assert_close(centred(**ids).logits, plain.student(vector - mean))
        assert not torch.allclose(centred(**ids).logits, plain(**ids).logits)


def test_vectors_of_another_origin_are_refused() -> None:
    own = made().about["vectors"]["encoder_hash"]
    made().check_vectors("cls", own, centred=False)
    with pytest.raises(InputError, match=r"from which the mean over train is subtracted; prepare .* centred: false"):
        made().check_vectors("cls", own, centred=True)
    with pytest.raises(InputError, match=r"as the encoder gives them; prepare .* centred: true"):
        made(vector_mean=torch.zeros(32)).check_vectors("cls", own, centred=False)
