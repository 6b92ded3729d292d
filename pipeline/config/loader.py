"""How YAML is read: strictly."""

from __future__ import annotations

import re
from typing import Any

import yaml

from pipeline.errors import InputError


class Loader(yaml.SafeLoader):
    """YAML 1.2 numbers (``1e-2`` is a number) and no key given twice."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d+)([eE][-+]?\d+)$"),
    list("-+0123456789."),
)


def _mapping(loader: Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [key.value for key, _ in node.value if key.value != "<<"]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise InputError(f"line {node.start_mark.line + 1}: key given twice: {', '.join(twice)}; keep one")
    loader.flatten_mapping(node)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
