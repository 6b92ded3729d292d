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

    with explained(kind, name):
        sha = HfApi(token=os.environ.get("HF_TOKEN")).repo_info(name, repo_type=kind, revision=asked).sha
    return str(sha)


@contextmanager
def explained(kind: str, name: str) -> Iterator[None]:
    """Turns the hub's exceptions into one sentence that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise InputError(
            f"hub {kind} {name}: access is gated; accept its terms on the hub, then set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"hub {kind} {name}: no such revision; leave `revision` out to take the newest") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"hub {kind} {name}: no such repository, or it is private; check the id, or set HF_TOKEN"
        ) from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, ConnectionError, OSError) as error:
        raise InputError(
            f"hub {kind} {name}: not reachable ({type(error).__name__}); run stage 1 on a machine with network "
            f"(and without HF_HUB_OFFLINE), or give a local path"
        ) from error
