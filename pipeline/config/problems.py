"""Turns validation errors into sentences: the dotted path, what was wrong, what is allowed, the nearest name."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError


def nearest(word: str, allowed: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or nothing where no allowed name is close."""
    close = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def sentences(error: ValidationError, model: type[BaseModel], section: dict[str, str]) -> list[str]:
    """One sentence per problem of ``error``.

    Args:
        error: what pydantic raised for ``model``.
        model: the config that was validated.
        section: longest-first prefixes of dotted paths and the names users know them by.

    """
    return [_sentence(problem, model, section) for problem in error.errors()]


def _sentence(problem: Any, model: type[BaseModel], section: dict[str, str]) -> str:
    names, parent = _walk(model, problem["loc"])
    path = ".".join(names)
    prefix = next((prefix for prefix in section if not prefix or f"{path}.".startswith(f"{prefix}.")), None)
    if prefix is not None:
        path = ".".join(part for part in (section[prefix], path[len(prefix) :].lstrip(".")) if part)
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = [] if parent is None else list(parent.model_fields)
        key = names[-1]
        if all(name == "source" for name in names[:-1]):  # of a stage: an earlier stage, which has a section of its own
            allowed = [name for name in allowed if name != "source"]
        return f"{path}: unknown key{nearest(key, allowed)}; allowed: {', '.join(allowed)}"
    if kind == "missing":
        return f"{path}: required, but not given"
    if kind == "literal_error":
        allowed = [word.strip().strip("'") for word in context["expected"].replace(" or ", ", ").split(",")]
        return f"{path}: {_not_allowed(problem['input'], allowed)}"
    if kind == "union_tag_invalid":
        allowed = [word.strip().strip("'") for word in context["expected_tags"].split(",")]
        key = context["discriminator"].strip("'")
        return f"{path}.{key}: {_not_allowed(context['tag'], allowed)}"
    if kind == "union_tag_not_found":
        return f"{path}.{context['discriminator'].strip(chr(39))}: required, but not given"
    if kind == "value_error":
        return f"{path}: {context['error']}" if path else str(context["error"])
    if problem["input"] is None:
        return f"{path}: nothing is written behind it; write a value, or leave out a key that has a default"
    if kind == "too_long":
        return f"{path}: at most {context['max_length']} items, not {context['actual_length']}: {problem['input']!r}"
    return f"{path}: {problem['msg'][0].lower()}{problem['msg'][1:]}, not {problem['input']!r}"


def not_yaml(error: Exception) -> str:
    """One sentence for a file that is no YAML: where it stops being readable, and what to look at there."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"not YAML: {' '.join(str(error).split())}"
    what = getattr(error, "problem", None) or getattr(error, "context", "")
    return f"not YAML at line {mark.line + 1}, column {mark.column + 1}: {what}; look at indentation and quotes there"


def _not_allowed(value: Any, allowed: list[str]) -> str:
    return f"'{value}' is not allowed{nearest(str(value), allowed)}; allowed: {', '.join(allowed)}"


def _walk(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[list[str], type[BaseModel] | None]:
    """The names a user wrote along ``loc`` (pydantic adds union tags) and the config that the last one belongs to."""
    names: list[str] = []
    current: type[BaseModel] | None = model
    options: list[type[BaseModel]] = []
    for position, part in enumerate(loc):
        tagged = next((option for option in options if tag_of(option) == part), None)
        if tagged is not None:
            current, options = tagged, []
            continue
        names.append(str(part))
        if position == len(loc) - 1:
            break
        if isinstance(part, int):  # an entry of a list: what follows belongs to the config that it holds
            continue
        field = None if current is None else current.model_fields.get(str(part))
        options = models_in(field.annotation, lists=True) if field is not None else []
        current = options[0] if len(options) == 1 else None
    return names, current


def models_in(annotation: Any, *, lists: bool = False) -> list[type[BaseModel]]:
    """The configs that a field with this annotation may hold; ``lists``: also as entries of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    around = (typing.Union, types.UnionType, typing.Annotated, *([tuple] if lists else []))
    if typing.get_origin(annotation) in around:
        return [found for part in typing.get_args(annotation) for found in models_in(part, lists=lists)]
    return []


def tag_of(model: type[BaseModel]) -> str | None:
    """The value of a config's discriminator: its required one-value literal."""
    for field in model.model_fields.values():
        values = typing.get_args(field.annotation)
        if field.is_required() and typing.get_origin(field.annotation) is typing.Literal and len(values) == 1:
            return str(values[0])
    return None
