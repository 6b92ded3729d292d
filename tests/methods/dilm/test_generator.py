"""What the generator makes of texts: sequences, and likelihoods against values computed token by token."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.config import Distill, language_source
from pipeline.errors import InputError
from pipeline.methods.dilm.generator import Generator, normalised
from pipeline.methods.dilm.sequences import Sequences, joined
from pipeline.store import Store
from tests.methods.dilm.conftest import WORDS, fresh, prepared

Chain = Callable[..., Distill]


def test_classes_begin_as_the_token_that_starts_a_text(language_model: Path) -> None:
    generator = fresh(language_model, classes=3)
    table = generator.model.get_input_embeddings().weight
    assert len(table) == len(WORDS) + 3 + 2
    assert len({*generator.begin, generator.separator, generator.pad, generator.end}) == 6
    for begin in generator.begin:
        assert torch.equal(table[begin], table[WORDS.index("<end>")])
    assert not torch.equal(table[generator.separator], table[generator.end])
    again = fresh(language_model, classes=3)
    assert torch.equal(again.model.get_input_embeddings().weight, table)


PROMPTS = ["word1 word2 bad", "good"]


def test_classes_begin_as_prompts_of_ones_own(language_model: Path) -> None:
    generator = Generator.fresh(language_model, 2, 0, "cpu", PROMPTS)
    for table in (generator.model.get_input_embeddings().weight, generator.model.get_output_embeddings().weight):
        for begin, word in zip(generator.begin, ("bad", "good"), strict=True):
            assert torch.equal(table[begin], table[WORDS.index(word)])
    start, one, two = (WORDS.index(word) for word in ("<end>", "word1", "word2"))
    assert generator.prompts == [[start, one, two], [start]]
    with pytest.raises(InputError, match=r"lm\.begin: 1 entries for 2 classes; give one for each"):
        Generator.fresh(language_model, 2, 0, "cpu", ["bad"])


def test_a_text_behind_a_prompt_is_as_likely_as_the_model_finds_it_there(language_model: Path, tmp_path: Path) -> None:
    """Prompts of unequal length stand beside each other, and a saved generator reads them too."""
    generator = Generator.fresh(language_model, 2, 0, "cpu", PROMPTS)
    texts = [[WORDS.index(word) for word in text.split()] for text in ("word3 dull word4", "word5", "bright word1")]
    rows = [generator.wrapped([text], label) for text, label in zip(texts, [0, 1, 1], strict=True)]
    assert [row[0] for row in rows] == [generator.begin[0], generator.begin[1], generator.begin[1]]
    expected = []
    for row, label in zip(rows, [0, 1, 1], strict=True):
        prompt = [WORDS.index(word) for word in ("<end> " + PROMPTS[label]).split()]
        expected.append(by_hand(generator, [*prompt, *row[1:]], given=len(prompt)))
    sequences = Sequences.of(rows, [0, 1, 1])
    found = generator.losses(*sequences.batch(torch.arange(3), generator.pad, "cpu"))
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    found.sum().backward()
    assert all(each.grad is None or each.grad.isfinite().all() for each in generator.model.parameters())
    generator.save(tmp_path / "generator")
    again = Generator.load(tmp_path / "generator", 2, "cpu")
    assert again.prompts == generator.prompts
    assert torch.equal(again.mean_losses(sequences), generator.mean_losses(sequences))


def by_hand(generator: Generator, ids: list[int], given: int = 1) -> float:
    """−Σ log p of a sequence's tokens after those given, each from a pass over nothing but what stands before it."""
    total = 0.0
    for at in range(given, len(ids)):
        with torch.no_grad():
            scores = generator.model(input_ids=torch.tensor([ids[:at]])).logits[0, -1].double().tolist()
        largest = max(scores)
        total += largest + math.log(sum(math.exp(score - largest) for score in scores)) - scores[ids[at]]
    return total


def test_losses_are_those_of_every_text_alone_whatever_stands_beside_it(language_model: Path) -> None:
    generator = fresh(language_model)
    texts = [["word1", "good"], ["word2", "bad", "word3", "word4", "word5"], ["dull"]]
    rows = [
        generator.wrapped([[WORDS.index(word) for word in text]], label)
        for text, label in zip(texts, [1, 0, 0], strict=True)
    ]
    assert rows[0] == [generator.begin[1], WORDS.index("word1"), WORDS.index("good"), generator.end]
    expected = [by_hand(generator, row) for row in rows]
    sequences = Sequences.of(rows, [1, 0, 0])
    found = generator.losses(*sequences.batch(torch.arange(3), generator.pad, "cpu"))
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    swapped = Sequences.of([[generator.begin[0], *rows[0][1:]]], [0])
    other = generator.losses(*swapped.batch(torch.arange(1), generator.pad, "cpu"))
    assert other.item() == pytest.approx(by_hand(generator, swapped.row(0)), rel=1e-5)
    each = generator.mean_losses(sequences)
    assert each.tolist() == pytest.approx([expected[0] / 3, expected[1] / 6, expected[2] / 2], rel=1e-5)
    padded = generator.mean_losses(sequences, "padded")
    assert padded.tolist() == pytest.approx([value / 7 for value in expected], rel=1e-5)


