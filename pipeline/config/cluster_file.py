"""The cluster's file read: every mistake at once; and what a command line takes from it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config.cluster import Cluster, expanded
from pipeline.config.loader import Loader
from pipeline.config.problems import nearest, not_yaml, sentences
from pipeline.config.where import Rule
from pipeline.errors import InputError

DEFAULT_PATH = Path("configs/cluster.yaml")


def load_cluster(path: str | Path | None = None) -> Cluster:
    """Reads and validates a cluster's file.

    Args:
        path: by default ``configs/cluster.yaml``; where that does not exist, the defaults are taken.

    Raises:
        InputError: every mistake of the file, one per line.

    """
    if path is None and not DEFAULT_PATH.is_file():
        return Cluster()
    path = DEFAULT_PATH if path is None else Path(path)
    if not path.is_file():
        near = nearest(path.name, (p.name for p in path.parent.glob("*.yaml"))) if path.parent.is_dir() else ""
        raise InputError(f"{path}: no such file{near}; give the path of a cluster's file, such as {DEFAULT_PATH}")
    try:
        raw = yaml.load(path.read_text(), _PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {not_yaml(error)}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if not isinstance(raw := _filled(raw), dict):
        raise InputError(f"{path}: a cluster's file is a mapping with the keys {', '.join(Cluster.model_fields)}")
    if found := dict.fromkeys(_problems(raw)):
        raise InputError("\n".join(f"{path}: {problem}" for problem in found))
    return Cluster.model_validate(raw)


def enter(path: str | Path | None = None) -> Cluster:
    """Reads a cluster's file for a command line, whose process then looks for what the hub gave where jobs do.

    Args:
        path: as of :func:`load_cluster`.

    Raises:
        InputError: likewise, or as :func:`expanded`.

    """
    site = load_cluster(path)
    for name, value in site.environment().items():
        if name not in os.environ:
            key = "root" if name == "TEXTDD_ROOT" else "hub_cache"
            os.environ[name] = str(expanded(key, value, path or DEFAULT_PATH))
    return site


def note_defaults(given: str | Path | None, root: Path) -> None:
    """Says on standard error where a command about a cluster found no file of one, and so is about another store.

    Args:
        given: by ``--cluster-file``.
        root: folder of the artifacts that the command is about.

    """
    if given is None and not DEFAULT_PATH.is_file():
        print(
            f"note: no {DEFAULT_PATH} in {Path.cwd()}; its defaults are taken, artifacts are in {root.absolute()}",
            file=sys.stderr,
        )


def root_of(given: str | Path | None, cluster: Cluster) -> Path | None:
    """The folder of all artifacts, for every command: ``--root``, ``$TEXTDD_ROOT``, the cluster's file, in this order.

    Args:
        given: by ``--root``.
        cluster: whose ``root`` it is otherwise.

    Returns:
        ``None`` where none of the three says it: the store's own default.

    Raises:
        InputError: as :func:`expanded`.

    """
    written = given or os.environ.get("TEXTDD_ROOT")
    return Path(written) if written else cluster.root_folder


class _PlainLoader(Loader):
    """Leaves ``12:30:00`` a text: YAML 1.1 reads a number in base 60."""


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:int"]
    for first, resolvers in Loader.yaml_implicit_resolvers.items()
}
_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?\d+$"), list("-+0123456789"))


def _filled(raw: Any) -> Any:
    """Without the keys below which every line is commented out."""
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        return raw
    slurm = raw.get("slurm")
    stages = {"slurm": {k: v for k, v in slurm.items() if v is not None}} if isinstance(slurm, dict) else {}
    return {key: value for key, value in raw.items() if value is not None} | stages


def _problems(raw: dict[Any, Any]) -> Iterator[str]:
    """Every mistake; the entries of ``cells`` one by one, because errors inside a list have no names to look up."""
    rules = raw.get("cells", [])
    if not isinstance(rules, list):
        yield f"cells: a list is needed, each entry with where and a stage, not {rules!r}"
        rules = []
    sound = []
    for number, rule in enumerate(rules):
        try:
            sound.append(Rule.model_validate(rule))
        except ValidationError as error:
            yield from _lines(error, Rule, f"cells.{number}")
    try:
        Cluster.model_validate({**raw, "cells": sound if len(sound) == len(rules) else []})
    except ValidationError as error:
        yield from _lines(error, Cluster, "")


def _lines(error: ValidationError, model: type[BaseModel], at: str) -> Iterator[str]:
    """The sentences of ``error``; where a check found several problems, each line says its place."""
    for problem, sentence in zip(error.errors(), sentences(error, model, {"": at}), strict=True):
        place = sentence.partition(": ")[0]
        first, *others = sentence.split("\n")
        yield first
        yield from (other if model is Cluster and not problem["loc"] else f"{place}: {other}" for other in others)
