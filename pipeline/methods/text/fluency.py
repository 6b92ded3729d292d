"""What a language model of the task thinks of a set's words: how likely texts are, and which words come next.

The language model has a vocabulary of its own. It reads the set's texts as its tokenizer writes them, and an encoder's
token is as likely as the first token of its writing, so that GRADMM's top-k projection (Nguyen et al., 2025), which has
one model for both, serves encoders. A class's begin token comes first, so that likely means likely in that class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pipeline.methods.dilm.generator import Generator
from pipeline.methods.dilm.sequences import Sequences
from pipeline.methods.text.set import Vocabulary
from pipeline.methods.text.start import texts_in
from pipeline.students.vocabulary import Measure


class Fluency:
    """A generator beside an encoder's vocabulary.

    Args:
        generator: a language model with a begin token per class.
        tokenizer: the encoder's.
        vocabulary: what tokens may become.
        marks: the encoder's special tokens before, between and after the texts of a row.
        classes: C; sample i is of class i mod C.

    """

    def __init__(
        self,
        generator: Generator,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary: Vocabulary,
        marks: Sequence[Sequence[int]],
        classes: int,
    ) -> None:
        self.generator, self.tokenizer, self.vocabulary, self.classes = generator, tokenizer, vocabulary, classes
        self._before, *self._between = marks[:-1]
        self._after = marks[-1]
        barred = torch.zeros(len(vocabulary.matrix), dtype=torch.bool)
        barred[vocabulary.barred] = True
        (self.allowed,) = (~barred).nonzero(as_tuple=True)
        self._first = {begins: self._first_tokens(begins) for begins in (True, False)}

    def _first_tokens(self, begins: bool) -> Tensor:
        """[allowed] the generator's first token of each, where it begins a text or follows a word; −1 for none."""
        alone = self.tokenizer.batch_decode(self.allowed.unsqueeze(1).tolist())
        if not begins:
            word = next(token for token, text in zip(self.allowed.tolist(), alone, strict=True) if text.isalpha())
            written = self.tokenizer.batch_decode([[word, token] for token in self.allowed.tolist()])
            alone = [text[len(self.tokenizer.decode([word])) :] for text in written]
        return torch.tensor([next(iter(ids), -1) for ids in self._written(alone)])

    def _written(self, texts: list[str]) -> list[list[int]]:
        """As the generator's tokenizer has them."""
        found: list[list[int]] = self.generator.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return found

    def _sequence(self, content: list[int], sample: int) -> list[int]:
        """What the generator reads of a row between its first and its last marks, and the end token."""
        texts = self.tokenizer.batch_decode(texts_in(content, self._between))
        return self.generator.wrapped(self._written(texts), sample % self.classes)

    def loss(self, token_ids: Tensor) -> float:
        """Mean over samples [N, S] of the generator's loss per token of its own."""
        contents = [row[len(self._before) : len(row) - len(self._after)] for row in token_ids.tolist()]
        sequences = Sequences.of((self._sequence(row, at) for at, row in enumerate(contents)), [0] * len(contents))
        return self.generator.mean_losses(sequences).mean().item()

    @torch.no_grad()
    def nearest(self, points: Tensor, token_ids: Tensor, free: Tensor, measure: Measure, count: int) -> Tensor:
        """[N, S] tokens nearest to points, among the likeliest after the tokens that were chosen before them.

        From left to right, as GRADMM projects.

        Args:
            points: [N, S, E].
            token_ids: [N, S] of which those that are not free stay.
            free: [N, S] whether a token may change.
            measure: by which nearest is meant.
            count: likeliest tokens to choose among.

        """
        found, matrix = token_ids.clone(), self.vocabulary.matrix.double()
        for place in range(found.shape[1]):
            rows = free[:, place].nonzero(as_tuple=True)[0].tolist()
            if not rows:
                continue
            likely = self.allowed[self._scores(found, rows, place).argsort(dim=1, descending=True, stable=True)]
            likely = likely[:, :count].to(matrix.device)
            own, others = points[rows, place].double().unsqueeze(1), matrix[likely]
            distances = (
                (own - others).norm(dim=-1) if measure == "l2" else 1 - torch.cosine_similarity(own, others, dim=-1)
            )
            found[rows, place] = likely.gather(1, distances.argmin(dim=1, keepdim=True)).squeeze(1).cpu()
        return found

    def _scores(self, token_ids: Tensor, rows: Sequence[int], place: int) -> Tensor:
        """[rows, allowed] log-probability that each token stands at ``place``, after those before it."""
        starts = list(self._beginnings(token_ids, rows, place))
        sequences = Sequences.of((ids for ids, _ in starts), [0] * len(starts))
        ids, mask = sequences.batch(torch.arange(len(starts)), self.generator.pad, self.generator.device)
        logits = self.generator.logits(ids, mask)
        ends = mask.sum(dim=1) - 1
        last = logits[torch.arange(len(starts), device=ends.device), ends].float().log_softmax(dim=-1).cpu()
        scores = [each[self._first[begins]] for each, (_, begins) in zip(last, starts, strict=True)]
        unwritten = torch.stack([self._first[begins] < 0 for _, begins in starts])
        return torch.stack(scores).masked_fill_(unwritten, -torch.inf)

    def _beginnings(self, token_ids: Tensor, rows: Sequence[int], place: int) -> Iterator[tuple[list[int], bool]]:
        """Of each row what the generator has read before ``place``, and whether a text begins there."""
        for row in rows:
            content = token_ids[row, len(self._before) : place].tolist()
            yield self._sequence(content, row)[:-1], not texts_in(content, self._between)[-1]
