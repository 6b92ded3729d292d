"""Files that are whole or absent: written aside, flushed to disk, moved into place."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import StageError

_UMASK = os.umask(0o077)  # read once: there is no way to ask without setting it, which holds for all threads
os.umask(_UMASK)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; moves it into place when the block ends well.

    Until then, and when the block fails, whatever stood at ``path`` is untouched.

    Raises:
        StageError: the disk is full or the quota used up, or the folder is not this user's to write to.

    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        if not is_forbidden(error):
            raise
        raise forbidden(path.parent, error) from error
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(aside, 0o666 & ~_UMASK)
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        if is_full(error):
            raise StageError(
                f"{path}: no space left on the disk; what was there is unchanged: free some and run again"
            ) from error
        raise
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def is_forbidden(error: OSError) -> bool:
    """Whether a place is somebody else's, or can only be read."""
    return error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


def forbidden(folder: Path, error: OSError) -> StageError:
    """The sentence for the user who may not write to ``folder``."""
    return StageError(
        f"{folder} cannot be written from here ({error.strerror}); ask its owner to let the group write "
        f"(sbatch/README.md), or give another place: --root, or root and logs in the cluster's file"
    )


def is_full(error: OSError) -> bool:
    """Whether the disk is full or the quota used up (HDF5 says it in words only)."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as the whole content of ``path``, atomically."""
    with replacing(path) as aside:
        aside.write_text(text)


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in ``path``, or ``None`` where there is no such file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
