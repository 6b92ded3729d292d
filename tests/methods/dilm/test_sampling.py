"""What a generator writes, and which of it is kept: draws of their own seed, no repeats, deterministic selection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config import DiLM, Distill, Sampling
from pipeline.errors import InputError, StageError
from pipeline.methods.dilm import generate
from pipeline.methods.dilm.generator import Generator
from pipeline.methods.dilm.pool import TextPool, clustered
from pipeline.methods.dilm.sampling import Written, as_split, longest_text, write
from pipeline.methods.dilm.sequences import Sequences
from pipeline.methods.dilm.teachers import Teachers
from pipeline.store import Store
from pipeline.students.encoder import Student
from tests.conftest import FILLERS, KEYWORDS
from tests.methods.dilm.conftest import WORDS, fresh, prepared

Chain = Callable[..., Distill]
SMALL = Sampling(batch_size=8, max_tokens=6, precision="fp32")


def written(generator: Generator, count: int, seed: int = 0, **more: Any) -> Written:
    return write(generator, count, more.pop("fields", 1), SMALL, 6, seed, distinct=more.pop("distinct", True))


def test_texts_follow_from_seed_class_and_batch_and_nothing_else(language_model: Path) -> None:
    generator = fresh(language_model)
    few = written(generator, 5)
    torch.manual_seed(1)
    many = written(generator, 20)
    for label in range(2):
        assert few.of_class(label).tolist() == list(range(5 * label, 5 * label + 5))
        mine = [many.texts[at] for at in many.of_class(label)]
        assert mine[:5] == [few.texts[at] for at in few.of_class(label)]
        assert len(set(mine)) == 20
    assert written(generator, 5, seed=1).texts != few.texts


def test_only_words_are_written(language_model: Path) -> None:
    generator = fresh(language_model)
    found = written(generator, 20)
    for at, (text,) in enumerate(found.texts):
        row = found.sequences.row(at)
        assert row[0] == generator.begin[int(found.sequences.labels[at])]
        assert not {*generator.begin, generator.separator, generator.pad} & {*row[1:]}
        assert 1 <= len(text.split()) <= 7
        assert [WORDS.index(word) for word in text.split()] == [token for token in row[1:] if token > 1]
    pairs = written(generator, 6, fields=2)
    assert all(len(text) == 2 and all(text) for text in pairs.texts)
    assert pairs.unusable > 0


def test_a_generator_that_always_says_the_same_is_found_out(language_model: Path) -> None:
    generator = fresh(language_model)
    with torch.no_grad():
        # whatever came before: the next word is word0, which is the largest logit by far
        generator.model.transformer.ln_f.weight.zero_()
        generator.model.transformer.ln_f.bias.copy_(30 * generator.model.get_input_embeddings().weight[2])
    with pytest.raises(StageError, match="wrote 1 usable texts of class 0 of the 3 that are needed"):
        written(generator, 3)
    assert len(written(generator, 3, distinct=False).texts) == 6


@pytest.mark.parametrize("prompts", [None, ["word1 word2 bad", "good"]])
def test_nucleus_of_almost_nothing_is_greedy(language_model: Path, prompts: list[str] | None) -> None:
    generator = Generator.fresh(language_model, 2, 3, "cpu", prompts)
    sampling = SMALL.model_copy(update={"top_p": 1e-6})
    found = write(generator, 2, 1, sampling, 6, 0, distinct=False)
    for label in range(2):
        row = found.sequences.row(2 * label)
        assert row[0] == generator.begin[label]
        for at in range(1, len(row)):
            with torch.no_grad():
                ids = torch.tensor([[*generator.prompts[label], *row[:at]]])
                logits = generator.model(input_ids=ids).logits[0, -1]
            logits[[*generator.begin, generator.pad, generator.separator]] = -torch.inf
            assert int(logits.argmax()) == row[at]


@pytest.mark.parametrize("rule", ["k_centres", "herding", "random", "rank", "none"])
def test_selection_is_deterministic_and_within_the_class(
    chain: Chain, store: Store, language_model: Path, rule: str
) -> None:
    config = chain(generated={"selection": rule, "shots": 3})
    data, generator = prepared(config.source, store), fresh(language_model)
    found = written(generator, 12)
    split = found.split(data.tokenizer, data.manifest["max_length"])
    one = generate.selected(config, data, generator, found, split)
    assert [rows.tolist() for rows in one] == [
        rows.tolist() for rows in generate.selected(config, data, generator, found, split)
    ]
    for label, rows in enumerate(one):
        assert len({*rows.tolist()}) == 3
        assert set(rows.tolist()) <= set(found.of_class(label).tolist())
    if rule == "none":
        assert one[1].tolist() == [12, 13, 14]
    if rule == "rank":
        losses = generator.mean_losses(found.sequences).tolist()
        assert one[0].tolist() == sorted(range(12), key=losses.__getitem__)[:3]


def test_k_centres_covers_and_herding_takes_the_middle(
    chain: Chain, store: Store, language_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors on a line: groups around 0, 100 and 200; the mean is 57, and 99 the nearest to it."""
    line = np.asarray([0.0, 1.0, -1.0, 100.0, 101.0, 99.0, 200.0], np.float32)[:, None]
    monkeypatch.setattr(generate, "vectors_of", lambda *_: line)
    generator = fresh(language_model)
    found = written(generator, 7)
    for rule, expected in (("k_centres", [0, 3, 6]), ("herding", [5])):
        config = chain(generated={"selection": rule, "shots": len(expected)})
        data = prepared(config.source, store)
        split = found.split(data.tokenizer, data.manifest["max_length"])
        (rows, _) = generate.selected(config, data, generator, found, split)
        assert sorted(rows.tolist()) == expected


