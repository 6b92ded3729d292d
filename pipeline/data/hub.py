"""The Hugging Face hub: a reference resolved to a commit once, and its errors as sentences."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import InputError


def resolve_revision(kind: str, name: str, asked: str | None) -> str:
    """The commit hash that ``name`` at ``asked`` (a branch, a tag, or ``None`` for main) means now.

    Args:
        kind: "dataset" or "model".
        name: hub id.
        asked: branch or tag.

    Raises:
        InputError: no such repository or revision, no access, or no network.

    """
    from huggingface_hub import HfApi

    with explained(kind, name, asked):
        sha = HfApi(token=os.environ.get("HF_TOKEN")).repo_info(name, repo_type=kind, revision=asked).sha
    return str(sha)


@contextmanager
def explained(kind: str, name: str, revision: str | None = None) -> Iterator[None]:
    """Turns the hub's exceptions into one sentence that says what to do; others pass through unchanged.

    The libraries on top of the hub wrap its exceptions in their own, so the whole chain of causes is looked at.

    Raises:
        InputError: the hub refused, does not have it, or cannot be reached.

    """
    try:
        yield
    except Exception as error:
        problem = _problem(error, revision)
        if problem is None:
            raise
        absent = "" if os.path.exists(name) else f" (there is no file or folder {name} here)"
        raise InputError(f"hub {kind} {name}: {problem}{absent}") from error


def _problem(error: Exception, revision: str | None) -> str | None:
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import errors

    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    http = errors.HTTPError  # type: ignore[attr-defined]  # of the HTTP library that this version of the hub's uses
    unreachable = (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, http, ConnectionError)
    for kinds, sentence in (
        (errors.GatedRepoError, "access is gated; accept its terms on the hub, then set HF_TOKEN"),
        (errors.RevisionNotFoundError, f"no such revision '{revision}'; leave `revision` out to take the newest"),
        # datasets does not always chain what the hub said
        (
            (errors.RepositoryNotFoundError, DatasetNotFoundError),
            "no such repository, or it is private; check the id, or set HF_TOKEN",
        ),
        # a file that some repositories have and this one lacks is nothing to do with the network
        (errors.RemoteEntryNotFoundError, None),
        (
            unreachable,
            f"not reachable ({type(chain[0]).__name__}); run stage 1 on a machine with network "
            f"(and without HF_HUB_OFFLINE), or give a local path",
        ),
    ):
        if any(isinstance(link, kinds) for link in chain):
            return sentence
    return None
