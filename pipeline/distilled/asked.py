"""Texts whose class somebody asks for, as a tokenizer takes them."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import InputError


def in_chunks(texts: Sequence[str | tuple[str, str]], columns: Sequence[str], size: int) -> list[list[list[str]]]:
    """Texts in the task's columns (one, or two of a pair task), cut into chunks.

    Args:
        texts: sentences, or (first, second) pairs.
        columns: of the task that a set was made for; none where it is not known.
        size: texts per chunk.

    Raises:
        InputError: one text instead of a list, texts and pairs mixed, or the one where the task has the other; or
            something that is no text, such as the NaN of an empty cell.

    """
    for number, text in enumerate(texts):
        parts = text if isinstance(text, tuple | list) else (text,)
        if not all(isinstance(part, str) for part in parts):
            raise InputError(f"predict takes texts: number {number} is {text!r}; leave it out, or give ''")
    widths = {1 if isinstance(text, str) else len(text) for text in texts}
    if isinstance(texts, str) or len(widths) > 1:
        raise InputError("predict takes a list of texts, or a list of (first, second) pairs: [text], not text")
    if columns and widths - {len(columns)}:
        what = "single texts" if len(columns) == 1 else "pairs"
        raise InputError(f"this set is of {what} ({', '.join(columns)}): give predict a list of {what}")
    rows = [(text,) if isinstance(text, str) else text for text in texts]
    return [
        [list(column) for column in zip(*rows[start : start + size], strict=True)]
        for start in range(0, len(rows), size)
    ]
