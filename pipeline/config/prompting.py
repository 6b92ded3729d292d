"""Stage 3 by prompting: a set of text as the examples that a causal language model is shown; nothing is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from string import Formatter
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.schema import Count, Frozen, runtime

Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=2)]
WeightPrecision = Literal["fp32", "bf16", "nf4"]
LABEL = "label"


class Prompting(Frozen):
    """The recipe ``prompting``: the samples of a set are the examples of a prompt, whose last label is asked for.

    Initialisation i is an order of the examples, drawn from (seed, the set's seed, i); no two are the same, so that
    there are at most N! of them. A class scores the log-probability of its whole name after the prompt.

    Attributes:
        template: of one example, such as ``"Review: {text}\\nSentiment: {label}"``: the task's text columns, once each,
            and last the label; ``null`` writes ``column: text`` lines, then ``label: name``.
        instruction: what the prompt begins with.
        separator: between instruction, examples and query.
        labels: names of the classes, in their order; ``null`` takes the task's.
        scoring: of a name: the ``sum`` over its tokens, their ``mean``, or the ``first`` token alone.
        calibration: content-free inputs, such as ``["N/A", "[MASK]", ""]``; scores are relative to the mean probability
            that the same prompt gives each class for them (contextual calibration, Zhao et al., ICML 2021).
        max_tokens: of a prompt with its label; ``null`` takes the model's context. Whole examples are dropped until the
            query fits, the first of the prompt first; a query that does not fit alone is cut.
        cut: what such a query loses: the ``end`` of its text (of a pair, of the longer one), or the ``beginning``.
        examples: rows of each split that are asked, a draw with the classes' shares that depends on ``evaluate.seed``
            alone; ``null`` asks all.
        precision: of the weights; ``nf4`` is 4-bit on CUDA, by bitsandbytes.
        batch_size: queries at once; no part of the identity, results are equal up to rounding.

    """

    name: Literal["prompting"]
    revision: int = 1
    template: str | None = None
    instruction: str = ""
    separator: Annotated[str, Field(min_length=1)] = "\n\n"
    labels: Names | None = None
    scoring: Literal["sum", "mean", "first"] = "sum"
    calibration: tuple[str, ...] = ()
    max_tokens: Count | None = None
    cut: Literal["end", "beginning"] = "end"
    examples: Count | None = None
    precision: WeightPrecision = "fp32"
    batch_size: Count = runtime(32)

    @model_validator(mode="after")
    def _check(self) -> Prompting:
        _check_names(self.labels)
        if self.template is not None and list(slots(self.template))[-1:] != [LABEL]:
            raise ValueError("template: ends with {label}, which is what is asked for, and nothing after it")
        return self

    def recipe_for(self, columns: tuple[str, ...]) -> Prompting:
        """Itself, with the template that it has for a task with these text columns."""
        return self if self.template is not None else self.model_copy(update={"template": lines(columns, columns)})


class DiLMPrompting(Frozen):
    """The protocol ``dilm_prompting``: few-shot prompts as published with DiLM (Maekawa et al., 2024).

    Lines ``key: text`` and ``label: name``, an empty line between examples, 1,024 tokens, scored by the first token of
    each name. The published code cuts a longer prompt at its end, where the query is; here examples are dropped.

    Attributes:
        keys: what stands before the texts; ``null`` takes the names of the task's columns, as published (there
            ``sentence``, ``question1`` and ``question2``, ``premise`` and ``hypothesis``).
        labels: as of ``prompting``; the published names of QQP are ``unequal`` and ``equal``, of which GLUE has others.
        max_tokens, examples, precision, batch_size: as of ``prompting``.

    """

    name: Literal["dilm_prompting"]
    revision: int = 1
    keys: tuple[str, ...] | None = None
    labels: Names | None = None
    max_tokens: Count = 1024
    examples: Count | None = None
    precision: WeightPrecision = "fp32"
    batch_size: Count = runtime(32)

    @model_validator(mode="after")
    def _check(self) -> DiLMPrompting:
        _check_names(self.labels)
        return self

    def recipe_for(self, columns: tuple[str, ...]) -> Prompting:
        """What it does on a task with these text columns.

        Raises:
            ValueError: it has not one key for each of them.

        """
        keys = self.keys or columns
        if len(keys) != len(columns):
            raise ValueError(f"keys: {len(keys)} for the text columns {', '.join(columns)}; give one for each")
        shared = {name: getattr(self, name) for name in ("labels", "max_tokens", "examples", "precision", "batch_size")}
        return Prompting(name="prompting", template=lines(columns, keys), scoring="first", **shared)


Prompted = Prompting | DiLMPrompting


def lines(columns: tuple[str, ...], keys: tuple[str, ...]) -> str:
    """The template of ``key: text`` lines and ``label: name``."""
    return "\n".join([f"{key}: {{{column}}}" for key, column in zip(keys, columns, strict=True)] + ["label: {label}"])


def slots(template: str) -> Iterator[str | None]:
    """The names in braces, in order, and ``None`` for text after the last of them.

    Raises:
        ValueError: a brace that is not closed, or more than a name inside.

    """
    for _, name, form, conversion in Formatter().parse(template):
        if form or conversion or name == "":
            raise ValueError("template: braces hold the name of a text column, or label, and nothing else")
        yield name


def check_prompt(recipe: Prompting, columns: tuple[str, ...], classes: tuple[int | str, ...] | None) -> None:
    """Refuses a recipe that does not fit a task.

    Args:
        recipe: with its template.
        columns: the task's text columns.
        classes: the task's classes, where they are known.

    Raises:
        ValueError: the template has other columns, or names are not one for each class.

    """
    assert recipe.template is not None
    found = Counter(name for name in slots(recipe.template) if name is not None)
    if found != Counter([*columns, LABEL]):
        wanted = " and ".join(f"{{{column}}}" for column in columns)
        raise ValueError(f"template: holds {wanted}, the task's text, once each, and ends with {{label}}")
    if classes is None:
        return
    if recipe.labels is None and all(str(name).isdigit() for name in classes):
        raise ValueError(
            f"labels: the task's classes are called {', '.join(map(str, classes))}, which no language model can guess; "
            f"give their names in this order, such as labels: [negative, positive]"
        )
    if recipe.labels is not None and len(recipe.labels) != len(classes):
        raise ValueError(
            f"labels: {len(recipe.labels)} names for the {len(classes)} classes {', '.join(map(str, classes))}; "
            f"give one for each, in this order"
        )


def _check_names(names: tuple[str, ...] | None) -> None:
    if names is not None and len(set(names)) < len(names):
        raise ValueError("labels: two classes have the same name; give each its own")
