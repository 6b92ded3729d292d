"""Rules for some cells: dotted keys of an experiment and the values that fit them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

from pipeline.config.chain import STAGES, Stage
from pipeline.config.data import Prepare
from pipeline.config.experiment import SECTIONS, Experiment, assigned_values
from pipeline.config.problems import models_in, nearest
from pipeline.config.resources import Resources
from pipeline.config.schema import Frozen
from pipeline.errors import InputError

_NOTHING = object()  # fits nothing, not even null


class Rule(Frozen):
    """What the cells that ``where`` fits ask for instead.

    ``where`` maps dotted keys of an experiment to a value, or to a list of which one has to fit; a mapping fits where
    all that it gives does, and a text fits a task or a model of that name.
    """

    prepare: Resources | None = None
    distill: Resources | None = None
    evaluate: Resources | None = None
    where: dict[str, Any]  # the last field: its check looks at those above

    @field_validator("where")
    @classmethod
    def _legal(cls, where: dict[str, Any], above: ValidationInfo) -> dict[str, Any]:
        if not where:
            raise ValueError("fits every cell; that belongs under slurm.<stage>")
        first = next((stage for stage in SECTIONS if above.data.get(stage) is not None), SECTIONS[-1])
        if found := list(_problems(where, first)):
            raise ValueError("\n".join(found))
        return where

    @model_validator(mode="after")
    def _check(self) -> Rule:
        if self.prepare is None and self.distill is None and self.evaluate is None:
            raise ValueError(f"asks for nothing; give at least one of {', '.join(SECTIONS)}")
        return self

    def fits(self, config: Stage) -> bool:
        """Whether a config, of the first stage for which something is asked or a later one, has all of ``where``."""
        return fits(config, self.where)


def restricted(experiment: Experiment, settings: Iterable[str]) -> Experiment:
    """The experiment of which only some cells are to be computed.

    Args:
        experiment: the whole grid.
        settings: ``dotted.key=value`` or ``dotted.key=v1,v2``, as ``--only``; a cell has to have all of them.

    Raises:
        InputError: a key or value is none, or no cell has them.

    """
    settings = tuple(settings)
    where = assigned_values(settings, "--only")
    if not where:
        return experiment
    if found := list(_problems(where, SECTIONS[-1])):
        raise InputError("\n".join(f"--only {problem}" for problem in found))
    only = tuple(index for index, cell in enumerate(experiment.cells) if fits(cell, where))
    if not only:
        raise InputError(
            f"--only: no cell of {experiment.name} has {' and '.join(settings)}{_instead(experiment, where)}"
        )
    typed = experiment.typed.model_copy(update={"only": settings})
    return experiment.model_copy(update={"only": only, "typed": typed})


def fits(config: Stage, where: Mapping[str, Any]) -> bool:
    """Whether a config has all that ``where`` says, which is as in :class:`Rule`."""
    return all(_fits(_value(config, key), wanted) for key, wanted in where.items())


def _value(config: Stage, key: str) -> Any:
    """What a dotted key is in a config; another method or protocol may have no such key."""
    section, *names = key.split(".")
    while not isinstance(config, (STAGES[section], Prepare)):
        config = config.source
    value: Any = config
    for name in names:
        value = getattr(value, name, _NOTHING)
    return value


def _instead(experiment: Experiment, where: Mapping[str, Any]) -> str:
    """What the cells have, of the keys of ``where`` whose value no cell has."""
    found = ""
    for key, wanted in where.items():
        values = [_value(cell, key) for cell in experiment.cells]
        if any(_fits(value, wanted) for value in values):
            continue
        written = [getattr(value, "name", getattr(value, "path", value)) for value in values if value is not _NOTHING]
        shown = list(dict.fromkeys(map(str, written)))
        found += f"; {key} is {', '.join(shown[:12])}{', …' if len(shown) > 12 else ''}" if shown else ""
    return found


def _fits(value: Any, wanted: Any) -> bool:
    if isinstance(value, tuple):
        return isinstance(wanted, list) and list(value) == wanted
    if isinstance(wanted, list):
        return any(_fits(value, one) for one in wanted)
    if isinstance(value, Frozen) and isinstance(wanted, dict):
        return all(_fits(getattr(value, name, _NOTHING), one) for name, one in wanted.items())
    if isinstance(value, Frozen):
        return wanted is not None and wanted in (getattr(value, "name", None), getattr(value, "path", None))
    return bool(value == wanted)


def _problems(where: dict[str, Any], stage: str) -> Iterator[str]:
    """What is wrong with the keys and values of a rule that asks something for ``stage`` and maybe for later ones."""
    for key, wanted in where.items():
        section, *names = key.split(".")
        if section not in SECTIONS or not names:
            allowed = ", ".join(f"{name}.…" for name in SECTIONS)
            yield f"{key}: not a dotted key{nearest(section, SECTIONS)}; allowed: {allowed}"
        elif SECTIONS.index(section) > SECTIONS.index(stage):
            yield (
                f"{key}: {section} comes after {stage}, whose artifacts do not depend on it; "
                f"put what is asked for {section} into an entry of its own"
            )
        else:
            yield from _along(section, [STAGES[section]], names, wanted)


def _along(path: str, models: list[type[BaseModel]], names: list[str], wanted: Any) -> Iterator[str]:
    """Goes down a dotted key through all configs that may stand at each place, then looks at the value."""
    name, *below = names
    hidden = "source" if path in SECTIONS else None  # of an earlier stage, which has a section of its own
    allowed = dict.fromkeys(key for model in models for key in model.model_fields if key != hidden)
    if name not in allowed:
        hint = f"allowed: {', '.join(allowed)}" if allowed else "this key has none below it"
        yield f"{path}.{name}: no config has that key{nearest(name, allowed)}; {hint}"
        return
    fields = [model.model_fields[name] for model in models if name in model.model_fields]
    inside = [model for field in fields for model in models_in(field.annotation)]
    if below:
        yield from _along(f"{path}.{name}", inside, below, wanted)
    elif isinstance(wanted, list) and not any(_is_tuple(field.annotation) for field in fields):
        for one in wanted:
            yield from _values(f"{path}.{name}", fields, inside, one)
    else:
        yield from _values(f"{path}.{name}", fields, inside, wanted)


def _values(path: str, fields: list[FieldInfo], inside: list[type[BaseModel]], wanted: Any) -> Iterator[str]:
    if inside and isinstance(wanted, dict):
        for name, one in wanted.items():
            yield from _along(path, inside, [str(name)], one)
        return
    if inside and isinstance(wanted, str):
        short = "name" if any("name" in model.model_fields for model in inside) else "path"
        yield from _along(path, inside, [short], wanted)
        return
    if any(_valid(field.annotation, wanted) for field in fields):
        return
    literals = list(dict.fromkeys(str(value) for field in fields for value in _literals(field.annotation)))
    if literals:
        yield f"{path}: '{wanted}' is no value of it{nearest(str(wanted), literals)}; allowed: {', '.join(literals)}"
    else:
        yield f"{path}: {wanted!r} is no value that this key can have"


def _valid(annotation: Any, value: Any) -> bool:
    try:
        TypeAdapter(annotation).validate_python(value)
    except ValidationError:
        return False
    return True


def _literals(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        for part in get_args(annotation):
            yield from _literals(part)


def _is_tuple(annotation: Any) -> bool:
    return get_origin(annotation) is tuple or any(_is_tuple(part) for part in get_args(annotation))
