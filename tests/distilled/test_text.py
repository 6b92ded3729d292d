"""Sets as text: what they say, and the same set for another tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import RobertaProcessing
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import tokenise, tokenise_plainly
from pipeline.distilled import DistilledSet, Recipe, retokenised, texts, transferred
from pipeline.distilled.text import token_tensors, written_out
from pipeline.errors import InputError
from pipeline.store.atomic import write_json
from tests.language_stand_in import byte_tokenizer

WORDS = ["the", "film", "is", "good", "bad"]
SINGLE = [["the film is good"], ["bad"]]
PAIRS = [["the film is good", "bad"], ["film", "the good film"]]


def bert_like(words: list[str], **more: Any) -> BertTokenizerFast:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    return BertTokenizerFast(vocab={word: number for number, word in enumerate(vocabulary)}, **more)


def roberta_like(words: list[str], **more: Any) -> PreTrainedTokenizerFast:
    """``<s> a </s></s> b </s>``, and no segment ids."""
    ids = {word: number for number, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *words])}
    plain = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    plain.pre_tokenizer = WhitespaceSplit()
    plain.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False, add_prefix_space=False)
    marks = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", **marks, **more)


def set_of(tokenizer: Any, rows: list[list[str]], **about: Any) -> DistilledSet:
    encoded = tokenizer(*(list(column) for column in zip(*rows, strict=True)))
    return DistilledSet(
        labels=torch.eye(2)[: len(rows)],
        label_ids=torch.arange(len(rows)),
        recipe=Recipe("finetune"),
        about=about,
        **token_tensors(encoded),
    )


def test_ids_are_padded_with_nothing() -> None:
    made = token_tensors({"input_ids": [[2, 5, 3], [2, 3]], "token_type_ids": [[0, 0, 1], [0, 0]]})
    assert made["token_ids"] is not None
    assert made["token_ids"].tolist() == [[2, 5, 3, -1, -1, -1, -1, -1], [2, 3, -1, -1, -1, -1, -1, -1]]
    assert made["token_type_ids"] is not None
    assert made["token_type_ids"].tolist() == [[0, 0, 1, 0, 0, 0, 0, 0], [0] * 8]


@pytest.mark.parametrize("kind", [bert_like, roberta_like])
@pytest.mark.parametrize("rows", [SINGLE, PAIRS])
def test_texts_are_what_was_tokenised(kind: Callable[[list[str]], Any], rows: list[list[str]]) -> None:
    tokenizer = kind(WORDS)
    assert texts(set_of(tokenizer, rows), tokenizer) == [tuple(row) for row in rows]


def test_an_unknown_word_parts_no_text_and_an_empty_one_is_one() -> None:
    tokenizer = bert_like(WORDS)
    assert texts(set_of(tokenizer, [["the qqq film"], [""]]), tokenizer) == [("the [UNK] film",), ("",)]
    assert texts(set_of(tokenizer, [["the", ""], ["film", "good"]]), tokenizer) == [("the", ""), ("film", "good")]


@pytest.mark.parametrize("rows", [SINGLE, PAIRS])
def test_another_tokenizer_reads_the_same_text(rows: list[list[str]]) -> None:
    """The other one has its words in another order, other marks and no segment ids."""
    first, second = bert_like(WORDS), roberta_like(WORDS[::-1])
    made = set_of(first, rows, model={"name": "one", "pad_token_id": 0}, kept=1)
    moved = retokenised(made, first, second, 12)
    direct = set_of(second, rows)
    assert moved.token_ids is not None
    assert direct.token_ids is not None
    assert torch.equal(moved.token_ids, direct.token_ids)
    assert moved.token_type_ids is None
    assert moved.about["model"]["pad_token_id"] == 1
    assert moved.about["kept"] == 1
    batch = moved.examples([0, 1])
    assert batch["input_ids"][batch["attention_mask"] == 0].unique().tolist() == [1], "its own padding"
    back = retokenised(moved, second, first, 12)
    for name in ("token_ids", "token_type_ids"):
        assert torch.equal(getattr(back, name), getattr(made, name))


def test_longer_text_is_cut() -> None:
    first, second = bert_like(WORDS), roberta_like(WORDS)
    moved = retokenised(set_of(first, SINGLE), first, second, 4)
    assert texts(moved, second) == [("the film",), ("bad",)]


def test_what_is_no_text_is_refused() -> None:
    tokenizer = bert_like(WORDS)
    about = {"model": {"name": "some/bert"}}
    made = {"labels": torch.eye(2), "label_ids": torch.arange(2), "recipe": Recipe("ddal"), "about": about}
    with pytest.raises(InputError, match=r"embeddings of some/bert, which are no text; make a set of its"):
        texts(DistilledSet(inputs_embeds=torch.zeros(2, 3, 4), **made), tokenizer)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"holds sentence vectors of some/bert, which are no text"):
        texts(DistilledSet(vectors=torch.zeros(2, 4), **made), tokenizer)  # type: ignore[arg-type]


# --- transfer ------------------------------------------------------------------------------------------------------


def prepared(folder: Path, tokenizer: Any, sentences: list[str], labels: list[int]) -> Prepared:
    rows = Dataset.from_dict({"text": sentences, "label": labels})
    tokenise(rows, ("text",), tokenizer, 12).save_to_disk(folder / "train")
    tokenizer.save_pretrained(folder / "model")
    (folder / "model" / "config.json").write_text('{"model_type": "bert"}')
    model = {"name": folder.name, "revision": None, "pad_token_id": tokenizer.pad_token_id}
    model |= {"padding_side": tokenizer.padding_side}
    facts = {"model": model, "architecture": "x", "embedding_hash": folder.name, "max_length": 12}
    write_json(folder / "manifest.json", facts)
    return Prepared(folder)


def test_real_rows_are_the_other_encoders_own_tokens_of_them(tmp_path: Path) -> None:
    """The first tokenizer knows one word of them: decoding would lose the others."""
    sentences, labels = ["the film", "good good film", "is bad"], [0, 1, 0]
    small, large = bert_like(["film"]), bert_like(WORDS)
    own = prepared(tmp_path / "own", small, sentences, labels)
    other = prepared(tmp_path / "other", large, sentences, labels)
    made = set_of(small, [["is bad"], ["good good film"]], chosen={"rows": [2, 1]})
    moved = transferred(made, own, other)
    assert texts(moved, large) == [("is bad",), ("good good film",)]
    assert moved.about["model"]["embedding_hash"] == "other"
    assert texts(moved.prefix(1), large) == texts(moved, large)
    shuffled = prepared(tmp_path / "shuffled", large, sentences[::-1], [0, 0, 1])
    with pytest.raises(InputError, match="its training rows are not those of"):
        transferred(made, own, shuffled)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", [bert_like, roberta_like])
def test_students_learn_from_rows_padded_as_they_are_scored(
    tmp_path: Path, kind: Callable[..., Any], side: str
) -> None:
    """XLNet's tokenizer pads on the left, and its head reads the last position."""
    sentences = ["bad", "the film is good is the film bad film is good"]
    first, second = bert_like(WORDS), kind(WORDS[::-1], padding_side=side)
    own = prepared(tmp_path / "own", first, sentences, [0, 1])
    other = prepared(tmp_path / "other", second, sentences, [0, 1])
    written = retokenised(set_of(first, [[one] for one in sentences]), first, second, 12)
    for made in (transferred(set_of(first, SINGLE, chosen={"rows": [0, 1]}), own, other), written):
        for rows in ([0, 1], [0], [1, 0]):
            batch, scored = made.examples(rows), other.split("train").batch(rows)
            names = [name for name in scored if name != "labels"]
            assert set(batch) == {*names, "labels"}
            assert all(torch.equal(batch[name], scored[name]) for name in names)
    places = [1] * 12 + [0] * 4, [1] * 3 + [0] * 13
    assert batch["attention_mask"].tolist() == [each[::-1] if side == "left" else each for each in places]


