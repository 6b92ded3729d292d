"""The recipe ``prompting``: a set of text as the examples of a causal language model, which answers every row."""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline import stopping
from pipeline.config import Evaluate, Prompting
from pipeline.config.prompting import check_prompt
from pipeline.data.prepared import Prepared
from pipeline.data.tokenised import Split
from pipeline.distilled import DistilledSet
from pipeline.distilled.text import decoded, texts
from pipeline.errors import InputError
from pipeline.evaluation.prompts import Query, Shots, Writer
from pipeline.evaluation.record import Record
from pipeline.progress import bar
from pipeline.randomness import derive, numpy_generator
from pipeline.store.atomic import write_text
from pipeline.students.device import pick_device
from pipeline.students.language import LanguageModel

Watch = Callable[[int], object]


def evaluate_by_prompting(config: Evaluate, prepared: Prepared, distilled: DistilledSet, out: Path) -> None:
    """Writes ``results.csv`` and ``predictions.h5``: the language model answers after every order of the examples.

    Beside the scores of each order and split: ``prompt_examples`` and ``prompt_dropped``, how many stood in a
    prompt on average and how many did not fit, and ``prompt_cut``, the share of queries that lost text to fit; what
    stage 1 cut at ``max_length`` is not in it. ``prompt.txt`` has the first prompt as it is read.

    Raises:
        InputError: labels, template or set do not fit the task, or a prompt does not fit the model.
        Stopped: a signal came; the order of that moment is lost.

    """
    recipe = config.recipe
    assert isinstance(recipe, Prompting)
    splits = {name: asked(prepared.split(name), recipe, config.seed) for name in config.splits}
    record = Record(out, {name: split.labels for name, split in splits.items()}, len(prepared.classes))
    runs = min(config.runs, math.factorial(len(distilled)))
    missing = [index for index in range(runs) if index not in record.initialisations]
    if not missing:
        return
    prompter = Prompter(config, recipe, prepared, distilled)
    queries = {name: decoded(split) for name, split in splits.items()}
    _tell_cut_before(splits, prepared.manifest["max_length"])
    seed = derive(config.seed, "evaluation", config.source.seed)
    accuracies: list[float] = []
    with bar(runs, "evaluate", "order", runs - len(missing), fractions=True) as shown:
        per_order = sum(len(split) for split in splits.values())
        for index in missing:
            began = time.perf_counter()
            order = order_of(seed, index, len(distilled))
            answers = {
                name: prompter.answers(found, order, lambda rows: shown.update(rows / per_order))
                for name, found in queries.items()
            }
            seconds = time.perf_counter() - began
            with stopping.polled():
                logits = {name: answer.logits for name, answer in answers.items()}
                facts = {name: answer.facts for name, answer in answers.items()}
                if index == 0:
                    write_text(out / "prompt.txt", prompter.shown(next(iter(queries.values()))[0], order))
                scores = record.write(index, logits, seconds, facts)
            stopping.check()
            _tell(index, answers, len(distilled))
            accuracies.append(scores[config.splits[-1]]["accuracy"])
            shown.set_postfix(accuracy=f"{sum(accuracies) / len(accuracies):.3f}", on=config.splits[-1], refresh=False)
            shown.update(len(record.initialisations) - shown.n)


def asked(split: Split, recipe: Prompting, seed: int) -> Split:
    """The rows of a split that are asked, the same for all sets and orders."""
    rows = recipe.examples
    return split if rows is None else split.stratified(rows, derive(seed, "evaluation"), "rows that are asked")


def order_of(seed: int, index: int, samples: int) -> list[int]:
    """The order of initialisation ``index``: the so-many-th different one of random permutations of (seed, 0, 1, …)."""
    seen: dict[tuple[int, ...], None] = {}
    for draw in itertools.count():
        order = tuple(numpy_generator(seed, "order of examples", draw).permutation(samples).tolist())
        seen.setdefault(order)
        if len(seen) > index:
            return list(order)
    raise AssertionError


class Answers:
    """What a language model answered on one split.

    Attributes:
        logits: [rows, C] scores; their softmax are the probabilities of the classes.
        facts: ``prompt_examples``, ``prompt_dropped`` and ``prompt_cut``.
        short, cut: rows whose prompts lack examples; whose queries lack text.

    """

    def __init__(self, logits: Tensor, queries: Sequence[Query], examples: int) -> None:
        self.logits = logits
        self.short = sum(query.shots < examples for query in queries)
        self.cut = sum(query.cut for query in queries)
        mean = sum(query.shots for query in queries) / len(queries)
        dropped = examples - mean
        self.facts = {"prompt_examples": mean, "prompt_dropped": dropped, "prompt_cut": self.cut / len(queries)}


