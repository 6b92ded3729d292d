"""Tokenised splits on disk (Arrow) and the batches that are read from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_from_disk
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from pipeline.randomness import numpy_generator

Batch = dict[str, Tensor]
BLOCK = 50  # batches whose rows are sorted by length together, where bucketing is asked for


def tokenise(rows: Dataset, text: tuple[str, ...], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Token ids of every row: the columns the tokenizer returns, ``label`` and ``length``.

    Sentence pairs are encoded as a pair; longer rows are truncated to ``max_length`` tokens.
    """

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = tokenizer(*(batch[column] for column in text), truncation=True, max_length=max_length)
        columns = {name: values for name, values in encoded.items() if name != "attention_mask"}
        return columns | {"length": [len(ids) for ids in encoded["input_ids"]]}

    return rows.map(encode, batched=True, remove_columns=list(text), keep_in_memory=True, desc="tokenise")


def tokenise_plainly(
    rows: Dataset, text: tuple[str, ...], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Dataset:
    """Token ids of the text alone, for a language model: no special tokens, no segments; ``label`` and ``length``.

    Of a pair both texts follow each other, and ``first`` says how many tokens the first one has. A row longer than
    ``max_length`` loses the end of its longer text.
    """

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        columns = [tokenizer(batch[name], add_special_tokens=False)["input_ids"] for name in text]
        kept = [shortened(fields, max_length) for fields in zip(*columns, strict=True)]
        found: dict[str, Any] = {"input_ids": [[token for ids in fields for token in ids] for fields in kept]}
        if len(text) > 1:
            found["first"] = [len(fields[0]) for fields in kept]
        return found | {"length": [len(ids) for ids in found["input_ids"]]}

    return rows.map(encode, batched=True, remove_columns=list(text), keep_in_memory=True, desc="tokenise")


def shortened(fields: Sequence[list[int]], most: int) -> list[list[int]]:
    """The texts, cut at their ends so that they have ``most`` tokens together."""
    lengths = [len(ids) for ids in fields]
    while sum(lengths) > most:
        longest = lengths.index(max(lengths))
        second = max([length for at, length in enumerate(lengths) if at != longest], default=0)
        lengths[longest] -= min(sum(lengths) - most, max(1, lengths[longest] - second))
    return [ids[:length] for ids, length in zip(fields, lengths, strict=True)]


def content_hash(rows: Dataset) -> str:
    """SHA-256 of a split's token ids and labels, in order."""
    digest = hashlib.sha256()
    for part in rows.iter(1000):
        for ids, label in zip(part["input_ids"], part["label"], strict=True):
            digest.update(np.asarray([label, *ids], dtype="<i4").tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Split:
    """One tokenised split: rows addressed by position, padded only when a batch is made."""

    rows: Dataset
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def load(cls, folder: Path, tokenizer: PreTrainedTokenizerBase) -> Split:
        """Reads a split that stage 1 wrote."""
        return cls(load_from_disk(str(folder)), tokenizer)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> Tensor:
        """[rows] class of every row."""
        return torch.tensor(self._column("label"), dtype=torch.long)

    @property
    def lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """[rows] tokens of every row."""
        return self._column("length")

    def _column(self, name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        # [:] reads the column at once; iterating over it, as numpy would, reads row by row
        return np.asarray(self.rows.with_format("numpy")[name][:], dtype=np.int64)

    def fields(self) -> Iterator[tuple[list[int], ...]]:
        """The token ids of every row's text, or of both texts of a pair, of a split prepared for a language model."""
        pair = "first" in self.rows.column_names
        for row in self.rows:
            ids = row["input_ids"]
            yield (ids[: row["first"]], ids[row["first"] :]) if pair else (ids,)

    def select(self, indices: Any) -> Split:
        """The split of these rows."""
        return Split(self.rows.select(indices), self.tokenizer)

    def batch(self, indices: Any, device: torch.device | str = "cpu") -> Batch:
        """Rows as tensors [rows, length], padded to the longest, rounded up to a multiple of 8."""
        found = self.rows[indices]
        names = [name for name in found if name not in ("length", "label")]
        rows = [{name: found[name][row] for name in names} for row in range(len(found["label"]))]
        collated = DataCollatorWithPadding(self.tokenizer, pad_to_multiple_of=8)(rows)
        return {name: value.to(device) for name, value in collated.items()} | {
            "labels": torch.tensor(found["label"], device=device)
        }

    def batches(self, device: torch.device | str = "cpu", size: int = 64) -> list[tuple[Tensor, Batch]]:
        """The whole split as (row positions, batch) in order of length, so that little is padded; every row once."""
        return list(self.by_length(device, size))

    def by_length(
        self, device: torch.device | str = "cpu", size: int = 64, after: int = 0
    ) -> Iterator[tuple[Tensor, Batch]]:
        """The same batches one at a time, ``after`` so many rows, for splits that are read once and may be large."""
        order = np.argsort(self.lengths, kind="stable")
        for start in range(after, len(order), size):
            rows = order[start : start + size]
            yield torch.from_numpy(rows), self.batch(rows, device)

    def stratified(self, rows: int, seed: int, purpose: str) -> Split:
        """At most ``rows`` rows with the split's class shares, a fixed draw of (seed, purpose)."""
        return self if rows >= len(self) else self.select(self.stratified_rows(rows, seed, purpose))

    def stratified_rows(self, rows: int, seed: int, purpose: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Their positions, in ascending order."""
        if rows >= len(self):
            return np.arange(len(self))
        labels = self.labels.numpy()
        order = numpy_generator(seed, purpose).permutation(len(labels))
        classes, counts = np.unique(labels, return_counts=True)
        exact = counts * rows / len(labels)
        quota = np.floor(exact).astype(int)
        # what rounding down leaves goes to the classes that lost most by it
        quota[np.argsort(quota - exact, kind="stable")[: rows - quota.sum()]] += 1
        taken = [order[labels[order] == label][:number] for label, number in zip(classes, quota, strict=True)]
        return np.sort(np.concatenate(taken))


class TrainingOrder:
    """Which rows the real batch of outer step k holds: a pure function of (seed, k).

    A seeded permutation per epoch, the incomplete last batch dropped (never the only one). With ``bucket``, rows are
    sorted by length inside blocks of 50 batches and the batches of a block shuffled.
    """

    def __init__(self, lengths: np.ndarray[Any, Any], batch_size: int, seed: int, bucket: bool = False) -> None:
        self.lengths, self.batch_size, self.seed, self.bucket = lengths, batch_size, seed, bucket
        self._latest: tuple[int, np.ndarray[Any, Any]] = (-1, lengths)

    @property
    def batches_per_epoch(self) -> int:
        """Full batches in one pass over the split."""
        return max(1, len(self.lengths) // self.batch_size)

    def at(self, step: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Row positions of step ``step``'s batch."""
        epoch, position = divmod(step, self.batches_per_epoch)
        if self._latest[0] != epoch:
            self._latest = (epoch, self._epoch(epoch))
        return self._latest[1][position * self.batch_size : (position + 1) * self.batch_size]

    def _epoch(self, epoch: int) -> np.ndarray[Any, Any]:
        order = numpy_generator(self.seed, "real batches", epoch).permutation(len(self.lengths))
        return self._bucketed(order, epoch) if self.bucket else order

    def _bucketed(self, order: np.ndarray[Any, Any], epoch: int) -> np.ndarray[Any, Any]:
        kept = order[: self.batches_per_epoch * self.batch_size]
        blocks = []
        for number, start in enumerate(range(0, len(kept), BLOCK * self.batch_size)):
            block = kept[start : start + BLOCK * self.batch_size]
            block = block[np.argsort(self.lengths[block], kind="stable")]
            batches = [block[first : first + self.batch_size] for first in range(0, len(block), self.batch_size)]
            shuffled = numpy_generator(self.seed, "bucketed batches", epoch, number).permutation(len(batches))
            blocks += [batches[index] for index in shuffled]
        return np.concatenate(blocks)
