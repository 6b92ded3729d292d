"""Prompts as token ids: examples, query, names of the classes, and what is left out where a prompt is too long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter

from transformers import PreTrainedTokenizerBase

from pipeline.config import Prompting
from pipeline.data.tokenised import shortened
from pipeline.errors import InputError

Ids = list[int]
Texts = Sequence[str]


@dataclass(frozen=True)
class Query:
    """What follows the examples.

    Attributes:
        ids: its tokens, up to where the name of its class is asked for.
        shots: how many examples stand before it: the last ones of the order.
        cut: whether text is missing.

    """

    ids: Ids
    shots: int
    cut: bool


class Writer:
    """Writes prompts of one recipe.

    A prompt is read in pieces that begin with the separator or with the space before a name. Every piece has the tokens
    that it has after what stands before it; where a tokenizer would join them over that border, those of its own.

    Args:
        recipe: with its template.
        columns: the task's text columns, in the order of a sample's texts.
        names: of the classes.
        tokenizer: of the language model.
        limit: tokens of a prompt with its label.

    Attributes:
        names: [C] token ids of each class's name as it follows a prompt; by ``scoring: first`` one each.

    Raises:
        InputError: names that begin alike are to be told apart by their first tokens.

    """

    def __init__(
        self,
        recipe: Prompting,
        columns: Sequence[str],
        names: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        limit: int,
    ) -> None:
        assert recipe.template is not None
        self._recipe, self._columns, self._names, self._tokenizer = recipe, columns, names, tokenizer
        *self._parts, (asked, _) = [(before, name) for before, name, *_ in Formatter().parse(recipe.template)]
        self._asked = asked.rstrip(" ")
        self._space = asked[len(self._asked) :]
        end = self._asked[-16:] or "."
        found = [self._after(end, self._space + name) for name in names]
        self.names = [ids[:1] for ids in found] if recipe.scoring == "first" else found
        self._check_names()
        longest = max(map(len, found))
        self._room = limit - longest
        begins = tokenizer("")["input_ids"][:1]
        self._start = begins if begins == [tokenizer.bos_token_id] else []
        self._start = self._start + self._ids(recipe.instruction)
        self._said_nothing = [self._longest_input(recipe, shots) for shots in (0, 1)]
        if len(self._start) + self._said_nothing[0] > self._room:
            raise InputError(
                f"calibration: its longest input takes {self._said_nothing[0]} tokens with the template, and "
                f"{self._room - len(self._start)} fit; give shorter ones, or allow for more max_tokens"
            )

    def _longest_input(self, recipe: Prompting, shots: int) -> int:
        """Tokens of the longest input without content, which stands where a query does; 0 where none is asked."""
        return max((len(self.led([text] * len(self._columns), shots)) for text in recipe.calibration), default=0)

    def _check_names(self) -> None:
        for name, ids in zip(self._names, self.names, strict=True):
            other = self._names[self.names.index(ids)]
            if other != name:
                raise InputError(
                    f"labels: '{other}' and '{name}' begin with the same token, by which they are scored; give other "
                    f"names, or score whole names: {{name: prompting}}"
                )

    def text(self, texts: Texts, label: int | None = None) -> str:
        """An example, or a query where there is no label."""
        fields = dict(zip(self._columns, texts, strict=True))
        written = [before + (fields[name] if name is not None else "") for before, name in self._parts]
        asked = "".join([*written, self._asked])
        return asked if label is None else asked + self._space + self._names[label]

    def shots(self, texts: Sequence[Texts], labels: Sequence[int]) -> Shots:
        """A prompt's examples, in their order.

        Args:
            texts: of every example.
            labels: their classes.

        """
        found = [self.text(each, label) for each, label in zip(texts, labels, strict=True)]
        begins = bool(self._recipe.instruction)
        led = [self._after(self._names[0], self._recipe.separator + text) for text in found]
        first = led if begins else [self._ids(text) for text in found]
        return Shots(self._start, first, led)

    def query(self, texts: Texts, shots: Shots) -> Query:
        """A query after as many of the examples as fit with it, the last ones; cut where it does not fit alone.

        As many as also fit with what calibrates: both are read after the same examples.

        Raises:
            InputError: the template without any text does not fit.

        """
        led = self.led(texts, 1)
        room = self._room - max(len(led), self._said_nothing[1])
        kept = next((m for m in range(shots.count, 0, -1) if len(shots.prefix(m)) <= room), 0)
        if kept:
            return Query(led, kept, cut=False)
        alone = self.led(texts, 0)
        room = self._room - len(shots.prefix(0))
        return Query(alone, 0, cut=False) if len(alone) <= room else Query(self._cut(texts, room), 0, cut=True)

    def _cut(self, texts: Texts, room: int) -> Ids:
        """The query with as much of its text as there is room for."""
        fields = [self._ids(text) for text in texts]
        from_end = self._recipe.cut == "end"
        while True:
            whole = self.led([self._tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in fields], 0)
            if len(whole) <= room:
                return whole
            left = sum(map(len, fields)) - max(1, len(whole) - room)
            if not any(fields):
                raise InputError(
                    f"max_tokens: the template alone needs {len(whole) - room} tokens more; allow for them, or shorten "
                    f"template and instruction"
                )
            turned = fields if from_end else [ids[::-1] for ids in fields]
            turned = shortened(turned, max(0, left))
            fields = turned if from_end else [ids[::-1] for ids in turned]

    def led(self, texts: Texts, shots: int) -> Ids:
        """A query after so many examples, whether or not it fits."""
        text = self.text(texts)
        if not shots and not self._recipe.instruction:
            return self._ids(text)
        return self._after(self._names[0], self._recipe.separator + text)

    def _after(self, before: str, text: str) -> Ids:
        whole, head = self._ids(before + text), self._ids(before)
        return whole[len(head) :] if whole[: len(head)] == head else self._ids(text)

    def _ids(self, text: str) -> Ids:
        found: Ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return found


class Shots:
    """The examples of a prompt.

    Args:
        start: token ids before the first one.
        first: of every example where it is the first one.
        led: of every example after another one.

    """

    def __init__(self, start: Ids, first: Sequence[Ids], led: Sequence[Ids]) -> None:
        self.count = len(led)
        self._prefixes = [
            [*start, *(first[-kept] if kept else []), *(token for ids in led[len(led) - kept + 1 :] for token in ids)]
            for kept in range(len(led) + 1)
        ]

    def prefix(self, kept: int) -> Ids:
        """The beginning of a prompt with the last ``kept`` examples."""
        return self._prefixes[kept]
