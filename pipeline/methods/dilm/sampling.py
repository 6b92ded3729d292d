"""Texts that a generator writes: nucleus sampling in batches, each a draw of (seed, class, batch)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import GenerationConfig, PreTrainedTokenizerBase

from pipeline import stopping
from pipeline.config import Sampling
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Split, tokenise
from pipeline.errors import InputError, StageError
from pipeline.methods.budgets import Integers
from pipeline.methods.dilm.generator import Generator, Text
from pipeline.methods.dilm.sequences import Sequences, joined
from pipeline.progress import bar
from pipeline.randomness import seeded

_SPARE = 4  # times as many texts as are needed are written before a generator counts as unable to


def longest_text(generator: Generator, written: Prepared, sampling: Sampling, fields: int) -> int:
    """Tokens that a text has at most: ``max_tokens``, else as many as the longest training row.

    Args:
        generator: that writes it.
        written: the task as prepared for the language model.
        sampling: how texts are drawn.
        fields: of a text: 1, or 2 for pairs.

    Raises:
        InputError: the language model reads no text that long.

    """
    positions, asked = written.manifest["positions"], sampling.max_tokens
    beside = generator.prompt_length + 1 + fields  # begin and end, and what separates a pair
    if asked is not None and positions is not None and asked > positions - beside:
        raise InputError(
            f"sampling.max_tokens: {asked} is more than {written.manifest['model']['name']} reads; "
            f"give at most {positions - beside}"
        )
    return asked or int(written.split("train").lengths.max())


@dataclass(frozen=True)
class Written:
    """Texts of a generator, class by class.

    Attributes:
        sequences: as they were written.
        texts: the same as text.
        unusable: texts that were left out because they were empty, or no pair.
        repeated: texts that were left out because their class had them.

    """

    sequences: Sequences
    texts: list[Text]
    unusable: int = 0
    repeated: int = 0

    def of_class(self, label: int) -> Integers:
        """Positions of one class's, in the order of writing."""
        return np.flatnonzero(self.sequences.labels.numpy() == label)

    def split(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Split:
        """The texts as an encoder reads them."""
        return as_split(self.texts, self.sequences.labels.tolist(), tokenizer, max_length)


def as_split(
    texts: Sequence[Text], labels: Sequence[int], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Split:
    """Texts with labels, tokenised as stage 1 does."""
    names = tuple(f"text {number}" for number in range(len(texts[0])))
    columns: dict[str, Any] = dict(zip(names, map(list, zip(*texts, strict=True)), strict=True))
    rows = Dataset.from_dict(columns | {"label": list(labels)})
    return Split(tokenise(rows, names, tokenizer, max_length), tokenizer)


def write(
    generator: Generator, count: int, fields: int, sampling: Sampling, longest: int, seed: int, *, distinct: bool
) -> Written:
    """``count`` usable texts of every class.

    Args:
        generator: which writes them without dropout.
        count: per class.
        fields: of a text: 1, or 2 for pairs.
        sampling: how tokens are drawn.
        longest: tokens of a text at most.
        seed: of the draws; batch b of a class is the same whatever ``count`` is.
        distinct: keep each text once per class.

    Raises:
        StageError: a class has too few usable texts even among four times as many.
        Stopped: a signal came.

    """
    parts, texts, unusable, repeated = [], [], 0, 0
    with bar(count * len(generator.begin), "write", "text") as shown, _drawing(generator, sampling):
        for label in range(len(generator.begin)):
            found, seen, tries = _Kept(distinct), 0, 0
            while len(found.texts) < count:
                stopping.check()
                if seen >= _SPARE * count + 8 * sampling.batch_size:
                    raise StageError(
                        f"the generator wrote {len(found.texts)} usable texts of class {label} of the {count} that are "
                        f"needed, in {seen}; train it longer, ask for fewer, or set a higher sampling.temperature"
                    )
                with seeded(seed, "texts", label, tries):
                    rows = _batch(generator, label, fields, sampling, longest)
                seen, tries = seen + len(rows), tries + 1
                found.add(rows, generator, fields, count)
                shown.update(min(count * label + len(found.texts), shown.total or 0) - shown.n)
            parts.append(Sequences.of(found.rows, [label] * count))
            texts += found.texts
            unusable, repeated = unusable + found.unusable, repeated + found.repeated
    return Written(joined(parts), texts, unusable, repeated)


class _Kept:
    """What is usable of what was written of one class."""

    def __init__(self, distinct: bool) -> None:
        self.distinct = distinct
        self.rows: list[list[int]] = []
        self.texts: list[Text] = []
        self.unusable = self.repeated = 0
        self._known: set[Text] = set()

    def add(self, rows: Sequence[list[int]], generator: Generator, fields: int, most: int) -> None:
        """Takes what is usable, up to ``most`` in all."""
        for row in rows:
            if len(self.texts) == most:
                return
            text = generator.text(row, fields)
            if text is None:
                self.unusable += 1
            elif self.distinct and text in self._known:
                self.repeated += 1
            else:
                self._known.add(text)
                self.rows.append(row)
                self.texts.append(text)


@contextlib.contextmanager
def _drawing(generator: Generator, sampling: Sampling) -> Iterator[None]:
    before, generator.precision = generator.precision, sampling.precision
    try:
        with generator.scoring():
            yield
    finally:
        generator.precision = before


@torch.no_grad()
def _batch(generator: Generator, label: int, fields: int, sampling: Sampling, longest: int) -> list[list[int]]:
    """The sequences of one batch, without padding; in the random state of the moment."""
    never = [*generator.begin, generator.pad, *([] if fields > 1 else [generator.separator])]
    settings = GenerationConfig(
        do_sample=True,
        top_p=sampling.top_p,
        top_k=sampling.top_k or 0,
        temperature=sampling.temperature,
        repetition_penalty=sampling.repetition_penalty,
        max_new_tokens=longest + fields,  # and what separates and ends
        suppress_tokens=never,
        bos_token_id=generator.begin[label],
        eos_token_id=generator.end,
        pad_token_id=generator.pad,
    )
    prompt = generator.prompts[label]
    start = torch.tensor([[*prompt, generator.begin[label]]], device=generator.device).expand(sampling.batch_size, -1)
    with generator.autocast():
        found = generator.model.generate(
            input_ids=start, attention_mask=torch.ones_like(start), generation_config=settings
        )
    return [_ended(row, generator) for row in found[:, len(prompt) :].tolist()]


def _ended(row: list[int], generator: Generator) -> list[int]:
    """A sequence up to its end token; without one, where it grew too long, up to the padding."""
    for at, token in enumerate(row):
        if token == generator.end:
            return row[: at + 1]
        if token == generator.pad:
            return row[:at]
    return row
