"""What every typed config shares: frozen, strict about keys, and a canonical form that identifies it.

Two configs are the same experiment when their canonical forms are equal. The canonical form leaves out whatever
equals its default, so that adding a field moves no address; fields without a default (the discriminators) and every
``revision`` are always in it. Fields marked with :func:`runtime` never are: they change how a cell runs, not what it
computes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticUndefined

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Frozen(BaseModel):
    """An immutable config that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())


def by_key(key: str) -> BeforeValidator:
    """Lets a config be written as one word, the value of ``key``: ``adam`` for ``{name: adam}``."""

    def whole(value: Any) -> Any:
        return {key: value} if isinstance(value, str) else value

    return BeforeValidator(whole)


def runtime(default: Any) -> Any:
    """A field that belongs to how a cell runs (device, logging), not to its identity."""
    return Field(default, json_schema_extra={"runtime": True})


def is_runtime(field: Any) -> bool:
    """Whether a pydantic field was declared with :func:`runtime`."""
    return bool((field.json_schema_extra or {}).get("runtime"))


def default_of(field: Any) -> Any:
    """A field's default value, or ``PydanticUndefined`` where it has none."""
    return field.get_default(call_default_factory=True)


def introduced_value(field: Any) -> Any:
    """What a stored config that lacks this field meant: the value the field had when it was introduced.

    That is today's default, unless the default was changed later, in which case the field declares the first one as
    ``json_schema_extra={"introduced": value}``.
    """
    extra = field.json_schema_extra or {}
    return extra["introduced"] if "introduced" in extra else default_of(field)


@cache
def identifying(kind: type[Frozen]) -> dict[str, Any]:
    """The fields of a config that say what is computed, with their defaults (``PydanticUndefined``: none)."""
    return {name: default_of(field) for name, field in kind.model_fields.items() if not is_runtime(field)}


def canonical(config: Any, resolve: Callable[[Frozen], Any] | None = None) -> Any:
    """The identity of a config as plain JSON values.

    Args:
        config: a :class:`Frozen` config, or anything inside one.
        resolve: called with every nested config; what it returns other than ``None`` replaces that config (how local
            files come to count by their content and hub ids by their recorded revision).

    """
    if isinstance(config, Frozen):
        resolved = resolve(config) if resolve else None
        if resolved is not None:
            return resolved
        kept = {}
        for name, default in identifying(type(config)).items():
            value = getattr(config, name)
            if name == "revision" or default is PydanticUndefined or value != default:
                kept[name] = canonical(value, resolve)
        return kept
    if isinstance(config, dict):
        return {str(key): canonical(value, resolve) for key, value in sorted(config.items())}
    if isinstance(config, list | tuple):
        return [canonical(value, resolve) for value in config]
    return config