def test_other_sets_are_decoded(tmp_path: Path) -> None:
    first, second = bert_like(WORDS), roberta_like(WORDS[::-1])
    own, other = (prepared(tmp_path / name, one, ["the"], [0]) for name, one in (("a", first), ("b", second)))
    moved = transferred(set_of(first, SINGLE, max_length=40), own, other)
    assert texts(moved, second) == [tuple(row) for row in SINGLE]
    assert (moved.about["model"]["name"], moved.about["max_length"]) == ("b", 12)


def spoken(rows: list[list[str]], labels: list[int], folder: Path) -> Prepared:
    """A training split as stage 1 prepares it for a language model."""
    tokenizer = byte_tokenizer()
    columns = {f"text{at}": list(column) for at, column in enumerate(zip(*rows, strict=True))}
    split = Dataset.from_dict(columns | {"label": labels})
    tokenise_plainly(split, tuple(columns), tokenizer, 1000).save_to_disk(folder / "train")
    tokenizer.save_pretrained(folder / "model")
    return Prepared(folder)


def own(tokenizer: Any, folder: Path) -> Prepared:
    tokenizer.save_pretrained(folder / "model")
    return Prepared(folder)


def test_rows_are_shown_to_a_language_model_as_they_were_written(tmp_path: Path) -> None:
    """Upper case and spaces that the set's own tokenizer has lost."""
    rows = [["Bad  film!", "X"], ["The Film\nis good", "Y"], ["good", "Z"]]
    other = spoken(rows, [1, 0, 1], tmp_path / "other")
    made = set_of(bert_like(WORDS), PAIRS, chosen={"rows": [1, 2]})
    shown = written_out(made, own(bert_like(WORDS), tmp_path / "own"), other)
    assert texts(shown, other.tokenizer) == [("The Film\nis good", "Y"), ("good", "Z")]
    assert texts(shown.prefix(1), other.tokenizer) == [("The Film\nis good", "Y"), ("good", "Z")]
    elsewhere = spoken(rows, [1, 1, 1], tmp_path / "elsewhere")
    with pytest.raises(InputError, match="its training rows are not those of"):
        written_out(made, own(bert_like(WORDS), tmp_path / "own"), elsewhere)


def test_text_that_was_never_a_row_is_shown_as_its_tokens_say(tmp_path: Path) -> None:
    other = spoken([["a", "b"]], [0], tmp_path / "other")
    made = set_of(bert_like(WORDS), PAIRS)
    shown = written_out(made, own(bert_like(WORDS), tmp_path / "own"), other)
    assert shown.about["texts"] == [["the film is good", "bad"], ["film", "the good film"]]
    joined = set_of(byte_tokenizer(), PAIRS)
    with pytest.raises(InputError, match="its tokenizer puts nothing between two texts"):
        written_out(joined, own(byte_tokenizer(), tmp_path / "joined"), other)