def test_long_texts_are_read_in_smaller_batches(language_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool of long texts needs no more memory than one of short texts, and its likelihoods are the same."""
    generator = fresh(language_model)
    rows = [generator.wrapped([[5 + at % 3] * (1 + at % 9)], at % 2) for at in range(20)]
    sequences = Sequences.of(rows, [at % 2 for at in range(20)])
    expected, read = generator.mean_losses(sequences), []
    losses = generator.losses
    monkeypatch.setattr(generator, "losses", lambda ids, mask: read.append(ids.shape) or losses(ids, mask))
    monkeypatch.setattr("pipeline.methods.dilm.generator._POSITIONS", 40)
    assert torch.allclose(generator.mean_losses(sequences), expected, rtol=1e-5)
    assert len(read) > 1
    assert max(count * length for count, length in read) <= 40


def test_both_ways_to_normalise() -> None:
    """As published: batches are padded to a multiple of 8 tokens, the first of which is given."""
    losses, lengths = torch.tensor([30.0, 30.0]), torch.tensor([3, 11])
    assert normalised(losses, lengths, "length").tolist() == [15.0, 3.0]
    assert normalised(losses, lengths, "padded").tolist() == [2.0, 2.0]
    assert normalised(losses[:1], torch.tensor([8]), "padded").tolist() == pytest.approx([30 / 7])


def test_a_class_has_likelihoods_of_its_own_once_its_token_differs(language_model: Path) -> None:
    generator = fresh(language_model)
    with torch.no_grad():
        generator.model.get_input_embeddings().weight[generator.begin[1]] *= torch.linspace(-2, 2, 32)
    row = generator.wrapped([[5, 6]], 0)
    two = Sequences.of([row, [generator.begin[1], *row[1:]]], [0, 1])
    zero, one = generator.mean_losses(two).tolist()
    assert abs(zero - one) > 1e-3
    assert one == pytest.approx(by_hand(generator, two.row(1)) / 3, rel=1e-5)


def test_a_saved_generator_is_the_same(language_model: Path, tmp_path: Path) -> None:
    generator = fresh(language_model)
    generator.save(tmp_path / "generator")
    again = Generator.load(tmp_path / "generator", 2, "cpu")
    rows = Sequences.of([generator.wrapped([[5, 6, 7]], 1)], [1])
    assert again.begin == generator.begin
    assert torch.equal(again.mean_losses(rows), generator.mean_losses(rows))
    assert {path.suffix for path in (tmp_path / "generator").iterdir()} <= {".json", ".safetensors"}


def test_text_and_back(language_model: Path) -> None:
    generator = fresh(language_model)
    one, other = [WORDS.index("good"), WORDS.index("word3")], [WORDS.index("bad")]
    pair = generator.wrapped([one, other], 1)
    assert generator.text(pair, 2) == ("good word3", "bad")
    assert generator.text(pair, 1) is None
    assert generator.text(generator.wrapped([one], 0), 1) == ("good word3",)
    assert generator.text(generator.wrapped([one], 0), 2) is None
    assert generator.text(generator.wrapped([one, []], 0), 2) is None
    assert generator.text(pair[:-1], 2) == ("good word3", "bad")


def test_rows_of_pairs_keep_both_texts(chain: Chain, store: Store, language_model: Path) -> None:
    found = prepared(language_source(chain(pairs=True)), store)
    train, generator = found.split("train"), fresh(language_model)
    sequences = generator.sequences(train)
    raw = {(row["one"], row["other"]) for row in _rows(chain(pairs=True).source.task.source.train)}
    texts = [generator.text(sequences.row(index), 2) for index in range(len(sequences))]
    assert len(sequences) == 120 - 48
    assert set(texts) <= raw
    assert found.manifest["architecture"] == "GPT2LMHeadModel"


def _rows(path: str) -> list[dict[str, str]]:
    import json

    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_sequences_are_flat() -> None:
    found = joined([Sequences.of([[1, 2], [3]], [0, 0]), Sequences.of([[4, 5, 6]], [1])])
    assert found.tokens.tolist() == [1, 2, 3, 4, 5, 6]
    assert [found.row(index) for index in range(3)] == [[1, 2], [3], [4, 5, 6]]
    ids, mask = found.batch(torch.tensor([2, 1]), 9, "cpu")
    assert ids.tolist() == [[4, 5, 6], [3, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert found.lengths.tolist() == [2, 1, 3]
