"""All that a card says, gathered: from the set's file, the store, committed results, and the card that there was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.config import Distill
from pipeline.config.data import known_tasks
from pipeline.distilled import DistilledSet
from pipeline.errors import InputError
from pipeline.report.archive import Archive
from pipeline.report.card.facts import Facts, read_facts, sha256_of
from pipeline.report.card.history import history
from pipeline.report.card.scores import (
    beside,
    distinct,
    evaluations_of,
    from_archive,
    in_store,
    reads_of_test,
    transfers,
)
from pipeline.store import Store


def gather(
    found: DistilledSet, file: Path, store: Store, results: Sequence[Path], license_: str | None, language: str | None
) -> Facts:
    """What there is to say of a set; what its earlier card said stays where nothing newer is at hand.

    Args:
        found: the set, read from ``file``.
        file: its file.
        store: whose evaluations count.
        results: committed results whose evaluations count too, as paths without suffix.
        license_, language: as the user says; None keeps what the earlier card has.

    Raises:
        InputError: the store has another set by the same config, committed results are not there, or the earlier card
            is not whole.

    """
    digest, before = sha256_of(file), read_facts(file)
    if before is not None and before.sha256 != digest:
        before = None
    config = config_of(found)
    _refuse_twin(config, store, digest)
    known = in_store(store)
    for stem in results:
        known = distinct([*known, *from_archive(Archive(stem, store))])
    english = "en" if config.source.task.name in known_tasks() else "und"
    kept = {} if before is None else {"license": before.license, "language": before.language}
    given = {"license": license_, "language": language}
    facts = Facts(
        file=file.name,
        sha256=digest,
        content=_content(found, config, store, before),
        evaluations=evaluations_of(config, known),
        beside=beside(config, known),
        transfers=transfers(config, known),
        selection=history(config, found.about, known),
        test_reads=reads_of_test(config.source, known) if known else None,
        **{"language": english} | kept | {name: value for name, value in given.items() if value is not None},
    )
    if before is None:
        return facts
    old = [
        "audit",
        "looks_like",
        *(["evaluations", "beside", "transfers", "selection", "test_reads"] if not facts.evaluations else []),
    ]
    return facts.model_copy(update={name: getattr(before, name) for name in old})


def config_of(found: DistilledSet) -> Distill:
    """The config that a set was made by.

    Raises:
        InputError: it is of another version.

    """
    try:
        return Distill.model_validate(found.about["config"])
    except (KeyError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the set's config is of another version ({reason}); use the one that made it") from error


def _refuse_twin(config: Distill, store: Store, digest: str) -> None:
    """Refuses a store whose own set of this config is another file: what it scored is not this one's.

    Raises:
        InputError: it is.

    """
    try:
        own = store.cell(config).folder / "distilled.h5"
    except InputError:  # the data are not here, so that the store cannot be asked
        return
    if own.is_file() and sha256_of(own) != digest:
        raise InputError(
            f"{own}: was made by the same config and is another set (sha256 differs), so that scores in {store.root} "
            f"are not this file's; give its own store, or an empty one: --root"
        )


def _content(found: DistilledSet, config: Distill, store: Store, before: Facts | None) -> dict[str, Any]:
    """What data and encoder counted as: as the set says, or its earlier card, or as they count now."""
    if "content" in found.about:
        return dict(found.about["content"])
    if before is not None and before.content:
        return before.content
    try:
        return dict(store.identity(config.source)["config"])
    except InputError:
        return {}