def test_a_mini_batch_has_a_text_of_every_cluster(chain: Chain, store: Store) -> None:
    data = prepared(chain().source, store)
    labels = [0] * 12 + [1] * 4
    texts = [(f"word{number}",) for number in range(16)]
    sequences = Sequences.of([[1, 2]] * 16, labels)
    clusters = np.asarray([0] * 7 + [1] * 4 + [2] + [0] * 4)
    pool = TextPool(sequences, texts, clusters, data)
    for update in range(20):
        rows = pool.batch(0, 3, 3, update)
        assert rows.tolist() == [update % 7, 7 + update % 4, 11]
        filled = pool.batch(1, 4, 2, update)  # of cluster 1 there is none
        assert sorted(filled.tolist()) == [12, 13, 14, 15]


def test_a_text_is_no_longer_than_the_language_model_reads(chain: Chain, store: Store, language_model: Path) -> None:
    """It has 40 positions: a class's token, 38 of text, the end; of a pair 37, and what separates; a prompt before."""
    config = chain(pairs=True)
    assert config.parent is not None
    assert config.parent.parent is not None
    data, plain = prepared(config.parent.parent.source, store), fresh(language_model)
    prompted = Generator.fresh(language_model, 2, 3, "cpu", ["word1 word2 bad", "good"])
    for generator, fields, most in ((plain, 1, 38), (plain, 2, 37), (prompted, 1, 35)):
        assert longest_text(generator, data, Sampling(max_tokens=most), fields) == most
        with pytest.raises(InputError, match=rf"max_tokens: {most + 1} is more than .* reads; give at most {most}"):
            longest_text(generator, data, Sampling(max_tokens=most + 1), fields)
    assert longest_text(plain, data, Sampling(), 2) == int(data.split("train").lengths.max())


def test_updates_take_turns_through_all_texts(chain: Chain, store: Store) -> None:
    texts, labels = [(f"word{number}",) for number in range(16)], [0] * 12 + [1] * 4
    pool = TextPool(Sequences.of([[1, 2]] * 16, labels), texts, np.zeros(16, np.int64), prepared(chain().source, store))
    looked = np.concatenate([pool.batch(0, 5, 1, update) for update in range(12)])
    assert np.bincount(looked).tolist() == [5] * 12
    assert all(len({*looked[start : start + 5].tolist()}) == 5 for start in range(0, 60, 5))


def test_clusters_are_of_what_a_text_says(
    chain: Chain, store: Store, encoder_folder: Callable[..., Path], language_model: Path
) -> None:
    """An encoder that tells keywords apart clusters texts by their keyword."""
    data = prepared(chain().source, store)
    student = Student.load(encoder_folder("bert", pretrained=True), ["classifier.weight", "classifier.bias"], "cpu")
    words = [KEYWORDS[0][number % 3] for number in range(12)]
    texts = [(f"{FILLERS[number]} {word}",) for number, word in enumerate(words)]
    found = Written(Sequences.of([[1, 2]] * 12, [0] * 12), texts)
    method = DiLM(name="dilm", shots=3)
    numbers = clustered(found, as_split(texts, [0] * 12, data.tokenizer, 40), student, method, 1)
    assert len({(word, number) for word, number in zip(words, numbers.tolist(), strict=True)}) == 3
    same = Written(Sequences.of([[1, 2]] * 4, [0] * 4), texts[:1] * 4)
    alike = as_split(texts[:1] * 4, [0] * 4, data.tokenizer, 40)
    assert set(clustered(same, alike, student, method, 1).tolist()) == {0}


def test_teachers_take_turns_and_are_of_their_class(chain: Chain, store: Store) -> None:
    config = chain().parent
    assert config is not None
    data = prepared(config.source, store)
    train = data.split("train")
    student = Student.load(data.model_folder, data.manifest["fresh_parameters"], "cpu")
    teachers = Teachers(config, data, train, student)
    labels = train.labels.numpy()
    for label in range(2):
        first, second, third = (teachers.at(update, label).tolist() for update in range(3))
        assert first == third
        assert first != second
        assert len(set(first)) == 5
        assert set(labels[first]) == {label}
    state = teachers.state()
    again = Teachers(config, data, train, student)
    assert again.state() == {}, "nothing is looked for before it is asked for"
    again.restore({"teachers": state["teachers"].flip(0)})
    assert again.at(0, 1).tolist() == teachers.at(1, 1).tolist()
    drawn = Teachers(config.model_copy(update={"method": _with_random(config.method)}), data, train, student)
    assert drawn.state() == {}
    draws = {tuple(drawn.at(update, 0).tolist()) for update in range(5)}
    assert len(draws) == 5
    assert drawn.at(3, 1).tolist() == drawn.at(3, 1).tolist()


def _with_random(method: Any) -> Any:
    return method.model_copy(update={"teachers": method.teachers.model_copy(update={"choose": "random"})})
