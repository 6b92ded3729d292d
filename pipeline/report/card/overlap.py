"""What token sequences share with a corpus: whole rows, n-grams, the longest run.

The usual test for contamination of a training set (13-grams in GPT-3's, 8-grams in later ones) turned round: does a
small set hold text of the split that it is scored on?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.tokenised import Split
from pipeline.randomness import numpy_generator

NGRAM = 3
Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shared:
    """What sequences have in common with the rows of a corpus.

    Attributes:
        ngrams: share of all their n-grams (n = 3) that occur in some row; 0 where none is that long.
        longest: length in tokens of the longest run that also stands in one row.

    """

    ngrams: float
    longest: int


class Corpus:
    """The rows of a split without their special tokens.

    Args:
        split: a tokenised split.
        special: token ids that are no text.

    """

    def __init__(self, split: Split, special: Sequence[int]) -> None:
        self._special = np.asarray(sorted(special), np.int64)
        rows = [self.text(ids) for ids in split.rows["input_ids"]]
        self._whole = {row.tobytes() for row in rows}
        # -1 stands between rows: no run goes on over it
        self._flat = np.concatenate([np.append(row, -1) for row in rows]).astype(np.int64)
        self._places = np.argsort(self._flat, kind="stable")
        self._sorted = self._flat[self._places]

    def text(self, ids: Sequence[int] | Tokens) -> Tokens:
        """Token ids without special ones and padding."""
        found = np.asarray(ids, np.int64)
        return found[(found >= 0) & ~np.isin(found, self._special)]

    def drawn(self, lengths: Sequence[int], seed: int, purpose: str) -> list[Tokens]:
        """Random sequences of these lengths: tokens drawn one by one, as often as they occur in the corpus."""
        tokens = self._flat[self._flat >= 0]
        random = numpy_generator(seed, purpose)
        return [random.choice(tokens, length) for length in lengths]

    def whole_rows(self, sequences: Sequence[Tokens]) -> int:
        """How many of the sequences are a whole row, token by token."""
        return sum(len(sequence) > 0 and sequence.tobytes() in self._whole for sequence in sequences)

    def shared(self, sequences: Sequence[Tokens]) -> Shared:
        """What sequences of text tokens have in common with the rows."""
        runs = [self._runs(sequence) for sequence in sequences]
        ends = np.concatenate([np.empty(0, np.int64), *(run[NGRAM - 1 :] for run in runs)])
        return Shared(
            ngrams=float((ends >= NGRAM).mean()) if len(ends) else 0.0,
            longest=max((int(run.max()) for run in runs if len(run)), default=0),
        )

    def _runs(self, sequence: Tokens) -> Tokens:
        """[length] at each position, how long the run is that ends there and also stands in the corpus."""
        places, lengths = np.empty(0, np.int64), np.empty(0, np.int64)  # where runs of the position before end
        found = np.zeros(len(sequence), np.int64)
        for at, token in enumerate(sequence):
            first, last = np.searchsorted(self._sorted, [token, token + 1])
            hits = self._places[first:last]
            into = np.searchsorted(places, hits - 1)
            goes_on = into < len(places)
            goes_on[goes_on] = places[into[goes_on]] == hits[goes_on] - 1
            now = np.ones(len(hits), np.int64)
            now[goes_on] += lengths[into[goes_on]]
            places, lengths = hits, now
            found[at] = now.max(initial=0)
        return found
