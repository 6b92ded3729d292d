"""The sections of an experiment -> one cell: what configs inside configs leave out, and distillation seeds.

``distill.parent`` is a section like ``distill``, with a ``source`` of its own of which only what differs from
``prepare`` is written (``{model: gpt2}``); it inherits ``runtime``, and ``seed`` unless it names one. So is what the
parts of a composed set are ``of``. ``evaluate.data``, and each of ``distill.others``, is what differs from ``prepare``.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.config.composed import Composed
from pipeline.config.methods import Distill
from pipeline.config.protocols import Evaluate

Raw = dict[str, Any]
_OF_ANOTHER = re.compile(r"(distill(?:\.parent|\.method\.parts\.\d+\.of)*)\.(source|others\.\d+)\.(.+)")


def cells_of(raw: Mapping[str, Any], seeds: int | list[int] | None) -> Iterable[Evaluate]:
    """The cell of raw sections, with each of its distillation seeds.

    Parents are made anew with the child, unless they name their seed or do not depend on it.

    Raises:
        ValidationError: the sections are no cell.

    """
    cell, given = Evaluate.model_validate(completed(raw)), raw["distill"]
    if seeds is None or not _follows(cell.source, given):
        return [cell]
    first = cell.source.seed
    found = range(first, first + seeds) if isinstance(seeds, int) else seeds
    return [cell.model_copy(update={"source": _reseeded(cell.source, given, seed)}) for seed in found]


def completed(raw: Mapping[str, Any]) -> Raw:
    """The config of stage 3, as nested mappings, of the sections ``prepare``, ``distill`` and ``evaluate``."""
    prepare, distill, evaluate = raw["prepare"], raw["distill"], raw["evaluate"]
    whole = {**evaluate, "source": _with_inputs({**distill, "source": prepare}, prepare)}
    return whole | ({"data": merged(prepare, evaluate["data"])} if isinstance(evaluate.get("data"), dict) else {})


def merged(old: Any, new: Any) -> Any:
    """``new``, with what a mapping leaves out taken from ``old``, unless it names another ``name`` or ``kind``."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return copy.deepcopy(new)
    if any(tag in new and new[tag] != old.get(tag) for tag in ("name", "kind")):
        return copy.deepcopy(new)
    return {key: merged(old.get(key), new[key]) if key in new else old[key] for key in {**old, **new}}


def told_once(found: Iterable[str]) -> dict[str, None]:
    """Sentences without those about what was written in ``prepare`` and only completed other configs."""
    sentences = dict.fromkeys(found)
    return {one: None for one in sentences if (at := _as_of_prepare(one)) == one or at not in sentences}


def _as_of_prepare(sentence: str) -> str:
    if sentence.startswith("evaluate.data."):
        return f"prepare.{sentence.removeprefix('evaluate.data.')}"
    found = _OF_ANOTHER.match(sentence)
    return f"prepare.{found[3]}" if found else sentence


def _with_inputs(distill: Raw, prepare: Any) -> Raw:
    """The section, with what its parent or its parts, and data of other encoders, leave out."""
    method, others = distill.get("method"), distill.get("others")
    if isinstance(others, list):
        given = [merged(distill["source"], one) if isinstance(one, dict) else one for one in others]
        distill = distill | {"others": given}
    if isinstance(distill.get("parent"), dict):
        distill = distill | {"parent": _start(distill["parent"], distill, prepare)}
    if isinstance(method, dict) and isinstance(method.get("parts"), list):
        parts = [
            part | {"of": _start(part["of"], distill, prepare)} if _is_part(part) else part for part in method["parts"]
        ]
        distill = distill | {"method": method | {"parts": parts}}
    return distill


def _is_part(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("of"), dict)


def _start(given: Raw, distill: Raw, prepare: Any) -> Raw:
    inherited = {key: distill[key] for key in ("seed", "runtime") if key in distill}
    source = merged(prepare, given.get("source", {}))
    return _with_inputs(merged(inherited, given) | {"source": source}, prepare)


def _follows(config: Distill, given: Mapping[str, Any]) -> bool:
    """Whether another seed makes another set of a config, of which ``given`` is what was written."""
    return config.method.is_drawn or any(_start_follows(*pair) for pair in _starts(config, given))


def _start_follows(config: Distill, given: Mapping[str, Any]) -> bool:
    return "seed" not in given and _follows(config, given)


def _starts(config: Distill, given: Mapping[str, Any]) -> list[tuple[Distill, Mapping[str, Any]]]:
    """What a config reads of stage 2, each with what was written of it."""
    if isinstance(config.method, Composed):
        return [(part.of, raw["of"]) for part, raw in zip(config.method.parts, given["method"]["parts"], strict=True)]
    return [] if config.parent is None else [(config.parent, given["parent"])]


def _reseeded(config: Distill, given: Mapping[str, Any], seed: int) -> Distill:
    made = [_reseeded(*pair, seed) if _start_follows(*pair) else pair[0] for pair in _starts(config, given)]
    change: Raw = {"seed": seed}
    if isinstance(config.method, Composed):
        change["method"] = config.method.of(made)
    elif made:
        change["parent"] = made[0]
    return config.model_copy(update=change)
