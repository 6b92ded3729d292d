"""Prompts as tokens: pieces are those of the whole text, and the query survives any limit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import DiLMPrompting, Prompting
from pipeline.errors import InputError
from pipeline.evaluation.prompts import Writer
from tests.language_stand_in import byte_tokenizer

TEXTS = [("a fine film",), ("dull",), ("bright and strong",), ("weak, bad",)]
LABELS = [1, 0, 1, 0]
NAMES = ("bad", "good")


def writer(limit: int = 1000, *, begins: bool = False, columns: tuple[str, ...] = ("text",), **options: Any) -> Writer:
    recipe = Prompting(name="prompting", **options).recipe_for(columns)
    return Writer(recipe, columns, NAMES, byte_tokenizer(begins=begins), limit)


def test_pieces_are_the_tokens_of_the_whole_text() -> None:
    found = writer(template="Review: {text}\nSentiment: {label}", instruction="Good or bad?")
    shots = found.shots(TEXTS, LABELS)
    query = found.query(("so so",), shots)
    text = (
        "Good or bad?\n\nReview: a fine film\nSentiment: good\n\nReview: dull\nSentiment: bad\n\n"
        "Review: bright and strong\nSentiment: good\n\nReview: weak, bad\nSentiment: bad\n\nReview: so so\nSentiment:"
    )
    tokenizer = byte_tokenizer()
    assert [*shots.prefix(4), *query.ids] == tokenizer(text)["input_ids"]
    assert [*shots.prefix(4), *query.ids, *found.names[1]] == tokenizer(text + " good")["input_ids"]
    assert (query.shots, query.cut) == (4, False)


def test_the_default_template_and_no_examples() -> None:
    found = writer(columns=("one", "other"), begins=True)
    query = found.query(("a", "b"), found.shots([], []))
    assert byte_tokenizer().decode(query.ids) == "one: a\nother: b\nlabel:"
    assert found.shots([], []).prefix(0) == [0], "what the tokenizer begins every text with"


def test_braces_of_texts_and_odd_columns_are_text() -> None:
    found = writer(columns=("a.b",), template="{{{a.b}}} is {label}")
    assert found.text(("{x} {label}",), 1) == "{{x} {label}} is good"


def test_what_calibrates_fits_after_the_same_examples() -> None:
    """An input without content that is longer than the query takes the room that the query alone would leave."""
    template, long = "T: {text}\nL: {label}", "no content at all"
    for limit in range(30, 200):
        found = writer(limit, template=template, calibration=("N/A", long))
        shots = found.shots(TEXTS, LABELS)
        query, names = found.query(("ok",), shots), max(map(len, found.names))
        read = [len(shots.prefix(query.shots)) + len(found.led((text,), query.shots)) for text in ("ok", "N/A", long)]
        assert max(read) + names <= limit
        more = query.shots + 1
        if more <= len(TEXTS):
            assert len(shots.prefix(more)) + len(found.led((long,), more)) + names > limit
    with pytest.raises(InputError, match=r"calibration: its longest input takes 23 tokens .* and 22 fit"):
        writer(26, template=template, calibration=("N/A", long))


def test_dilms_prompt_is_the_published_one() -> None:
    recipe = DiLMPrompting(name="dilm_prompting", keys=("sentence",)).recipe_for(("text",))
    found = Writer(recipe, ("text",), NAMES, byte_tokenizer(), 1024)
    shots = found.shots(TEXTS[:2], LABELS[:2])
    whole = [*shots.prefix(2), *found.query(("so so",), shots).ids]
    text = "sentence: a fine film\nlabel: good\n\nsentence: dull\nlabel: bad\n\nsentence: so so\nlabel:"
    assert whole == byte_tokenizer()(text)["input_ids"]
    first = [byte_tokenizer()(name)["input_ids"][:1] for name in (" bad", " good")]
    assert found.names == first
    assert recipe.max_tokens == 1024


def test_names_that_begin_alike_have_no_first_token_of_their_own() -> None:
    recipe = Prompting(name="prompting", scoring="first").recipe_for(("text",))
    with pytest.raises(InputError, match="'good' and 'great' begin with the same token"):
        Writer(recipe, ("text",), ("good", "great"), byte_tokenizer(), 100)


def test_examples_are_dropped_from_the_front() -> None:
    """Counted by hand: a token per byte, but `` b`` and `` g`` (of names and of texts) are one."""
    tokenizer, template = byte_tokenizer(), "T: {text}\nL: {label}"
    texts = [
        f"T: {text}\nL: {NAMES[label]}" for (text,), label in zip(TEXTS, LABELS, strict=True)
    ] + ["T: so so\nL: good"]  # fmt: skip
    whole = [tokenizer("\n\n".join(texts[kept:]))["input_ids"] for kept in range(5)]  # all examples, all but one, …
    for dropped in range(5):
        exact = writer(len(whole[dropped]), template=template)
        shots = exact.shots(TEXTS, LABELS)
        query = exact.query(("so so",), shots)
        assert (query.shots, query.cut) == (4 - dropped, False)
        assert [*shots.prefix(query.shots), *query.ids, *exact.names[1]] == whole[dropped]
        if dropped < 4:
            tight = writer(len(whole[dropped]) - 1, template=template)
            assert tight.query(("so so",), tight.shots(TEXTS, LABELS)).shots == 3 - dropped


@given(
    limit=st.integers(30, 400),
    text=st.text("abc déf.\n☃", max_size=120),
    cut=st.sampled_from(["end", "beginning"]),
    instruction=st.sampled_from(["", "Say."]),
)
@settings(max_examples=60, deadline=None)
def test_the_query_survives_any_limit(limit: int, text: str, cut: str, instruction: str) -> None:
    found = writer(limit, template="T: {text}\nL: {label}", cut=cut, instruction=instruction)
    shots = found.shots(TEXTS, LABELS)
    query = found.query((text,), shots)
    whole = [*shots.prefix(query.shots), *query.ids]
    assert len(whole) + max(map(len, found.names)) <= limit
    read = byte_tokenizer().decode(whole)
    assert read.startswith(instruction)
    assert read.endswith("\nL:")
    asked = byte_tokenizer().decode(query.ids).removeprefix("\n\n" if query.shots or instruction else "")
    asked = asked.removeprefix("T: ").removesuffix("\nL:")
    if not query.cut:
        assert asked == text
    else:
        kept = asked.strip("\ufffd")  # a character may have lost some of its bytes
        assert text.startswith(kept) if cut == "end" else text.endswith(kept)
        assert len(asked.encode()) < len(text.encode())
        assert query.shots == 0


def test_of_a_pair_the_longer_text_is_cut() -> None:
    found = writer(40, columns=("a", "b"), template="{a}|{b}|{label}")
    query = found.query(("x" * 50, "short"), found.shots([], []))
    read = byte_tokenizer().decode(query.ids)
    assert read == "x" * (40 - len("good") - len("|short|")) + "|short|"
    assert query.cut


def test_a_template_that_does_not_fit_alone_is_refused() -> None:
    found = writer(10, template="a very long template {text}\n{label}")
    with pytest.raises(InputError, match=r"max_tokens: the template alone needs 1[0-9] tokens more"):
        found.query(("x",), found.shots([], []))
