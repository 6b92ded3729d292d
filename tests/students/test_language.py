"""What a language model thinks of names after a prompt, against reading every prompt whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from pipeline.errors import InputError
from pipeline.students.language import LanguageModel
from tests.language_stand_in import byte_folder, byte_model

SHOWN = [7, 30, 12, 99, 4]
QUERIES = [[5, 6, 7], [5, 6, 7, 8, 9, 10, 11, 12], [5, 9], [5, 6], [5, 40, 41, 42, 43]]
NAMES = [[50], [51, 52, 53], [61, 60]]


def one_by_one(model: PreTrainedModel, shown: list[int], query: list[int], name: list[int]) -> float:
    """Log-probability of a name, token by token, everything read anew for each."""
    total = 0.0
    for at, token in enumerate(name):
        with torch.no_grad():
            logits = model(torch.tensor([[*shown, *query, *name[:at]]])).logits[0, -1]
        total += float(torch.log(torch.exp(logits[token] - logits.max()) / torch.exp(logits - logits.max()).sum()))
    return total


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
@pytest.mark.parametrize("shown", [SHOWN, []])
@pytest.mark.parametrize("size", [2, 32])
def test_scores_are_those_of_whole_prompts(family: str, shown: list[int], size: int) -> None:
    model = byte_model(family)
    wanted = torch.tensor([[one_by_one(model, shown, query, name) for name in NAMES] for query in QUERIES])
    language = LanguageModel(model)
    before = language.show(shown)
    for _ in range(2):  # what was shown is not used up
        found = language.scores(before, QUERIES, NAMES, size)
        assert torch.allclose(found, wanted, atol=2e-4), (found - wanted).abs().max()
    assert wanted.std() > 1


def test_queries_that_begin_differently_after_nothing() -> None:
    """Nothing stands before the padding that a batch would need."""
    queries = [[1, 2, 3], [9, 8], [4], [7, 7, 7], [6, 5]]
    model = byte_model("llama")
    wanted = torch.tensor([[one_by_one(model, [], query, name) for name in NAMES] for query in queries])
    language = LanguageModel(model)
    assert torch.allclose(language.scores(language.show([]), queries, NAMES), wanted, atol=2e-4)


def test_every_row_is_reported_once() -> None:
    language, seen = LanguageModel(byte_model("gpt2")), []
    language.scores(language.show(SHOWN), QUERIES, NAMES, 2, seen.append)
    assert sum(seen) == len(QUERIES)
    assert max(seen) == 2


def test_weights_in_bfloat16_answer_nearly_the_same(tmp_path: Path) -> None:
    folder, cpu = byte_folder(tmp_path / "model", "llama"), torch.device("cpu")
    exact, rough = (LanguageModel.load(folder, precision, cpu) for precision in ("fp32", "bf16"))
    a, b = (model.scores(model.show(SHOWN), QUERIES, NAMES) for model in (exact, rough))
    assert a.dtype == b.dtype == torch.float32
    assert 0 < (a - b).abs().max() < 1


def test_four_bit_weights_need_their_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = byte_folder(tmp_path / "model")
    with pytest.raises(InputError, match=r"precision: nf4 needs (bitsandbytes|CUDA).*bf16"):
        LanguageModel.load(folder, "nf4", torch.device("cpu"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "accelerate" else name)
    with pytest.raises(InputError, match=r"nf4 needs accelerate, not installed; type: pip install 'textdd\[nf4\]', or"):
        LanguageModel.load(folder, "nf4", torch.device("cpu"))
