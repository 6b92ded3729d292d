"""The dotted keys of an experiment, to say which one somebody meant."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from pipeline.config.chain import STAGES
from pipeline.config.problems import models_in


def ending_in(key: str) -> list[str]:
    """Every dotted key that ends in ``key``, the shortest first: ``labels`` -> ``distill.method.labels``."""
    found = dict.fromkeys(path for name, model in STAGES.items() for path in _paths(name, model))
    return sorted((path for path in found if path.endswith(f".{key}")), key=lambda path: (path.count("."), path))


def _paths(above: str, model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inside = models_in(field.annotation)
        if name != "source":  # an earlier stage, which has a section of its own
            yield f"{above}.{name}"
        if not set(inside) & set(STAGES.values()):
            for one in inside:
                yield from _paths(f"{above}.{name}", one)
