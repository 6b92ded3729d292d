"""Vectors of sentences by the fast passes: what the encoder alone gives for each sentence by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification

from pipeline.data.tokenised import Split, tokenise
from pipeline.students.encoder import Student
from pipeline.students.sentences import embed, encoder_hash
from tests.conftest import bert, build_tokenizer, corpus, encoder


@pytest.mark.parametrize(
    ("family", "pooling"), [("bert", "cls"), ("bert", "mean"), ("roberta", "mean"), ("gpt2", "mean")]
)
def test_vectors_are_the_encoders_own_whatever_they_are_batched_with(
    encoder_folder: Callable[[str], Path], tmp_path: Path, family: str, pooling: str
) -> None:
    rows = Dataset.from_list(corpus(90, seed=2))
    split = Split(tokenise(rows, ("text",), build_tokenizer(tmp_path), 12), build_tokenizer(tmp_path))
    model = AutoModelForSequenceClassification.from_pretrained(encoder_folder(family), attn_implementation="eager")
    student = Student(model, [])
    assert isinstance(student.passes(), str) == (family == "gpt2")
    found = torch.full((90, 32), torch.nan)
    for positions, vectors in embed(student, student.initial(0, 0), split.batches(), pooling):  # type: ignore[arg-type]
        found[positions] = vectors
    for row in range(0, 90, 7):
        given = {name: torch.tensor([v]) for name, v in split.rows[row].items() if name not in ("label", "length")}
        with torch.no_grad():
            hidden = model.base_model(**given).last_hidden_state[0]
        wanted = hidden[0] if pooling == "cls" else hidden.mean(dim=0)
        torch.testing.assert_close(found[row], wanted, rtol=1e-4, atol=1e-5)
    assert not found.isnan().any()


def test_the_hash_is_of_the_weights_that_make_vectors() -> None:
    model = encoder("bert")
    before = encoder_hash(model)
    assert encoder_hash(encoder("bert")) == before
    with torch.no_grad():
        model.classifier.weight += 1
        model.bert.pooler.dense.weight += 1
    assert encoder_hash(model) == before
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.bias[0] += 1e-3
    assert encoder_hash(model) != before
    assert encoder_hash(bert(num_hidden_layers=1)) != before