class Prompter:
    """A language model with a set that it can be shown in any order.

    Args:
        config, recipe: of the cell; the recipe has its template.
        prepared: the task as prepared for the language model.
        examples: a set with its texts in ``about``.

    Raises:
        InputError: see :func:`evaluate_by_prompting`.

    """

    def __init__(self, config: Evaluate, recipe: Prompting, prepared: Prepared, examples: DistilledSet) -> None:
        self._recipe, task = recipe, config.source.source.task
        try:
            check_prompt(recipe, task.text, tuple(prepared.classes))
        except ValueError as error:
            raise InputError(f"protocol '{config.protocol.name}': {error}") from None
        self._texts = texts(examples, prepared.tokenizer)
        self._labels = examples.label_ids.tolist()
        self.model = LanguageModel.load(prepared.model_folder, recipe.precision, pick_device(config.runtime))
        names = recipe.labels or tuple(prepared.classes)
        self.writer = Writer(recipe, task.text, names, prepared.tokenizer, self._limit(recipe, prepared))
        self._tokenizer, self._columns = prepared.tokenizer, len(task.text)

    def _limit(self, recipe: Prompting, prepared: Prepared) -> int:
        context = self.model.context
        if context is None and recipe.max_tokens is None:
            raise InputError(
                f"{prepared.manifest['model']['name']} does not say how many tokens it takes; give max_tokens"
            )
        if context is not None and recipe.max_tokens is not None and recipe.max_tokens > context:
            raise InputError(
                f"max_tokens: {recipe.max_tokens} is more than the {context} of {prepared.manifest['model']['name']}; "
                f"give at most {context}"
            )
        return recipe.max_tokens or context or 0

    def answers(self, queries: Sequence[tuple[str, ...]], order: Sequence[int], watch: Watch) -> Answers:
        """The scores of all queries after the examples in this order; those of equally many are read together."""
        shots = self._shots(order)
        found = [self.writer.query(texts, shots) for texts in queries]
        logits = torch.empty(len(found), len(self.writer.names))
        by_shots: dict[int, list[int]] = defaultdict(list)
        for row, query in enumerate(found):
            by_shots[query.shots].append(row)
        for kept, rows in sorted(by_shots.items()):
            logits[rows] = self._scores(shots, kept, [found[row].ids for row in rows], watch)
        return Answers(logits, found, len(order))

    def _scores(self, shots: Shots, kept: int, queries: Sequence[list[int]], watch: Watch) -> Tensor:
        """[queries, C] scores after the last ``kept`` examples, calibrated where the recipe says so."""
        names, size = self.writer.names, self._recipe.batch_size
        shown = self.model.show(shots.prefix(kept))
        tokens = torch.tensor([len(name) for name in names])
        divisor = tokens if self._recipe.scoring == "mean" else torch.ones_like(tokens)
        scores = self.model.scores(shown, queries, names, size, watch) / divisor
        if self._recipe.calibration:
            inputs = [self.writer.led([text] * self._columns, kept) for text in self._recipe.calibration]
            scores = calibrated(scores, self.model.scores(shown, inputs, names, size) / divisor)
        return scores

    def shown(self, texts: tuple[str, ...], order: Sequence[int]) -> str:
        """The prompt of a query as the language model reads it, without the name that is asked for."""
        shots = self._shots(order)
        query = self.writer.query(texts, shots)
        text: str = self._tokenizer.decode([*shots.prefix(query.shots), *query.ids], clean_up_tokenization_spaces=False)
        return text

    def _shots(self, order: Sequence[int]) -> Shots:
        return self.writer.shots([self._texts[row] for row in order], [self._labels[row] for row in order])


def calibrated(scores: Tensor, content_free: Tensor) -> Tensor:
    """Contextual calibration (Zhao et al., ICML 2021, equation 1 with W = diag(p_cf)⁻¹ and b = 0), as logits.

    Args:
        scores: [rows, C] log-probabilities of the names.
        content_free: [inputs, C] those after inputs that say nothing.

    """
    return scores - content_free.softmax(dim=-1).mean(dim=0).log()


def _tell_cut_before(splits: Mapping[Any, Split], max_length: int) -> None:
    """Says how many queries stage 1 may have cut, which nothing here can give back."""
    for name, split in splits.items():
        full = int((split.lengths >= max_length).sum())
        if full:
            print(
                f"note: {name}: {full} of {len(split)} queries have {max_length} tokens, where stage 1 cuts; for whole "
                f"ones give evaluate.data a larger max_length",
                file=sys.stderr,
            )


def _tell(index: int, answers: Mapping[Any, Answers], examples: int) -> None:
    """Says what did not fit."""
    for split, found in answers.items():
        if found.short or found.cut:
            print(
                f"note: order {index}, {split}: {found.short} of {len(found.logits)} prompts hold fewer than all "
                f"{examples} examples, {found.cut} queries were cut",
                file=sys.stderr,
            )
